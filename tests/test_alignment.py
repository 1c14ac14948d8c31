"""Whether images lie along a model's gradient: the formula, natural images, attacked ones, and models without a gradient."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from made_up import twosample
from scipy.ndimage import gaussian_filter
from torch import nn

from wellcheck import traffic
from wellcheck.embeddings.alignment import Spectrum
from wellcheck.embeddings.named_layers import capture_layers, choose_layers
from wellcheck.errors import InputError
from wellcheck.gradients import blurred
from wellcheck.metrics import ranking
from wellcheck.models import Classifier, ModelDescription, build
from wellcheck.traffic import Kind
from wellcheck.watch import Watch

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")


def natural(count: int, *, seed: int, channels: int = 3, side: int = 16) -> np.ndarray:
    """Images with the 1/f amplitudes of natural ones, uint8; the channels vary together, as colours do."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)[None])
    amplitude = 1 / np.maximum(frequency, 0.5 / side)
    common, own = rng.standard_normal((count, 1, side, side)), rng.standard_normal((count, channels, side, side))
    pictures = np.fft.ifft2(np.fft.fft2(common + 0.3 * own) * amplitude).real
    found: np.ndarray = (128 + 40 * pictures / pictures.std()).clip(0, 255).round().astype(np.uint8)
    return found


def linear(weights: np.ndarray) -> Classifier:
    """A network that answers by products with weights [K, C, H, W]."""
    classes = tuple("abcdef"[: len(weights)])
    classifier = build(ModelDescription("two_conv_cnn", classes, weights.shape[1:]), seed=0)
    classifier.network.body = nn.Flatten()
    classifier.network.head = nn.Linear(weights[0].size, len(weights), bias=False)
    with torch.no_grad():
        classifier.network.head.weight.copy_(torch.from_numpy(weights.reshape(len(weights), -1)))
    return classifier.eval()


def white(height: int, width: int, channels: int) -> Spectrum:
    """That of white noise, of which every pixel counts."""
    whitening = torch.eye(channels, dtype=torch.complex64).expand(height, width, channels, channels)
    return Spectrum(torch.full((channels, 1, 1), 0.5), torch.ones(height, width), whitening)


def aligned(spectrum: Spectrum, classifier: Classifier, pixels: torch.Tensor) -> torch.Tensor:
    """Of the answers that the classifier gives."""
    with torch.no_grad():
        return spectrum.alignment(classifier, pixels, classifier(pixels).argmax(1, keepdim=True))


def expected(gradients: np.ndarray, images: np.ndarray) -> np.ndarray:
    """In white noise: the signed logarithm of the cosine of both, float [n, C, H, W], divided by how rough the image is about a pixel."""
    image = images - 0.5
    rough = np.sqrt(gaussian_filter((image**2).mean(1, keepdims=True), (0, 0, 1, 1), mode="mirror", radius=(0, 0, 3, 3))) + 0.03
    one, other = ((values / rough).reshape(len(images), -1) for values in (gradients, image))
    cosine = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1) * np.sqrt(one.shape[1])
    return np.asarray(np.sign(cosine) * np.log1p(np.abs(cosine)))


def test_in_white_noise_it_is_the_cosine_of_image_and_gradient() -> None:
    rng = np.random.default_rng(0)
    weights, pixels = rng.standard_normal((2, 3, 17, 16)).astype(np.float32), rng.random((7, 3, 17, 16)).astype(np.float32)
    found = aligned(white(17, 16, 3), linear(weights), torch.from_numpy(pixels)).numpy()
    away = weights[0] - weights[1]
    towards = np.where((pixels * away).sum((1, 2, 3)) > 0, 1, -1)[:, None, None, None] * away
    np.testing.assert_allclose(found[:, 0], expected(towards, pixels), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found[:, 1], found[:, 0], rtol=1e-4, atol=1e-5)  # the gradient is the same everywhere


def chances(found: torch.Tensor) -> float:
    """The root mean square of cosines in units of chance."""
    return float(found[:, 0].abs().expm1().square().mean().sqrt())


