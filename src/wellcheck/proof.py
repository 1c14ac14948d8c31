"""Is it gone? What the flagged images carry, put on test images: what the model under suspicion makes of them, and one without the flagged.

Needs nobody's trigger and no truth: this is what is left to whoever was delivered a set and does not know the attacker.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from wellcheck.metrics import proportion_interval
from wellcheck.models import Classifier
from wellcheck.patterns import Pattern, Put
from wellcheck.predictions import predict
from wellcheck.samples import Samples, evenly

TRIED = 400  # images on which the way is chosen
MEASURED = 1000  # others, on which it is measured
BATCH = 128  # changed at once, in single precision
NEARLY = 0.9  # of the share that the most telling way turns: milder ways come first, and spoil less of what an image shows


@dataclass(frozen=True)
class Trial:
    """A label's pattern, and how and on which images it is put."""

    label: int
    way: str  # added, pasted or bent
    put_on: Put
    rows: np.ndarray  # int64 [n] of the test set, none of this label


def trials(
    patterns: Mapping[int, Pattern], test: Samples, suspected: Classifier, answers: np.ndarray, *, device: torch.device
) -> list[Trial]:
    """For every pattern the mildest way that turns nearly as many test images of other labels as any, for the model under suspicion.

    answers: int64 [N], the model's for the test set as it is. Chosen on other images than it is measured on. Labels without test images of
    others have none.
    """
    found = []
    for label, pattern in patterns.items():
        others = np.flatnonzero(test.labels != label)
        others = others[np.argsort(test.labels[others], kind="stable")]  # classes that come in turn would fall on one side each
        tried, measured = evenly(others[::2], TRIED), evenly(others[1::2], MEASURED)
        if len(measured):  # and so some were tried
            ways = pattern.ways(harder=True)
            every = [Trial(label, way, put_on, tried) for way, put_on in ways]
            shares = [_turned(one, test, suspected, answers, device).mean() for one in every]
            mildest = next(one for one, share in zip(every, shares, strict=True) if share >= NEARLY * max(shares))
            found.append(replace(mildest, rows=measured))
    return found


def outcome(
    tried: list[Trial], test: Samples, classifier: Classifier, answers: np.ndarray, *, device: torch.device, confidence: float
) -> dict[str, Any]:
    """How many images a model answers as a pattern's label with the pattern on them, and not without it: over all, and by label.

    answers: int64 [N], the model's for the test set as it is.
    """
    turned = {one.label: _turned(one, test, classifier, answers, device) for one in tried}
    hits, images = sum(int(one.sum()) for one in turned.values()), sum(len(one) for one in turned.values())
    return {
        "images": images,
        "turned": hits / images if images else None,
        "turned_interval": proportion_interval(hits, images, confidence),
        "labels": {str(one.label): {"way": one.way, "turned": float(turned[one.label].mean())} for one in tried},
    }


def _turned(one: Trial, test: Samples, classifier: Classifier, answers: np.ndarray, device: torch.device) -> np.ndarray:
    """Which of its images are answered with the label once they carry the pattern, and only then: bool [n]."""
    parts = (one.rows[start : start + BATCH] for start in range(0, len(one.rows), BATCH))
    carrying = np.concatenate([one.put_on(test.images[part]) for part in parts])
    after = predict(classifier, carrying, device=device, title="recovered pattern").labels
    turned: np.ndarray = (after == one.label) & (answers[one.rows] != one.label)
    return turned
