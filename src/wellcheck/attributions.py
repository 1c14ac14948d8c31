"""Which pixels an answer hangs on: gradient × input, occlusion, integrated gradients, gradients summed over training.

Every method takes images uint8 [N, C, H, W] and the class (int64 [N]) whose logit is explained, and gives float32 [N, C, H, W], signed:
what raises the logit is positive (of `loss_gradients`: what raises the loss). All raise InputError on images that are no bytes, labels that
do not fit, a model in train mode, and gradients that are no numbers.
"""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch

from wellcheck.errors import InputError
from wellcheck.gradients import answers, as_pixels, by_image, ready, together
from wellcheck.local_pass import LocalPass
from wellcheck.models import Classifier

BATCH = 128  # images, or changed copies of them, in one pass: with what a gradient needs of more, caches overflow

Score = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def gradient_times_input(classifier: Classifier, images: np.ndarray, labels: np.ndarray, device: torch.device) -> np.ndarray:
    """∂ logit / ∂ x · x (Shrikumar et al. 2016, arXiv 1605.01713; article A4), x in [0, 1]."""
    maps = [pixels * _gradient(classifier, pixels, chosen) for pixels, chosen in _batches(classifier, images, labels, device)]
    return _gathered(maps, images)


def loss_gradients(classifiers: Iterable[Classifier], images: np.ndarray, labels: np.ndarray, device: torch.device) -> np.ndarray:
    """Σ ∂ loss / ∂ x over a model's states while it learnt (article A4). Negative: more of the pixel would have lowered the loss."""
    total = np.zeros(images.shape, np.float32)
    for classifier in classifiers:
        maps = [_gradient(classifier, pixels, chosen, _loss) for pixels, chosen in _batches(classifier, images, labels, device)]
        total += _gathered(maps, images)
    return total