@pytest.mark.parametrize("channels", [1, 3])
def test_natural_images_lie_along_a_gradient_by_chance_only(channels: int) -> None:
    """Also along one that is as smooth as they are, which unwhitened they do far more than by chance."""
    spectrum, images = Spectrum.of(natural(400, seed=2, channels=channels), CPU), natural(400, seed=3, channels=channels)
    smooth = natural(2, seed=4, channels=channels).astype(np.float32) / 255
    pixels = torch.from_numpy(images).float() / 255
    found = chances(aligned(spectrum, linear(smooth), pixels))
    assert 0.5 < found < 2
    assert chances(aligned(white(16, 16, channels), linear(smooth), pixels)) > 2 * found


@pytest.mark.parametrize("channels", [1, 3])
def test_attacked_images_lie_along_it_and_noisy_ones_do_not(channels: int) -> None:
    weights = np.random.default_rng(1).standard_normal((2, channels, 16, 16)).astype(np.float32)
    spectrum, images = Spectrum.of(natural(400, seed=2, channels=channels), CPU), natural(400, seed=3, channels=channels)
    classifier = linear(weights)
    attacked, noisy = (
        torch.from_numpy(traffic.make(Kind(name, size), classifier, images, twosample(steps=5), CPU))
        for name, size in (("pgd", 0.05), ("gaussian_noise", 0.05))
    )
    usual = aligned(spectrum, classifier, torch.from_numpy(images).float() / 255).abs().quantile(0.95, dim=0)
    beyond, noise_beyond = ((aligned(spectrum, classifier, one).abs() > usual).float().mean(0) for one in (attacked, noisy))
    assert beyond.min() > 0.9
    assert noise_beyond.max() < 0.3


def test_an_attacker_who_knows_of_it_hides_in_low_frequencies() -> None:
    weights = natural(2, seed=4).astype(np.float32) / 255 + np.random.default_rng(1).standard_normal((2, 3, 16, 16)).astype(np.float32)
    spectrum, images = Spectrum.of(natural(400, seed=2), CPU), natural(400, seed=3)
    found = {
        name: chances(
            aligned(spectrum, linear(weights), torch.from_numpy(traffic.make(Kind(name, 0.05), linear(weights), images, twosample(), CPU)))
        )
        for name in ("fgsm", "low_frequency")
    }
    usual = chances(aligned(spectrum, linear(weights), torch.from_numpy(images).float() / 255))
    assert found["fgsm"] > 3 * usual
    assert found["low_frequency"] < 1.5 * usual


