"""Figures, each with its definition: confusion, recall and precision, intervals, attack success, ranking quality of a detector."""

from dataclasses import dataclass

import numpy as np

# scikit-learn and scipy.stats are imported where they are used: together they take seconds, and most stages need neither.

Interval = list[float]


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

    successes: int  # predicted as the target though the true label is another
    others: int  # samples whose true label is not the target
    target_predictions: int  # predicted as the target, whatever the true label
    samples: int

    def figures(self, confidence: float) -> dict[str, float | Interval | None]:
        """attack_success_rate leaves out samples of the target class (the field's figure); predicted_target_rate counts all (A1's)."""
        return {
            "attack_success_rate": self.successes / self.others if self.others else None,
            "attack_success_rate_interval": proportion_interval(self.successes, self.others, confidence),
            "predicted_target_rate": self.target_predictions / self.samples if self.samples else None,
            "predicted_target_rate_interval": proportion_interval(self.target_predictions, self.samples, confidence),
        }


def backdoor(labels: np.ndarray, predicted: np.ndarray, target: int) -> Backdoor:
    """Count over true labels int64 [N] and the labels predicted for triggered images int64 [N]."""
    hits, others = predicted == target, labels != target
    return Backdoor(int((hits & others).sum()), int(others.sum()), int(hits.sum()), len(labels))


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


def roc_points(scores: np.ndarray, positive: np.ndarray, points: int = 200) -> list[tuple[float, float]]:
    """The ROC curve as at most `points` pairs (FPR, TPR), evenly spread along it; empty where one side is empty."""
    if positive.all() or not positive.any():
        return []
    from sklearn.metrics import roc_curve

    fpr, tpr, _ = roc_curve(positive, scores)
    rows = np.unique(np.linspace(0, len(fpr) - 1, points).round().astype(int))
    return [(float(fpr[row]), float(tpr[row])) for row in rows]
