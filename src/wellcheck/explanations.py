"""What is explained of a classifier, by which methods and beside which controls; the methods themselves stand in attributions.py."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from wellcheck import attributions
from wellcheck.disparity import Confusion, confused_pairs
from wellcheck.errors import InputError
from wellcheck.metrics import Interval, confusion_matrix
from wellcheck.models import Classifier
from wellcheck.params import Explain
from wellcheck.predictions import Predictions
from wellcheck.samples import Samples, in_turns

SEVENTH = 7  # of the side: the default of patch and border
PAIR_IMAGES = 2  # of each confused pair, the model's surest mistakes
LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # of red, green and blue: ITU-R BT.601
BASELINES = ("integrated_gradients", "integrated_gradients_mean")  # from black, and from the mean training image

Maps = dict[str, np.ndarray]


@dataclass(frozen=True)
class Sizes:
    """In pixels."""

    patch: int
    stride: int
    border: int


def sizes(settings: Explain, height: int, width: int) -> Sizes:
    """What the settings mean for images of this size. Raises InputError naming the parameter that does not fit."""
    side = min(height, width)
    seventh = max(1, round(side / SEVENTH))
    patch = seventh if settings.patch is None else settings.patch
    stride = max(1, patch // 2) if settings.stride is None else settings.stride
    border = min(seventh, max(1, (side - 1) // 2)) if settings.border is None else settings.border
    for name, found, most in (("patch", patch, side), ("stride", stride, patch), ("border", border, (side - 1) // 2)):
        if found > most:
            raise InputError(f"explain.{name}: found {found}, expected at most {most} for images of {height}×{width} pixels")
    return Sizes(patch, stride, border)


@dataclass(frozen=True)
class Shown:
    """What is explained: a row of the test set, and the class whose logit it is about. An image of a pair is explained for both classes."""

    rows: np.ndarray  # int64 [n]
    explained: np.ndarray  # int64 [n]
    pair: np.ndarray  # int64 [n]: the number of the confused pair; -1 of an example of its class


def choose(labels: np.ndarray, predicted: Predictions, classes: int, settings: Explain) -> tuple[Shown, list[Confusion]]:
    """Of labels int64 [N]: images that are answered rightly, the classes in turn, and the surest mistakes of the pairs confused most."""
    right = np.flatnonzero(predicted.labels == labels)
    right = right[in_turns(labels[right], settings.seed)][: settings.images]
    right = right[np.argsort(labels[right], kind="stable")]
    pairs = confused_pairs(confusion_matrix(labels, predicted.labels, classes), settings.pairs)
    rows, explained, number = [right], [labels[right]], [np.full(len(right), -1)]
    for place, pair in enumerate(pairs):
        mistakes = np.flatnonzero((labels == pair.label) & (predicted.labels == pair.taken_for))
        surest = mistakes[np.argsort(-predicted.confidences[mistakes], kind="stable")][:PAIR_IMAGES]
        rows.append(np.repeat(surest, 2))
        explained.append(np.tile([pair.label, pair.taken_for], len(surest)))
        number.append(np.full(2 * len(surest), place))
    return Shown(*(np.concatenate(parts).astype(np.int64) for parts in (rows, explained, number))), pairs


@dataclass(frozen=True)
class Subjects:
    """Whose answers are explained."""

    trained: Classifier
    untrained: Classifier  # the control: what a method shows of it is no knowledge
    states: Sequence[Classifier]  # of the trained one while it learnt


@dataclass(frozen=True)
class Methods:
    """Everything that a map hangs on besides the model and the image."""

    sizes: Sizes
    steps: int
    mean: np.ndarray  # uint8 [C, H, W]: the mean training image
    device: torch.device

    def maps(self, classifier: Classifier, images: np.ndarray, labels: np.ndarray, states: Sequence[Classifier] = ()) -> Maps:
        """Every method on images uint8 [N, C, H, W], for the logits of labels int64 [N]; loss gradients where there are states."""
        asked = (classifier, images, labels, self.device)
        gradients = attributions.gradient_times_input(*asked)
        occluded = attributions.occlusion(*asked, patch=self.sizes.patch, stride=self.sizes.stride)
        found = {
            "gradient_times_input": gradients,
            "occlusion": occluded,
            "occlusion_times_gradient": attributions.occlusion_times_gradient(occluded, gradients),
        }
        for name, baseline in zip(BASELINES, (None, self.mean), strict=True):
            found[name] = attributions.integrated_gradients(*asked, baseline=baseline, steps=self.steps)
        if states:
            found["loss_gradients"] = attributions.loss_gradients(states, images, labels, self.device)
        return found

    def beside(self, subjects: Subjects, images: np.ndarray, labels: np.ndarray) -> dict[str, Maps]:
        """The maps of the trained and of the untrained model; of loss gradients the latter has one state."""
        return {
            "trained": self.maps(subjects.trained, images, labels, subjects.states),
            "untrained": self.maps(subjects.untrained, images, labels, [subjects.untrained] if subjects.states else []),
        }

    def completeness(
        self, classifier: Classifier, images: np.ndarray, labels: np.ndarray, maps: Mapping[str, np.ndarray]
    ) -> dict[str, Any]:
        """How far integrated gradients are from adding up to the logit's difference, by baseline."""
        figures = {}
        for name, baseline in zip(BASELINES, (None, self.mean), strict=True):
            gap, difference = attributions.completeness(classifier, images, labels, maps[name], self.device, baseline=baseline)
            figures[name] = {
                "largest_gap": float(np.abs(gap).max(initial=0)),
                "mean_gap": float(np.abs(gap).mean()) if len(gap) else None,
                "mean_difference": float(np.abs(difference).mean()) if len(gap) else None,
            }
        return figures