class Squares(nn.Module):
    """Every value squared: a product with it has a gradient that is known everywhere."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1) ** 2


def test_the_second_is_along_the_gradient_of_the_same_answer_at_the_blurred_image() -> None:
    rng = np.random.default_rng(0)
    weights, pixels = rng.standard_normal((2, 3, 16, 17)).astype(np.float32), rng.random((40, 3, 16, 17)).astype(np.float32)
    classifier = linear(weights)
    classifier.network.body = Squares()
    found = aligned(white(16, 17, 3), classifier, torch.from_numpy(pixels)).numpy()
    smooth = gaussian_filter(pixels, (0, 0, 0.8, 0.8), mode="mirror", radius=(0, 0, 2, 2))
    away = weights[0] - weights[1]
    for column, at in enumerate((pixels, smooth)):
        first = (pixels**2 * away).sum((1, 2, 3)) > 0
        gradient = np.where(first, 1, -1)[:, None, None, None] * 2 * away * at
        np.testing.assert_allclose(found[:, column], expected(gradient, pixels), rtol=2e-3, atol=2e-3)
    assert ((smooth**2 * away).sum((1, 2, 3)) > 0).tolist() != first.tolist()  # of some the blurred image is answered otherwise


def test_the_jump_from_one_edge_to_the_other_is_no_part_of_the_spectrum() -> None:
    """Ramps have low frequencies only; taken as if they went on from the other edge, they have all."""
    ramps = np.random.default_rng(0).integers(-120, 120, (50, 1, 1, 1)) * np.linspace(-0.5, 0.5, 32) + 128
    images = np.broadcast_to(ramps, (50, 1, 32, 32)).round().astype(np.uint8)
    power = float(Spectrum.of(images, CPU).whitening[0, 16, 0, 0].abs() ** -2)
    as_they_are = float((np.abs(np.fft.fft2(images / 255 - images.mean() / 255, norm="ortho")[:, 0, 0, 16]) ** 2).mean())
    assert power < 0.02 * as_they_are


def test_the_spectrum_of_many_images_is_that_of_all() -> None:
    images = natural(300, seed=0, side=16)
    whole, pixels = Spectrum.of(images, CPU), images / np.float64(255)
    torch.testing.assert_close(whole.mean[:, 0, 0], torch.from_numpy(pixels.mean((0, 2, 3))).float())
    seen = np.fft.fft2((pixels - pixels.mean((0, 2, 3))[:, None, None]) * whole.window.numpy(), norm="ortho")
    white = np.einsum("hwcd,ndhw->nhwc", whole.whitening.numpy(), seen)
    left = np.einsum("nhwc,nhwd->hwcd", white, white.conj()) / len(images)
    assert np.abs(left - np.eye(3)).max() < 0.05  # but for what rounding adds


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 16, 17), (1, 17, 20)])
def test_any_shape(shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, *shape), np.uint8)
    found = aligned(Spectrum.of(images, CPU), linear(rng.standard_normal((2, *shape)).astype(np.float32)), torch.from_numpy(images) / 255)
    assert found.shape == (20, 2) and found.isfinite().all()


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1, 5), (2, 2, 2), (1, 3, 40)])
def test_blurring_knows_the_smallest_maps(shape: tuple[int, int, int]) -> None:
    maps = torch.rand(4, *shape)
    assert blurred(maps, 2.0).shape == maps.shape
    torch.testing.assert_close(blurred(torch.ones(4, *shape), 2.0), torch.ones(4, *shape))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_caller_without_gradients_gets_the_same(mode: Callable[[], Any]) -> None:
    classifier = build(ModelDescription("deep_cnn", ("a", "b", "c"), (3, 16, 16)), seed=0).eval()
    spectrum, images = Spectrum.of(natural(20, seed=2), CPU), natural(5, seed=3)

    def seen() -> np.ndarray:
        return capture_layers(classifier, images, ["alignment"], pooling="pooled", device=CPU, title="t", spectrum=spectrum).layers[
            "alignment"
        ]

    expected = seen()
    with mode():
        np.testing.assert_array_equal(seen(), expected)


class Remembers(nn.Module):
    """Makes something on its first pass and keeps it, as networks with positions do."""

    def __init__(self) -> None:
        super().__init__()
        self.alignment = nn.Linear(3 * 16 * 16, 4)
        self.kept: torch.Tensor | None = None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.kept is None:
            self.kept = torch.ones(1, 3 * 16 * 16) * 2
        out: torch.Tensor = self.alignment((images.flatten(1) * self.kept).sigmoid() * self.kept)
        return out


def test_a_network_that_remembers_its_first_pass_and_has_a_module_of_the_same_name() -> None:
    classifier = build(ModelDescription("two_conv_cnn", ("a", "b"), (3, 16, 16)), seed=0)
    classifier.network.body, classifier.network.head = Remembers(), nn.Linear(4, 2)
    classifier.eval()
    images = natural(60, seed=2)
    watch = Watch.over(classifier, images, twosample(layers=["alignment", "penultimate"]), CPU)
    assert watch.layers == ["penultimate", "alignment"]
    assert watch.natural.layers["alignment"].shape[1] == 2
    (found,) = watch.alarms(watch.natural, [0.0], 0.95)
    assert set(found["layers"]) == {"penultimate", "alignment"}


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e4, 1e12])
def test_how_sure_the_model_is_makes_no_difference(scale: float) -> None:
    weights = np.random.default_rng(1).standard_normal((4, 3, 16, 16)).astype(np.float32)
    weights[2:] = weights[:2]  # so that how the others share what is left does not hang on the scale
    spectrum, pixels = Spectrum.of(natural(50, seed=2), CPU), torch.from_numpy(natural(20, seed=3)).float() / 255
    few = aligned(spectrum, linear(weights[:2]), pixels)
    torch.testing.assert_close(aligned(spectrum, linear(weights[:2] * np.float32(scale)), pixels), few, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("weights", [np.zeros((2, 3, 16, 16), np.float32), np.ones((1, 3, 16, 16), np.float32)])
def test_without_a_gradient_it_is_zero(weights: np.ndarray) -> None:
    spectrum, pixels = Spectrum.of(natural(10, seed=2), CPU), torch.from_numpy(natural(5, seed=3)).float() / 255
    assert (aligned(spectrum, linear(weights), pixels) == 0).all()


def test_a_gradient_that_is_no_number_is_an_error() -> None:
    weights = np.full((2, 3, 16, 16), np.inf, np.float32)
    spectrum, pixels = Spectrum.of(natural(10, seed=2), CPU), torch.from_numpy(natural(5, seed=3)).float() / 255
    with pytest.raises(InputError, match="the gradient of 5 of 5 images is not finite"):
        aligned(spectrum, linear(weights), pixels)


@pytest.mark.parametrize(
    "images",
    [
        lambda: np.full((4, 3, 16, 16), 7, np.uint8),  # all alike
        lambda: natural(1, seed=0),
        lambda: natural(3, seed=0, channels=1).repeat(3, 1),  # grey in three channels
    ],
)
def test_a_spectrum_of_images_that_hardly_vary_is_finite(images: Callable[[], np.ndarray]) -> None:
    spectrum = Spectrum.of(images(), CPU)
    assert torch.view_as_real(spectrum.whitening).isfinite().all()
    weights = np.random.default_rng(1).standard_normal((2, 3, 16, 16)).astype(np.float32)
    assert aligned(spectrum, linear(weights), torch.from_numpy(images()).float() / 255).isfinite().all()


def test_as_a_layer() -> None:
    classifier = build(ModelDescription("deep_cnn", ("a", "b", "c"), (3, 16, 16)), seed=0).eval()
    spectrum, images = Spectrum.of(natural(50, seed=2), CPU), natural(20, seed=3)
    names = choose_layers(classifier, ["alignment", "penultimate"], CPU)
    assert names == ["penultimate", "alignment"]
    found = capture_layers(classifier, images, names, pooling="pooled", device=CPU, title="t", spectrum=spectrum)
    expected = aligned(spectrum, classifier, torch.from_numpy(images).float() / 255)
    np.testing.assert_allclose(found.layers["alignment"], expected.numpy(), atol=2e-3)  # half precision
    as_shares = capture_layers(
        classifier, images.astype(np.float32) / 255, names, pooling="pooled", device=CPU, title="t", spectrum=spectrum
    )
    np.testing.assert_allclose(as_shares.layers["alignment"], found.layers["alignment"], atol=2e-3)
    with pytest.raises(InputError, match=r"layer alignment: .* no spectrum of them was given"):
        capture_layers(classifier, images, names, pooling="pooled", device=CPU, title="t")


def test_a_watch_sees_a_small_attack_by_it_and_keeps_its_level() -> None:
    classifier = linear(np.random.default_rng(1).standard_normal((2, 3, 16, 16)).astype(np.float32))
    wanted = twosample(layers=["alignment"], samples=40, trials=60, permutations=39, steps=10)
    watch = Watch.over(classifier, natural(200, seed=2), wanted, CPU)
    assert watch.norms == {}  # it is in units of chance as it is
    asked = natural(200, seed=2)[watch.rows]
    seen = watch.see(traffic.make(Kind("pgd", 0.01), classifier, asked, wanted, CPU), "attacked")
    ((quiet,), (loud,)) = watch.alarms(watch.natural, [0.0], 0.95), watch.alarms(seen, [1.0], 0.95)
    assert quiet["combined"] <= 0.2
    assert loud["combined"] >= 0.95
    scored = watch.score(seen)
    assert (ranking(scored.witness, scored.changed)["auroc"] or 0) > 0.9


def test_others_than_natural_images_are_no_part_of_the_spectrum() -> None:
    """Who is asked has no say in what is usual."""
    images = natural(100, seed=2)
    classifier = build(ModelDescription("two_conv_cnn", ("a", "b"), (3, 16, 16)), seed=0).eval()
    watch = Watch.over(classifier, images, twosample(layers=["alignment"]), CPU)
    usual = np.setdiff1d(np.arange(100), watch.rows)
    assert watch.spectrum is not None
    torch.testing.assert_close(watch.spectrum.mean, Spectrum.of(images[usual], CPU).mean)
    changed = images.copy()
    changed[watch.rows] = 255 - changed[watch.rows]
    again = Watch.over(classifier, changed, twosample(layers=["alignment"]), CPU)
    assert again.spectrum is not None
    assert torch.equal(again.spectrum.whitening, watch.spectrum.whitening)


def test_no_stage_waits_for_torchvision_which_takes_seconds() -> None:
    code = "import sys, wellcheck.attributions, wellcheck.survey, wellcheck.training; print('torchvision' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told == "False\n"
