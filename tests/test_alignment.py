"""Whether images lie along a model's gradient: the formula, natural images, attacked ones, and models without a gradient."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from made_up import twosample
from torch import nn

from wellcheck import traffic
from wellcheck.embeddings.alignment import Spectrum
from wellcheck.embeddings.named_layers import capture_layers, choose_layers
from wellcheck.errors import InputError
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


def test_in_white_noise_it_is_the_cosine_of_image_and_gradient() -> None:
    rng = np.random.default_rng(0)
    weights, pixels = rng.standard_normal((2, 3, 17, 16)).astype(np.float32), rng.random((7, 3, 17, 16)).astype(np.float32)
    found = white(17, 16, 3).alignment(linear(weights), torch.from_numpy(pixels)).numpy()
    away, image = (weights[0] - weights[1]).ravel(), pixels.reshape(7, -1) - 0.5
    sign = np.where(pixels.reshape(7, -1) @ away > 0, 1, -1)
    chances = sign * (image @ away) / (np.linalg.norm(image, axis=1) * np.linalg.norm(away)) * np.sqrt(away.size)
    np.testing.assert_allclose(found[:, 0], np.sign(chances) * np.log1p(np.abs(chances)), rtol=1e-4, atol=1e-5)
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
    found = chances(spectrum.alignment(linear(smooth), pixels))
    assert 0.5 < found < 2
    assert chances(white(16, 16, channels).alignment(linear(smooth), pixels)) > 2 * found


@pytest.mark.parametrize("channels", [1, 3])
def test_attacked_images_lie_along_it_and_noisy_ones_do_not(channels: int) -> None:
    weights = np.random.default_rng(1).standard_normal((2, channels, 16, 16)).astype(np.float32)
    spectrum, images = Spectrum.of(natural(400, seed=2, channels=channels), CPU), natural(400, seed=3, channels=channels)
    classifier = linear(weights)
    attacked, noisy = (
        torch.from_numpy(traffic.make(Kind(name, size), classifier, images, twosample(steps=5), CPU))
        for name, size in (("pgd", 0.05), ("gaussian_noise", 0.05))
    )
    usual = spectrum.alignment(classifier, torch.from_numpy(images).float() / 255).abs().quantile(0.95, dim=0)
    beyond, noise_beyond = ((spectrum.alignment(classifier, one).abs() > usual).float().mean(0) for one in (attacked, noisy))
    assert beyond.min() > 0.9
    assert noise_beyond.max() < 0.3


def test_an_attacker_who_knows_of_it_hides_in_low_frequencies() -> None:
    weights = natural(2, seed=4).astype(np.float32) / 255 + np.random.default_rng(1).standard_normal((2, 3, 16, 16)).astype(np.float32)
    spectrum, images = Spectrum.of(natural(400, seed=2), CPU), natural(400, seed=3)
    found = {
        name: chances(
            spectrum.alignment(linear(weights), torch.from_numpy(traffic.make(Kind(name, 0.05), linear(weights), images, twosample(), CPU)))
        )
        for name in ("fgsm", "low_frequency")
    }
    usual = chances(spectrum.alignment(linear(weights), torch.from_numpy(images).float() / 255))
    assert found["fgsm"] > 3 * usual
    assert found["low_frequency"] < 1.5 * usual


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e4, 1e12])
def test_how_sure_the_model_is_makes_no_difference(scale: float) -> None:
    weights = np.random.default_rng(1).standard_normal((4, 3, 16, 16)).astype(np.float32)
    weights[2:] = weights[:2]  # so that how the others share what is left does not hang on the scale
    spectrum, pixels = Spectrum.of(natural(50, seed=2), CPU), torch.from_numpy(natural(20, seed=3)).float() / 255
    few = spectrum.alignment(linear(weights[:2]), pixels)
    torch.testing.assert_close(spectrum.alignment(linear(weights[:2] * np.float32(scale)), pixels), few, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("weights", [np.zeros((2, 3, 16, 16), np.float32), np.ones((1, 3, 16, 16), np.float32)])
def test_without_a_gradient_it_is_zero(weights: np.ndarray) -> None:
    spectrum, pixels = Spectrum.of(natural(10, seed=2), CPU), torch.from_numpy(natural(5, seed=3)).float() / 255
    assert (spectrum.alignment(linear(weights), pixels) == 0).all()


def test_a_gradient_that_is_no_number_is_an_error() -> None:
    weights = np.full((2, 3, 16, 16), np.inf, np.float32)
    spectrum, pixels = Spectrum.of(natural(10, seed=2), CPU), torch.from_numpy(natural(5, seed=3)).float() / 255
    with pytest.raises(InputError, match="the gradient of 5 of 5 images is not finite"):
        spectrum.alignment(linear(weights), pixels)


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
    assert spectrum.alignment(linear(weights), torch.from_numpy(images()).float() / 255).isfinite().all()


def test_as_a_layer() -> None:
    classifier = build(ModelDescription("deep_cnn", ("a", "b", "c"), (3, 16, 16)), seed=0).eval()
    spectrum, images = Spectrum.of(natural(50, seed=2), CPU), natural(20, seed=3)
    names = choose_layers(classifier, ["alignment", "penultimate"], CPU)
    assert names == ["penultimate", "alignment"]
    found = capture_layers(classifier, images, names, pooling="pooled", device=CPU, title="t", spectrum=spectrum)
    expected = spectrum.alignment(classifier, torch.from_numpy(images).float() / 255)
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