def integrated_gradients(
    classifier: Classifier, images: np.ndarray, labels: np.ndarray, device: torch.device, *, baseline: np.ndarray | None = None, steps: int
) -> np.ndarray:
    """(x − x′) · ∫ ∂ logit / ∂ x (x′ + α(x − x′)) dα (Sundararajan et al. 2017, arXiv 1703.01365, equation 1).

    The sum over pixels is the logit's difference between x and the baseline x′ (as the images, or one [C, H, W]; black without one),
    as well as so many points of a Gauss–Legendre quadrature tell.
    """
    if steps < 1:
        raise InputError(f"integrated gradients: at least 1 step is needed, found {steps}")
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    path = [(float(node + 1) / 2, float(weight) / 2) for node, weight in zip(nodes, weights, strict=True)]
    start = np.broadcast_to(np.uint8(0) if baseline is None else baseline, images.shape)
    maps, at = [], 0
    for pixels, chosen in _batches(classifier, images, labels, device):
        origin = as_pixels(start[at : at + len(pixels)].copy(), device)  # a copy, for a broadcast array is not writable
        at += len(pixels)
        way, total = pixels - origin, torch.zeros_like(pixels)
        at_once = max(1, together(pixels, BATCH) // len(pixels))
        for part in (path[first : first + at_once] for first in range(0, steps, at_once)):
            points = torch.cat([origin + share * way for share, _ in part])
            slopes = _gradient(classifier, points, chosen.repeat(len(part))).unflatten(0, (len(part), -1))
            total += (slopes * torch.tensor([weight for _, weight in part], device=device)[:, None, None, None, None]).sum(0)
        maps.append(way * total)
    return _gathered(maps, images)


@torch.inference_mode()
def occlusion(
    classifier: Classifier, images: np.ndarray, labels: np.ndarray, device: torch.device, *, patch: int, stride: int
) -> np.ndarray:
    """The logit's mean loss over all black patches on a pixel (after Zeiler and Fergus 2014, arXiv 1311.2901).

    Patches of patch × patch pixels in all channels, a stride apart, the last ones at the far edges. Raises InputError if one does not fit,
    or if a stride leaves pixels out.
    """
    height, width = images.shape[2:]
    if not 1 <= patch <= min(height, width):
        raise InputError(f"occlusion: images of {height}×{width} pixels take patches of 1 to {min(height, width)} pixels, found {patch}")
    if not 1 <= stride <= patch:
        raise InputError(f"occlusion: the stride must be 1 to {patch}, the patch's size, so that no pixel is left out; found {stride}")
    corners = [(row, column) for row in _places(height, patch, stride) for column in _places(width, patch, stride)]
    maps = []
    for pixels, chosen in _batches(classifier, images, labels, device):
        before, local = _logit(classifier(pixels), chosen), LocalPass(classifier, pixels, patch)
        less = torch.zeros(len(corners), len(pixels), device=device)  # a patch that is black already takes nothing: nobody is asked
        lit = torch.stack([_square(pixels, corner, patch).amax((1, 2, 3)) > 0 for corner in corners])
        places_of, rows_of = lit.nonzero(as_tuple=True)
        size = together(pixels, BATCH)
        for start in range(0, len(rows_of), size):
            places, rows = places_of[start : start + size], rows_of[start : start + size]
            changed = local.without(rows, torch.tensor(corners, device=device)[places])
            less[places, rows] = before[rows] - _logit(changed, chosen[rows])
        if not less.isfinite().all():
            broken = int((~less.isfinite()).any(0).sum())
            raise InputError(f"occlusion: the model's answers to {broken} of {len(pixels)} images are no numbers: train it again")
        lost, patches = torch.zeros_like(pixels[:, :1]), torch.zeros_like(pixels[:1, :1])
        for corner, each in zip(corners, less, strict=True):
            _square(lost, corner, patch).add_(each[:, None, None, None])
            _square(patches, corner, patch).add_(1)
        maps.append((lost / patches).expand_as(pixels))
    return _gathered(maps, images)


def _square(images: torch.Tensor, corner: tuple[int, int], side: int) -> torch.Tensor:
    """That part of images [..., H, W], to be changed in place."""
    row, column = corner
    square: torch.Tensor = images[..., row : row + side, column : column + side]
    return square


def occlusion_times_gradient(occluded: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """The product of the max-normed magnitudes of `occlusion` and `gradient_times_input`, in [0, 1] and without a sign (article A4).

    Large only where both are: what the gradient says of single pixels, but not where a whole patch could go without a loss.
    """
    product: np.ndarray = np.abs(max_normed(occluded)) * np.abs(max_normed(gradients))
    return product


@torch.inference_mode()
def completeness(
    classifier: Classifier,
    images: np.ndarray,
    labels: np.ndarray,
    maps: np.ndarray,
    device: torch.device,
    *,
    baseline: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """How far maps of `integrated_gradients` are from adding up: their sum less the logit's difference, and that difference; float32 [N].

    The first is zero but for the quadrature's error (Sundararajan et al. 2017, proposition 1).
    """
    start = np.broadcast_to(np.uint8(0) if baseline is None else baseline, images.shape).copy()
    after, before = (
        np.concatenate([_logit(classifier(pixels), chosen).cpu().numpy() for pixels, chosen in _batches(classifier, some, labels, device)])
        if len(some)
        else np.empty(0, np.float32)
        for some in (images, start)
    )
    difference = after - before
    return maps.sum((1, 2, 3)) - difference, difference


def max_normed(maps: np.ndarray) -> np.ndarray:
    """Each map over its largest absolute value, in [−1, 1]; a map of zeros stays."""
    largest = np.abs(maps).max(axis=(1, 2, 3), keepdims=True)
    scaled: np.ndarray = maps / np.where(largest > 0, largest, 1)
    return scaled


def border_share(maps: np.ndarray, *, width: int) -> np.ndarray:
    """The share of |attribution| within so many pixels of the image's edge, float64 [N]; NaN for a map of zeros.

    Raises InputError if nothing but border is left.
    """
    if not 1 <= width < min(maps.shape[2:]) / 2:
        widest = (min(maps.shape[2:]) - 1) // 2
        raise InputError(f"border_share: in {maps.shape[2]}×{maps.shape[3]} pixels the border may be 1 to {widest} wide, found {width}")
    size = np.abs(maps).astype(np.float64)
    whole, inside = size.sum((1, 2, 3)), size[:, :, width:-width, width:-width].sum((1, 2, 3))
    with np.errstate(invalid="ignore"):
        share: np.ndarray = 1 - inside / np.where(whole > 0, whole, np.nan)
    return share


def _places(length: int, patch: int, stride: int) -> Iterator[int]:
    """Where patches begin, so that the last one ends with the image."""
    yield from range(0, length - patch, stride)
    yield length - patch


def _batches(
    classifier: Classifier, images: np.ndarray, labels: np.ndarray, device: torch.device
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Images in [0, 1] and labels on the device, where the classifier is put too."""
    if len(labels) != len(images) or (len(labels) and labels.min() < 0):
        raise InputError(f"attributions: {len(images)} images need as many labels from 0 on, found {len(labels)}")
    ready(classifier, device)
    size = together(images, BATCH)
    for start in range(0, len(images), size):
        part = slice(start, start + size)
        yield as_pixels(images[part], device), torch.from_numpy(labels[part]).to(device)


def _gathered(maps: list[torch.Tensor], images: np.ndarray) -> np.ndarray:
    return torch.cat(maps).cpu().numpy() if maps else np.zeros(images.shape, np.float32)


def _logit(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    if labels.max() >= logits.shape[1]:
        raise InputError(f"attributions: the model has {logits.shape[1]} classes, found label {int(labels.max())}")
    return logits.float().gather(1, labels[:, None])[:, 0]


def _loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return logits.float().logsumexp(1) - _logit(logits, labels)


def _gradient(classifier: Classifier, pixels: torch.Tensor, labels: torch.Tensor, score: Score = _logit) -> torch.Tensor:
    pixels = pixels.detach().requires_grad_(True)
    return by_image(score(answers(classifier, pixels), labels), pixels)
