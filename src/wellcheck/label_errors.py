"""Which labels are likely wrong: confident learning (Northcutt, Jiang and Chuang 2021, arXiv 1911.00068) on out-of-sample probabilities."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from wellcheck.errors import InputError

SLACK = 1e-6  # below a class's threshold: rounding excludes nobody


@dataclass(frozen=True)
class LabelErrors:
    """What is held of the labels of N samples of K classes."""

    joint: np.ndarray  # int64 [K, K]: samples by label as received and by the class that they confidently belong to
    candidate: np.ndarray  # bool [N]: confidently of another class, and not answered as labelled
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
    2 and the collision rule of section 3.1). quality is the normalised margin: half of (1 + the label's probability − the best other one).
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
    others = probabilities.astype(np.float64)
    others[np.arange(count), labels] = -np.inf
    quality = (own - others.max(1) + 1) / 2
    suggested = probabilities.argmax(1)
    return LabelErrors(joint, confident & (belongs != labels) & (suggested != labels), suggested, quality)


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
