"""SCAn (Tang et al. 2021, arXiv 1908.00686): a label with two identities.

A sample is h = u + e, its label's identity and a variation that is alike in all labels. A label whose samples are told much better by two
identities than by one is infected.
"""

from dataclasses import dataclass

import numpy as np

from wellcheck.detectors.case import Case
from wellcheck.detectors.directions import mean_of, projected, scatter_of
from wellcheck.detectors.two_means import margins, two_means
from wellcheck.errors import InputError
from wellcheck.metrics import spread

DIRECTIONS = 10  # in which a label varies more than all do: where its split is sought
LEAST_PER_LABEL = 10
STEPS = 100
TOLERANCE = 1e-5
SHRINKAGE = 0.01  # of S_e towards a sphere, at least, for dead units have no variance to divide by; more with few samples
LEAST_WEIGHT = 0.1  # of a label; the paper convicts one whose J* is above e²


@dataclass(frozen=True)
class Identities:
    """One label told by two identities."""

    label: int
    rows: np.ndarray  # int64 [n], all samples of the label
    foreign: np.ndarray  # bool [n], the side that is taken for poison
    margins: np.ndarray  # float64 [n], −1 at the mean of the rest, 1 at the foreign side's
    likelihood_ratio: float  # J, nats a sample


def scan(case: Case) -> np.ndarray:
    """Where a sample lies between its label's two identities, times how anomalous the label is (J*); float64 [N].

    With fewer than three labels J* means nothing, and every label counts alike. NaN in labels below ten samples.
    """
    found = identities(case)
    weights = label_weights(np.array([one.likelihood_ratio for one in found]))
    scores = np.full(len(case.labels), np.nan)
    for one, weight in zip(found, weights, strict=True):
        scores[one.rows] = one.margins * weight
    return scores


def label_weights(ratios: np.ndarray) -> np.ndarray:
    """J*, but at least 0.1, so that the order inside a label that is not anomalous stays what it is; float64 [K]."""
    weights: np.ndarray = np.maximum(label_anomaly(ratios), LEAST_WEIGHT)
    return weights


def label_anomaly(ratios: np.ndarray) -> np.ndarray:
    """J*: how far each label's J lies above the median, in robust standard deviations; float64 [K]. 1 for fewer than three labels."""
    if len(ratios) < 3:
        return np.ones(len(ratios))
    centre = np.median(ratios)
    anomaly: np.ndarray = (ratios - centre) / max(spread(ratios), 1e-3 * abs(centre), 1e-12)
    return anomaly


def identities(case: Case, layer: str = "penultimate") -> list[Identities]:
    """The two identities of every label of at least ten samples.

    The foreign side is the one where the label's trusted samples are rarer than its own, or without any, the smaller one.
    """
    features = case.layer(layer)
    reference = case.trusted
    if reference is not None and reference.layer(layer).shape[1] != features.shape[1]:
        raise InputError(f"trusted samples have {reference.layer(layer).shape[1]} values in '{layer}', the others {features.shape[1]}")
    source = case if reference is None else reference
    members = [rows for _, rows in source.members(at_least=2)]
    if not members:
        return []
    values, axes = np.linalg.eigh(common_variation(source.layer(layer), members))
    whitening = axes / np.sqrt(values) if values[-1] > 0 else np.zeros_like(axes)

    def split(label: int, rows: np.ndarray) -> Identities:
        mean = mean_of(features, rows)
        excess = whitening.T @ scatter_of(features, rows, mean) @ whitening
        directions = whitening @ np.linalg.eigh(excess)[1][:, -DIRECTIONS:]
        directions *= np.where(directions[np.abs(directions).argmax(0), np.arange(directions.shape[1])] < 0, -1.0, 1.0)
        points = projected(features, rows, mean, directions[:, ::-1])
        side = two_means(points, seed=case.seed)
        if reference is not None and side.any():
            trusted = projected(reference.layer(layer), np.flatnonzero(reference.labels == label), mean, directions[:, ::-1])
            side = side if _leans(trusted, points, side) <= side.mean() else ~side
        return Identities(label, rows, side, margins(points, side), _ratio(points, side))

    return case.by_label(split, at_least=LEAST_PER_LABEL)


def common_variation(features: np.ndarray, members: list[np.ndarray]) -> np.ndarray:
    """S_e [D, D] by expectation–maximisation of h = u + e with u ~ N(0, S_u), e ~ N(0, S_e) (the paper's algorithm 2).

    members: the rows of each label. Only label means and the pooled scatter enter, so a step costs one D × D eigendecomposition whatever N.
    """
    sizes = np.array([len(rows) for rows in members], np.float64)
    means = np.stack([mean_of(features, rows) for rows in members])
    pooled = np.zeros((features.shape[1], features.shape[1]))
    for rows, mean in zip(members, means, strict=True):
        pooled += scatter_of(features, rows, mean)
    total, rounding = sizes.sum(), 1e-22 * sizes @ (means**2).sum(1)
    if np.trace(pooled) <= rounding:
        return np.zeros_like(pooled)
    means -= sizes @ means / total
    common, identity = pooled / total, means.T @ means / len(means)
    for _ in range(STEPS):
        before = common
        root = np.linalg.cholesky(_shrunk(common, total))
        inverse = np.linalg.inv(root)
        spread, axes = np.linalg.eigh(inverse @ identity @ inverse.T)
        # In these coordinates S_e = I and S_u is diagonal, so the posterior of each u is a shrunk mean.
        to, back, spread = inverse.T @ axes, axes.T @ root.T, np.maximum(spread, 0)
        shrink = spread / (spread + 1 / sizes[:, None])  # [K, D]
        posterior = shrink / sizes[:, None]
        expected, left = means @ to * shrink, means @ to * (1 - shrink)
        identity = back.T @ (expected.T @ expected / len(means) + np.diag(posterior.mean(0))) @ back
        common = (pooled + back.T @ ((left * sizes[:, None]).T @ left + np.diag(sizes @ posterior)) @ back) / total
        if np.abs(common - before).max() <= TOLERANCE * np.abs(before).max():
            break
    return _shrunk(common, total)


def _shrunk(covariance: np.ndarray, count: float) -> np.ndarray:
    width = len(covariance)
    share = max(SHRINKAGE, width / (width + count))
    shrunk: np.ndarray = (1 - share) * covariance + share * np.eye(width) * np.trace(covariance) / width
    return shrunk


def _leans(trusted: np.ndarray, points: np.ndarray, side: np.ndarray) -> float:
    """The share of trusted points on this side of points' split."""
    if not len(trusted):
        return 0.0
    one, two = points[side].mean(0), points[~side].mean(0)
    return float((((trusted - one) ** 2).sum(1) < ((trusted - two) ** 2).sum(1)).mean())


def _ratio(points: np.ndarray, side: np.ndarray) -> float:
    """J: log-likelihood of two identities over that of one, nats a sample, in coordinates where S_e = I."""
    if not side.any() or side.all():
        return 0.0
    share, between = side.mean(), points[side].mean(0) - points[~side].mean(0)
    return float(share * (1 - share) * (between @ between) / 2)
