"""Figures, each with its definition: confusion, recall and precision, intervals, attack success, how well a detector ranks and flags."""

from dataclasses import dataclass
from typing import Any

import numpy as np

# scikit-learn and scipy.stats are imported where they are used: together they take seconds, and most stages need neither.

Interval = list[float]

SUSPICIOUS_Z = 5.0  # a score is suspicious beyond so many robust standard deviations
MAD_TO_SIGMA = 1.4826  # of a normal distribution


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Counts int64 [K, K]: row = true label, column = predicted label."""
    return np.bincount(labels * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def recall(confusion: np.ndarray) -> list[float | None]:
    """Per class, the share of its samples that are predicted as it; None for a class without samples."""
    return _shares(confusion.diagonal(), confusion.sum(1))


def precision(confusion: np.ndarray) -> list[float | None]:
    """Per class, the share of predictions of it that are right; None for a class that is never predicted."""
    return _shares(confusion.diagonal(), confusion.sum(0))


def _shares(parts: np.ndarray, wholes: np.ndarray) -> list[float | None]:
    return [float(part / whole) if whole else None for part, whole in zip(parts, wholes, strict=True)]


def classification(labels: np.ndarray, predicted: np.ndarray, classes: int, confidence: float) -> dict[str, Any]:
    """Of labels int64 [N], N ≥ 1, and what was answered: accuracy with its interval, recall and precision per class."""
    counts = confusion_matrix(labels, predicted, classes)
    right = int(counts.trace())
    return {
        "samples": len(labels),
        "accuracy": right / len(labels),
        "accuracy_interval": proportion_interval(right, len(labels), confidence),
        "per_class": {"recall": recall(counts), "precision": precision(counts)},
    }


def proportion_interval(successes: int, trials: int, confidence: float) -> Interval | None:
    """Wilson's score interval of a proportion (Wilson 1927); None without trials."""
    if trials == 0:
        return None
    from scipy.stats import binomtest

    interval = binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    return [float(interval.low), float(interval.high)]


@dataclass(frozen=True)
class Backdoor:
    """How far a trigger steers a classifier, over a test set that carries the trigger throughout."""

    successes: int  # predicted as the attacker wants though the true label is another
    others: int  # attacked samples whose true label is not what the attacker wants
    target_predictions: int  # predicted as the attacker wants, whatever the true label
    samples: int  # attacked

    def figures(self, confidence: float) -> dict[str, float | Interval | None]:
        """attack_success_rate leaves out samples of the target class (the field's figure); predicted_target_rate counts all (A1's)."""
        return {
            "attack_success_rate": self.successes / self.others if self.others else None,
            "attack_success_rate_interval": proportion_interval(self.successes, self.others, confidence),
            "predicted_target_rate": self.target_predictions / self.samples if self.samples else None,
            "predicted_target_rate_interval": proportion_interval(self.target_predictions, self.samples, confidence),
        }


def backdoor(labels: np.ndarray, predicted: np.ndarray, wanted: np.ndarray) -> Backdoor:
    """Count over true labels int64 [N], the labels predicted for triggered images int64 [N], and what the attacker wants, int64 [N].

    Where the wanted label is negative, the attack is not meant for the image, and it does not count.
    """
    attacked = wanted >= 0
    hits, others = (predicted == wanted) & attacked, (labels != wanted) & attacked
    return Backdoor(int((hits & others).sum()), int(others.sum()), int(hits.sum()), int(attacked.sum()))


def ranking(scores: np.ndarray, positive: np.ndarray) -> dict[str, float | None]:
    """How well scores float [N] (higher = more suspicious) put the positives bool [N] first; None where one side is empty.

    `tpr_at_1pct_fpr` is the largest share of positives above a threshold that at most 1 % of the negatives pass.
    """
    if positive.all() or not positive.any():
        return {"auroc": None, "average_precision": None, "tpr_at_1pct_fpr": None}
    from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

    # Every threshold: between two of them, the one at 1 % may be dropped as lying on a straight piece.
    fpr, tpr, _ = roc_curve(positive, scores, drop_intermediate=False)
    return {
        "auroc": float(roc_auc_score(positive, scores)),
        "average_precision": float(average_precision_score(positive, scores)),
        "tpr_at_1pct_fpr": float(tpr[fpr <= 0.01].max()),
    }