def measure(methods: Methods, subjects: Subjects, some: Samples, confidence: float) -> dict[str, Any]:
    """Figures over some samples, explained for the labels that they have: border shares, and whether integrated gradients add up."""
    classes, width = len(some.description.class_names), methods.sizes.border
    height, across = some.images.shape[2:]
    maps = methods.beside(subjects, some.images, some.labels)
    return {
        "measured": len(some),
        "border": {
            "width": width,
            "area": border_area(height, across, width),
            **{name: border_shares(found, some.labels, classes, width=width, confidence=confidence) for name, found in maps.items()},
        },
        "completeness": methods.completeness(subjects.trained, some.images, some.labels, maps["trained"]),
    }


def mean_image(images: np.ndarray) -> np.ndarray:
    """The mean of images uint8 [N, C, H, W], N ≥ 1, as an image uint8 [C, H, W]."""
    mean: np.ndarray = images.mean(0, dtype=np.float64).round().astype(np.uint8)
    return mean


def border_shares(maps: Mapping[str, np.ndarray], labels: np.ndarray, classes: int, *, width: int, confidence: float) -> dict[str, Any]:
    """By method: the mean share of |attribution| within so many pixels of the edge, with its interval, and per class of labels int64 [N].

    An image whose map is all zeros has no share and is left out; a mean over none is None.
    """
    return {name: _shares(attributions.border_share(found, width=width), labels, classes, confidence) for name, found in maps.items()}


def _shares(shares: np.ndarray, labels: np.ndarray, classes: int, confidence: float) -> dict[str, Any]:
    known = ~np.isnan(shares)
    return {
        "images": int(known.sum()),
        "mean": _mean(shares[known]),
        "interval": _interval(shares[known], confidence),
        "per_class": [_mean(shares[known & (labels == label)]) for label in range(classes)],
    }


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def _interval(values: np.ndarray, confidence: float) -> Interval | None:
    """Student's interval of a mean; None of fewer than two values."""
    if len(values) < 2:
        return None
    from scipy.stats import t  # as in metrics.py: most stages do without

    reach = float(t.ppf((1 + confidence) / 2, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5)
    return [float(values.mean()) - reach, float(values.mean()) + reach]


def border_area(height: int, width: int, border: int) -> float:
    """The share of an image's pixels that lie on its border: what a map that is the same everywhere would have there."""
    return 1 - (height - 2 * border) * (width - 2 * border) / (height * width)


def in_grey(known: Samples) -> Samples:
    """The same samples with their luminance in all three channels. Raises InputError if they have no colours."""
    if known.images.shape[1] != 3:
        raise InputError(f"explain.grey: found true, but the images have {known.images.shape[1]} channel and no colours to leave out")
    grey = np.einsum("nchw,c->nhw", known.images, LUMINANCE).round().astype(np.uint8)
    images = np.repeat(grey[:, None], 3, axis=1)
    return Samples(known.sample_id, images, known.labels, known.description)
