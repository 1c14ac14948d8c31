"""Which labels are likely wrong: confident learning (Northcutt, Jiang and Chuang 2021, arXiv 1911.00068) on out-of-sample probabilities."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from wellcheck.disparity import rates
from wellcheck.errors import InputError
from wellcheck.metrics import confusion_matrix, proportion_interval

SLACK = 1e-6  # below a class's threshold: rounding excludes nobody
TINIEST = 1e-38  # probability of which a logarithm is taken
SHARPNESS = (0.05, 20.0)  # of calibrated probabilities: models that are never wrong would ask for infinitely much


@dataclass(frozen=True)
class LabelErrors:
    """What is held of the labels of N samples of K classes."""

    joint: np.ndarray  # int64 [K, K]: samples by label as received and by the class that they confidently belong to
    candidate: np.ndarray  # bool [N]: of those not answered as labelled the worst, as many as are confidently of another class
    suggested: np.ndarray  # int64 [N]: the class they most likely show
    quality: np.ndarray  # float64 [N] in [0, 1]: low for a label that is likely wrong; see `find`

    @property
    def ranked(self) -> np.ndarray:
        """The candidates, the likeliest error first, int64."""
        rows = np.flatnonzero(self.candidate)
        return rows[np.argsort(self.quality[rows], kind="stable")]


def find(labels: np.ndarray, probabilities: np.ndarray) -> LabelErrors:
    """The candidates among samples of labels int64 [N], by probabilities float [N, K] of models that did not see them.

    A sample confidently belongs to the likeliest of the classes whose probability reaches what is usual among samples labelled so (equation
    2 and the collision rule of section 3.1). That tells how many candidates there are; which, quality does: the label's own probability.
    Margins to the best other class rank worse (benchmarks/label_errors.py): whether a single class or several are likelier says little.
    Raises InputError where shapes do not fit, a probability is no number in [0, 1], or a row does not sum to 1.
    """
    _check(labels, probabilities)
    count, classes = probabilities.shape
    members = np.bincount(labels, minlength=classes)
    own = probabilities[np.arange(count), labels].astype(np.float64)
    # The self-confidence that is usual in a class; none can belong to one that no sample is labelled as.
    usual = np.where(members > 0, np.bincount(labels, own, minlength=classes) / np.maximum(members, 1), np.inf).clip(2 * SLACK)
    reached = probabilities >= usual - SLACK
    confident = reached.any(1)
    belongs = np.where(reached, probabilities, -1).argmax(1)
    joint = np.zeros((classes, classes), np.int64)
    np.add.at(joint, (labels[confident], belongs[confident]), 1)
    suggested = probabilities.argmax(1)
    differs = np.flatnonzero(suggested != labels)
    held = int((confident & (belongs != labels))[differs].sum())
    candidate = np.zeros(count, bool)
    candidate[differs[np.argsort(own[differs], kind="stable")[:held]]] = True
    return LabelErrors(joint, candidate, suggested, own)


def calibrated(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Out-of-sample probabilities float [N, K] as sure, and of each class as often, as the labels int64 [N] are; float64 [N, K].

    p^t · e^b over its sum, where the sharpness t and the bias b of each class make the labels likeliest (bias-corrected temperature
    scaling: Alexandari, Kundaje and Shrikumar 2020, arXiv 1901.06852). Models that were stopped early are unsure of some classes in
    general; that says nothing of one label. A class that no sample is labelled as gets no bias. Raises InputError as `find`.
    """
    _check(labels, probabilities)
    if not len(labels):
        return probabilities.astype(np.float64)
    from scipy.optimize import minimize  # as in metrics.py: most stages do without

    classes = probabilities.shape[1]
    logs = np.log(probabilities.astype(np.float64).clip(TINIEST))
    received = np.eye(classes)[labels]
    labelled = received.any(0)

    def loss(chosen: np.ndarray) -> tuple[float, np.ndarray]:
        answers = _scaled(logs, chosen)
        slope = (answers - received) / len(labels)
        bias = np.where(labelled, slope.sum(0), 0)
        return float(-np.log(answers[received > 0].clip(TINIEST)).mean()), np.concatenate([[(slope * logs).sum()], bias])

    bounds = [SHARPNESS] + [(None, None)] * classes
    return _scaled(logs, minimize(loss, np.eye(1, classes + 1)[0], jac=True, bounds=bounds).x)


