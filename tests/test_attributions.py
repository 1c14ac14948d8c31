"""Attributions: by hand on a linear model, beside captum on a trained one, and what their definitions promise."""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
import torch
from captum.attr import InputXGradient, IntegratedGradients, Occlusion
from torch import nn

from wellcheck import attributions, gradients, models
from wellcheck.errors import InputError
from wellcheck.models import Classifier, ModelDescription
from wellcheck.models.network import Network

CPU = torch.device("cpu")
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (6, 1, 16, 18)).astype(np.uint8)
LABELS = np.array([0, 1, 2, 2, 1, 0])
PIXELS = torch.from_numpy(IMAGES).float() / 255


class Linear(nn.Module):
    """Two logits of 1×2×2 images: the sum of the pixels' weights, and nothing."""

    def __init__(self, weights: list[float]) -> None:
        super().__init__()
        self.register_buffer("weights", torch.tensor(weights))

    @property
    def network(self) -> Network:
        """All of it is the body."""
        return Network(self, nn.Identity())

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """As they are."""
        return images

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logit = images.flatten(1) @ cast(torch.Tensor, self.weights)
        return torch.stack([logit, torch.zeros_like(logit)], 1)


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    description = ModelDescription("two_conv_cnn", ("a", "b", "c"), (1, 16, 18))
    return models.build(description, seed=0).eval()


def linear(*weights: float) -> Classifier:
    return cast(Classifier, Linear([float(weight) for weight in weights]).eval())


WHITE = np.full((1, 1, 2, 2), 255, np.uint8)
FIRST = np.zeros(1, np.int64)


def test_a_linear_model_is_explained_by_its_weights() -> None:
    model, half = linear(1.0, -2.0, 0.0, 4.0), np.array([[[[255, 255], [255, 51]]]], np.uint8)
    expected = np.array([[[[1.0, -2.0], [0.0, 0.8]]]])
    np.testing.assert_allclose(attributions.gradient_times_input(model, half, FIRST, CPU), expected, rtol=1e-6)
    np.testing.assert_allclose(attributions.integrated_gradients(model, half, FIRST, CPU, steps=1), expected, rtol=1e-6)
    np.testing.assert_allclose(attributions.occlusion(model, half, FIRST, CPU, patch=1, stride=1), expected, atol=1e-6)
    np.testing.assert_allclose(attributions.max_normed(expected), expected / 2)


def test_a_pixel_bears_the_mean_of_the_patches_on_it() -> None:
    # 1×3 pixels of weight 1, 2, 3; patches of two pixels lose 3 and 5.
    model, images = linear(1.0, 2.0, 3.0, 1.0, 2.0, 3.0), np.full((1, 1, 2, 3), 255, np.uint8)
    found = attributions.occlusion(model, images, FIRST, CPU, patch=2, stride=1)
    np.testing.assert_allclose(found[0, 0], [[6, 8, 10], [6, 8, 10]], rtol=1e-5)


def test_the_last_patch_ends_with_the_image() -> None:
    model, images = linear(*range(10)), np.full((1, 1, 2, 5), 255, np.uint8)
    found = attributions.occlusion(model, images, FIRST, CPU, patch=2, stride=2)
    # Columns 0–1, 2–3 and 3–4.
    lost = np.array([0 + 1 + 5 + 6, 2 + 3 + 7 + 8, 3 + 4 + 8 + 9])
    np.testing.assert_allclose(found[0, 0, 0], [lost[0], lost[0], lost[1], lost[1:].mean(), lost[2]], rtol=1e-5)


def test_the_sum_of_loss_gradients_over_states_by_hand() -> None:
    states = [linear(1.0, 0.0, 0.0, 0.0), linear(0.0, 2.0, 0.0, 0.0)]
    # d loss / d x = −(1 − p) · w for the label's logit against 0.
    shares = [1 - 1 / (1 + np.exp(-weight)) for weight in (1.0, 2.0)]
    found = attributions.loss_gradients(states, WHITE, FIRST, CPU)
    np.testing.assert_allclose(found.ravel(), [-shares[0], -2 * shares[1], 0, 0], rtol=1e-5)


def test_gradient_times_input_is_captums(classifier: Classifier) -> None:
    theirs = InputXGradient(classifier).attribute(PIXELS.clone().requires_grad_(), target=torch.from_numpy(LABELS))
    np.testing.assert_allclose(attributions.gradient_times_input(classifier, IMAGES, LABELS, CPU), theirs.detach(), atol=1e-6)


