"""Whether a classifier's errors, or attacks on it, fall on some classes more than on others (article A5)."""

from dataclasses import dataclass

import numpy as np

from wellcheck.metrics import Interval, proportion_interval

# scipy.stats is imported where it is used, as in metrics.py: most stages do without.

PERMUTATIONS = 9999  # of a rank correlation, where there are more, and of events among classes, where few are expected
TINY = 1e-9  # of a statistic: what differs by less is as large
LEAST_CLASSES = 4  # of a rank correlation: three agree by chance once in six times


@dataclass(frozen=True)
class ClassRate:
    """How often something befell the samples of one class."""

    events: int
    samples: int
    interval: Interval | None  # of the rate; None without samples

    @property
    def rate(self) -> float | None:
        """In [0, 1]; None without samples: not enough data."""
        return self.events / self.samples if self.samples else None


def rates(happened: np.ndarray, labels: np.ndarray, classes: int, confidence: float) -> list[ClassRate]:
    """Of every class: how many of its samples (labels int64 [N]) something happened to (bool [N]), with Wilson's interval."""
    events, samples = np.bincount(labels[happened], minlength=classes).tolist(), np.bincount(labels, minlength=classes).tolist()
    return [ClassRate(hit, of, proportion_interval(hit, of, confidence)) for hit, of in zip(events, samples, strict=True)]


@dataclass(frozen=True)
class Disparity:
    """How unequal the rates of classes are; None where there is not enough data."""

    parity_difference: float | None  # the largest rate less the smallest: the statistical parity difference of the two classes
    highest: int | None  # the class with the largest rate
    lowest: int | None
    chi_square: float | None  # Pearson's, of events against classes
    p_value: float | None  # of so much if all classes had one rate; None where nothing or everything happened


def disparity(classes: list[ClassRate]) -> Disparity:
    """Compare the rates of those classes that have samples."""
    known = [(place, one) for place, one in enumerate(classes) if one.samples]
    if len(known) < 2:
        return Disparity(None, None, None, None, None)
    from scipy.stats import chi2_contingency

    shares = np.array([one.events / one.samples for _, one in known])
    highest, lowest = int(shares.argmax()), int(shares.argmin())
    table = np.array([[one.events, one.samples - one.events] for _, one in known])
    difference = float(shares[highest] - shares[lowest])
    if (table.sum(0) == 0).any():
        return Disparity(difference, known[highest][0], known[lowest][0], None, None)
    tested = chi2_contingency(table, correction=False)
    # Cochran's rule: with fewer expected the statistic is not distributed as its name says.
    few = (tested.expected_freq < 1).any() or (tested.expected_freq < 5).mean() > 0.2
    p_value = _by_chance(table, tested.expected_freq) if few else float(tested.pvalue)
    return Disparity(difference, known[highest][0], known[lowest][0], float(tested.statistic), p_value)


def _by_chance(table: np.ndarray, expected: np.ndarray) -> float:
    """How often so many events, dealt to the classes at random, give so large a χ²; both int64 or float [k, 2], events and the others."""
    dealt = np.random.default_rng(0).multivariate_hypergeometric(table.sum(1), table[:, 0].sum(), PERMUTATIONS)
    weights = (1 / expected).sum(1)  # of the squared difference of a class's events, which is that of its others too
    drawn, found = (((events - expected[:, 0]) ** 2 @ weights) for events in (dealt, table[:, 0]))
    return float((1 + (drawn >= found * (1 - TINY)).sum()) / (1 + PERMUTATIONS))


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation of two rates over classes."""

    rho: float | None
    p_value: float | None
    classes: int  # that have both


def correlation(one: list[ClassRate], other: list[ClassRate]) -> Correlation:
    """Whether the classes that one thing befalls most are those that the other one does; None for few classes, or equal rates."""
    pairs = [(first.rate, second.rate) for first, second in zip(one, other, strict=True) if first.samples and second.samples]
    if len(pairs) < LEAST_CLASSES or any(len(set(column)) == 1 for column in zip(*pairs, strict=True)):
        return Correlation(None, None, len(pairs))
    from scipy.stats import permutation_test, rankdata

    first, second = (rankdata(column) - (len(pairs) + 1) / 2 for column in zip(*pairs, strict=True))
    scale = float(np.sqrt((first**2).sum() * (second**2).sum()))

    def rho(ranks: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.asarray((ranks * second).sum(axis) / scale)

    # By permutations, of which few classes have so few that all are tried: the usual approximation says p = 0 of four classes in one order.
    tested = permutation_test((first,), rho, permutation_type="pairings", n_resamples=PERMUTATIONS, vectorized=True, random_state=0)
    return Correlation(float(tested.statistic), float(tested.pvalue), len(pairs))


@dataclass(frozen=True)
class Confusion:
    """One class taken for another."""

    label: int
    taken_for: int
    count: int
    share: float  # of the label's samples


def confused_pairs(confusion: np.ndarray, most: int) -> list[Confusion]:
    """The pairs that are confused most, by the share of the true class; confusion: int64 [K, K], row = true label."""
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    shares = wrong / np.maximum(confusion.sum(1, keepdims=True), 1)
    order = np.argsort(-shares, axis=None, kind="stable")[:most]
    pairs = [(int(place) // len(wrong), int(place) % len(wrong)) for place in order]
    return [Confusion(true, taken, int(wrong[true, taken]), float(shares[true, taken])) for true, taken in pairs if wrong[true, taken]]