def _scaled(logs: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    scores = logs * chosen[0] + chosen[1:]
    answers: np.ndarray = np.exp(scores - scores.max(1, keepdims=True))
    answers /= answers.sum(1, keepdims=True)
    return answers


def out_of_sample(
    labels: np.ndarray, classes: int, *, folds: int, seed: int, answer: Callable[[np.ndarray, np.ndarray, int], np.ndarray]
) -> np.ndarray:
    """Probabilities float32 [N, K] of every sample by a model that was trained without its fold; folds keep the mix of labels.

    answer(inside, outside, fold) trains on rows `inside` and gives the probabilities [n, K] of rows `outside`. Raises InputError if a label
    has fewer samples than there are folds: some model would not know it.
    """
    members = np.bincount(labels, minlength=classes)
    few = [label for label in np.unique(labels).tolist() if members[label] < folds]
    if folds < 2 or few:
        told = f"label {few[0]} has {members[few[0]]} samples" if few else "at least 2 are needed"
        raise InputError(f"label errors: {folds} folds are too {'many' if few else 'few'}: {told}")
    from sklearn.model_selection import StratifiedKFold  # as in metrics.py: most stages do without

    found = np.empty((len(labels), classes), np.float32)
    splits = StratifiedKFold(folds, shuffle=True, random_state=seed).split(labels, labels)
    for fold, (inside, outside) in enumerate(splits):
        found[outside] = answer(inside, outside, fold)
    return found


def figures(labels: np.ndarray, found: LabelErrors, answers: np.ndarray, classes: int, confidence: float) -> dict[str, Any]:
    """How many candidates there are among labels int64 [N], per class too, and the pairs given → suggested, the most frequent first.

    answers: int64 [N], of the models themselves, before anything is calibrated by the labels. `suggested` of a class is what most of its
    candidates show; None without candidates. Intervals are Wilson's.
    """
    count, total = int(found.candidate.sum()), len(labels)
    moved = confusion_matrix(labels[found.candidate], found.suggested[found.candidate], classes)
    per_class = rates(found.candidate, labels, classes, confidence)
    order = np.argsort(-moved, axis=None, kind="stable")[: np.count_nonzero(moved)]
    return {
        "samples": total,
        "candidates": count,
        "share": count / total if total else None,
        "share_interval": proportion_interval(count, total, confidence),
        "answered_as_labelled": float((answers == labels).mean()) if total else None,
        "per_class": {
            "samples": [one.samples for one in per_class],
            "candidates": [one.events for one in per_class],
            "rate": [one.rate for one in per_class],
            "interval": [one.interval for one in per_class],
            "suggested": [int(row.argmax()) if row.any() else None for row in moved],
        },
        "pairs": [{"label": place // classes, "suggested": place % classes, "count": int(moved.flat[place])} for place in order.tolist()],
    }


def _check(labels: np.ndarray, probabilities: np.ndarray) -> None:
    if probabilities.ndim != 2 or len(probabilities) != len(labels):
        raise InputError(f"label errors: {len(labels)} labels need as many rows of probabilities, found {list(probabilities.shape)}")
    if probabilities.shape[1] < 2:
        raise InputError(f"label errors: at least two classes are needed, found {probabilities.shape[1]}")
    if len(labels) and not 0 <= labels.min() <= labels.max() < probabilities.shape[1]:
        raise InputError(f"label errors: labels must be 0 to {probabilities.shape[1] - 1}, found {labels.min()} to {labels.max()}")
    bad = ~((probabilities >= 0) & (probabilities <= 1 + SLACK)).all(1)
    bad |= ~(np.abs(probabilities.sum(1, dtype=np.float64) - 1) < 1e-3)
    if bad.any():
        raise InputError(f"label errors: {int(bad.sum())} of {len(labels)} rows are no probabilities, the first is row {int(bad.argmax())}")