@pytest.mark.parametrize("steps", [8, 50])
@pytest.mark.parametrize("light", [0, 128])
def test_integrated_gradients_are_captums(classifier: Classifier, steps: int, light: int) -> None:
    baseline = np.full((1, 16, 18), light, np.uint8)
    theirs = IntegratedGradients(classifier).attribute(
        PIXELS, baselines=torch.from_numpy(baseline)[None].float() / 255, target=torch.from_numpy(LABELS), n_steps=steps
    )
    ours = attributions.integrated_gradients(classifier, IMAGES, LABELS, CPU, baseline=baseline, steps=steps)
    np.testing.assert_allclose(ours, theirs.detach(), atol=1e-6)


@pytest.mark.parametrize(("patch", "stride"), [(4, 2), (3, 1), (2, 2)])
def test_occlusion_is_captums(classifier: Classifier, patch: int, stride: int) -> None:
    window: dict[str, Any] = {"sliding_window_shapes": (1, patch, patch), "strides": (1, stride, stride)}
    theirs = Occlusion(classifier).attribute(PIXELS, target=torch.from_numpy(LABELS), **window)
    ours = attributions.occlusion(classifier, IMAGES, LABELS, CPU, patch=patch, stride=stride)
    np.testing.assert_allclose(ours, theirs.detach(), atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize(
    "settings",
    [{}, {"padding": 2, "bias": False}, {"stride": 2, "padding": 1}, {"dilation": 2, "padding": (0, 1)}, {"padding": "same"}],
)
def test_gradients_by_the_image_are_pytorchs(channels: int, settings: dict[str, Any]) -> None:
    # Convolutions of few channels have a gradient of their own; it must not hang on whether weights ask for gradients, and gives them none.
    model = nn.Sequential(nn.Conv2d(channels, 6, (3, 5), **settings), nn.ReLU(), nn.Conv2d(6, 2, 1), nn.Flatten(), nn.LazyLinear(4)).eval()
    images = torch.rand((3, channels, 11, 14), generator=torch.Generator().manual_seed(0), requires_grad=True)
    (expected,) = torch.autograd.grad(model(images)[:, 1].sum(), images)
    found = gradients.by_image(gradients.answers(cast(Classifier, model), images)[:, 1], images)
    torch.testing.assert_close(found, expected)
    assert all(one.grad is None for one in model.parameters())


def test_patches_that_are_black_already_take_nothing(classifier: Classifier) -> None:
    images = IMAGES.copy()
    images[:, :, :, 7:] = 0
    images[0] = 0
    theirs = Occlusion(classifier).attribute(
        torch.from_numpy(images).float() / 255, target=torch.from_numpy(LABELS), sliding_window_shapes=(1, 4, 4), strides=(1, 2, 2)
    )
    ours = attributions.occlusion(classifier, images, LABELS, CPU, patch=4, stride=2)
    np.testing.assert_allclose(ours, theirs.detach(), atol=1e-5)
    assert ours[1].any() and not ours[0].any() and not ours[:, :, :, 10:].any()


def test_of_nothing_but_black_images_nothing_is_taken(classifier: Classifier) -> None:
    assert not attributions.occlusion(classifier, np.zeros_like(IMAGES), LABELS, CPU, patch=4, stride=2).any()


def test_integrated_gradients_sum_to_what_the_logit_changed(classifier: Classifier) -> None:
    found = attributions.integrated_gradients(classifier, IMAGES, LABELS, CPU, steps=200)
    with torch.inference_mode():
        logits = classifier(PIXELS) - classifier(torch.zeros_like(PIXELS))
    np.testing.assert_allclose(found.sum((1, 2, 3)), logits[range(6), LABELS], atol=2e-3)


@pytest.mark.parametrize("batch", [1, 4, 5])
def test_batches_change_nothing(classifier: Classifier, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def every() -> list[np.ndarray]:
        return [
            attributions.gradient_times_input(classifier, IMAGES, LABELS, CPU),
            attributions.integrated_gradients(classifier, IMAGES, LABELS, CPU, baseline=IMAGES[::-1].copy(), steps=7),
            attributions.occlusion(classifier, IMAGES, LABELS, CPU, patch=5, stride=3),
            attributions.loss_gradients([classifier, classifier], IMAGES, LABELS, CPU),
        ]

    whole = every()
    monkeypatch.setattr(attributions, "BATCH", batch)
    for one, other in zip(whole, every(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_occlusion_times_gradient_by_hand() -> None:
    occluded, gradients = np.array([[[[2.0, -4.0], [0.0, 1.0]]]]), np.array([[[[-5.0, 1.0], [10.0, 0.0]]]])
    np.testing.assert_allclose(attributions.occlusion_times_gradient(occluded, gradients), [[[[0.25, 0.1], [0.0, 0.0]]]])
    assert not attributions.occlusion_times_gradient(np.zeros((1, 1, 2, 2)), gradients).any()


def test_what_is_missing_for_completeness_by_hand() -> None:
    model = linear(1.0, -2.0, 0.0, 4.0)
    maps = attributions.integrated_gradients(model, WHITE, FIRST, CPU, steps=1)
    gap, difference = attributions.completeness(model, WHITE, FIRST, maps + 0.25, CPU)
    np.testing.assert_allclose((gap, difference), [[1.0], [3.0]], atol=1e-5)
    grey = np.full((1, 2, 2), 51, np.uint8)
    gap, difference = attributions.completeness(model, WHITE, FIRST, maps, CPU, baseline=grey)
    np.testing.assert_allclose((gap, difference), [[0.6], [2.4]], atol=1e-5)
    assert [len(part) for part in attributions.completeness(model, WHITE[:0], FIRST[:0], maps[:0], CPU)] == [0, 0]


def test_the_share_on_the_border_by_hand() -> None:
    maps = np.zeros((3, 1, 4, 6), np.float32)
    maps[0, 0, 1, 1], maps[0, 0, 0, 0] = -1, 3
    maps[1, 0, 2, 3] = 2
    np.testing.assert_array_equal(attributions.border_share(maps, width=1), [0.75, 0, np.nan])
    with pytest.raises(InputError, match="the border may be 1 to 1 wide, found 2"):
        attributions.border_share(maps, width=2)


def test_no_images_are_no_error(classifier: Classifier) -> None:
    none: Any = IMAGES[:0], LABELS[:0], CPU
    assert attributions.gradient_times_input(classifier, *none).shape == (0, 1, 16, 18)
    assert attributions.occlusion(classifier, *none, patch=2, stride=1).shape == (0, 1, 16, 18)


@pytest.mark.parametrize("patch", [0, 17])
def test_a_patch_that_does_not_fit_is_named(classifier: Classifier, patch: int) -> None:
    with pytest.raises(InputError, match=rf"images of 16×18 pixels take patches of 1 to 16 pixels, found {patch}"):
        attributions.occlusion(classifier, IMAGES, LABELS, CPU, patch=patch, stride=1)


def test_gradients_that_are_no_numbers_are_counted() -> None:
    with pytest.raises(InputError, match="the gradient of 1 of 1 images is not finite"):
        attributions.gradient_times_input(linear(float("nan"), 0, 0, 0), WHITE, FIRST, CPU)


def test_occlusion_of_a_model_whose_answers_are_no_numbers_is_an_error() -> None:
    with pytest.raises(InputError, match="occlusion: the model's answers to 1 of 1 images are no numbers"):
        attributions.occlusion(linear(float("nan"), 0, 0, 0), WHITE, FIRST, CPU, patch=1, stride=1)


def test_a_stride_that_leaves_pixels_out_is_named(classifier: Classifier) -> None:
    for stride in (0, 5):
        with pytest.raises(InputError, match=f"the stride must be 1 to 4.*found {stride}"):
            attributions.occlusion(classifier, IMAGES, LABELS, CPU, patch=4, stride=stride)


@pytest.mark.parametrize(
    ("images", "labels", "told"),
    [
        (IMAGES, LABELS[:3], "6 images need as many labels from 0 on, found 3"),
        (IMAGES, LABELS - 1, "as many labels from 0 on"),
        (IMAGES, LABELS + 1, "the model has 3 classes, found label 3"),
        (IMAGES.astype(np.float32), LABELS, r"images: pixels must lie in \[0, 1\], found 0 to 25[45]$"),
    ],
)
def test_what_does_not_fit_is_named(classifier: Classifier, images: np.ndarray, labels: np.ndarray, told: str) -> None:
    methods: tuple[Callable[[], np.ndarray], ...] = (
        lambda: attributions.gradient_times_input(classifier, images, labels, CPU),
        lambda: attributions.loss_gradients([classifier], images, labels, CPU),
        lambda: attributions.integrated_gradients(classifier, images, labels, CPU, steps=2),
        lambda: attributions.occlusion(classifier, images, labels, CPU, patch=4, stride=4),
    )
    for method in methods:
        with pytest.raises(InputError, match=told):
            method()


def test_a_model_in_train_mode_is_refused() -> None:
    model = linear(1.0, 0.0, 0.0, 0.0).train()
    with pytest.raises(InputError, match="train mode"):
        attributions.gradient_times_input(model, WHITE, FIRST, CPU)


def test_a_baseline_is_in_range_too(classifier: Classifier) -> None:
    with pytest.raises(InputError, match=r"^images: pixels must lie in \[0, 1\], found 1.5 to 1.5$"):
        attributions.integrated_gradients(classifier, IMAGES, LABELS, CPU, baseline=np.full((1, 16, 18), 1.5), steps=2)