def spread(values: np.ndarray) -> float:
    """The standard deviation of values float [N], N ≥ 1, by their median absolute deviation: a few odd values do not change it."""
    return MAD_TO_SIGMA * float(np.median(np.abs(values - np.median(values))))


def suspicious(scores: np.ndarray) -> np.ndarray:
    """The one rule by which raw scores float [N] become flags bool [N]: a robust z above 5, among all that were scored.

    z = (score − median) / (1.4826 · median absolute deviation). A sample without a score (NaN) is not flagged, and none is where the
    deviation is zero or undefined. Most detectors of the field leave this choice to a poison rate that nobody knows; this one needs none.
    """
    scored = scores[~np.isnan(scores)]
    if not len(scored):
        return np.zeros(len(scores), bool)
    with np.errstate(invalid="ignore"):  # infinite scores: their differences are no numbers
        middle = np.median(scored)
        deviation = spread(scored)
        if not 0 < deviation < np.inf:
            return np.zeros(len(scores), bool)
        flagged: np.ndarray = (scores - middle) / deviation > SUSPICIOUS_Z
    return flagged


def flagging(flagged: np.ndarray, positive: np.ndarray) -> dict[str, float | None]:
    """How right flags bool [N] are about the positives bool [N]; None where a figure divides by nothing.

    A positive that is not flagged is missed, also where nothing is flagged: then tpr and f1 are 0, and precision is None.
    """
    hits, flags, positives = int((flagged & positive).sum()), int(flagged.sum()), int(positive.sum())
    negatives = len(positive) - positives
    return {
        "tpr": hits / positives if positives else None,
        "fpr": (flags - hits) / negatives if negatives else None,
        "precision": hits / flags if flags else None,
        "f1": 2 * hits / (flags + positives) if flags + positives else None,
    }


def calibration_error(probability: np.ndarray, positive: np.ndarray, bins: int = 10) -> float | None:
    """Mean gap between what is said, float [N] in [0, 1], and what is so, bool [N], over bins of equal width; None of no samples.

    Guo et al. 2017, arXiv 1706.04599, equation 3.
    """
    if not len(probability):
        return None
    place = np.minimum((probability * bins).astype(int), bins - 1)
    gaps = np.bincount(place, probability, bins) - np.bincount(place, positive, bins)
    return float(np.abs(gaps).sum() / len(probability))


def roc_points(scores: np.ndarray, positive: np.ndarray, points: int = 200) -> list[tuple[float, float]]:
    """The ROC curve as at most `points` pairs (FPR, TPR), evenly spread along it; empty where one side is empty."""
    if positive.all() or not positive.any():
        return []
    from sklearn.metrics import roc_curve

    fpr, tpr, _ = roc_curve(positive, scores)
    rows = np.unique(np.linspace(0, len(fpr) - 1, points).round().astype(int))
    return [(float(fpr[row]), float(tpr[row])) for row in rows]


def precision_recall_points(scores: np.ndarray, positive: np.ndarray, points: int = 200) -> list[tuple[float, float]]:
    """The precision–recall curve as at most `points` pairs (recall, precision), by growing recall; empty where one side is empty.

    One pair for every recall that a threshold reaches, with the precision of the highest such threshold: what average precision sums over.
    """
    if positive.all() or not positive.any():
        return []
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = (values[::-1] for values in precision_recall_curve(positive, scores))
    # The first pair (0, 1) belongs to no threshold.
    corners = 1 + np.flatnonzero(np.diff(recall) > 0)
    rows = corners[np.unique(np.linspace(0, len(corners) - 1, points).round().astype(int))]
    return [(float(recall[row]), float(precision[row])) for row in rows]
