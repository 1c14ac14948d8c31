"""SPECTRE (Hayase et al. 2021, arXiv 2104.11315): robust whitening, then quantum entropy scores (Dong, Hopkins and Li 2019, 1906.11366).

Poison hides where clean data vary much; once the label is whitened by the covariance of its clean samples, poison is the direction that
still varies. That covariance is estimated by a filter: samples that bear most of what a Gaussian's fourth moments cannot explain go out.
"""

import numpy as np

from wellcheck.detectors.case import Case
from wellcheck.detectors.directions import principal

ALPHA = 4.0  # sharpness of the matrix exponential, the paper's
WIDTHS = (2, 4, 8, 16, 32, 64)  # numbers of directions that are tried
LEAST_PER_LABEL = 10
FILTERED = 0.04  # of the samples in a round
ROUNDS = 5  # so at most a fifth goes, twice the paper's guess of a tenth of poison
EXCESS = 1.0  # of the largest fourth moment over a Gaussian's, below which the filter stops
POWER_STEPS = 12
FILTERED_SAMPLES = 5000  # of a label: enough for 64 × 64 moments
CHUNK = 2**16


def spectre(case: Case) -> np.ndarray:
    """Quantum entropy scores of the penultimate features, float64 [N]; 1 on average in a clean label, NaN in labels below ten samples.

    For each label the number of directions is the one with the largest mean score, as in the paper; a label without spread scores 0.
    """
    features, scores = case.layer("penultimate"), np.full(len(case.labels), np.nan)

    def score(label: int, rows: np.ndarray) -> None:
        most = min(WIDTHS[-1], max(1, len(rows) // 4))  # a covariance needs more samples than directions
        places = principal(features, rows, count=most, seed=case.seed).places.astype(np.float32)
        if not places.size:
            scores[rows] = 0.0
            return
        ordered = np.argsort(places[:, 0], kind="stable")  # so that the order of the samples plays no part in whom the filter sees
        some = places[ordered[np.random.default_rng([case.seed, label]).permutation(len(rows))[:FILTERED_SAMPLES]]]
        widths = sorted({min(width, places.shape[1]) for width in WIDTHS})
        tried = [quantum_entropy(places[:, :width], some[:, :width]) for width in widths]
        scores[rows] = max(tried, key=lambda one: float(one.mean()))

    case.by_label(score, at_least=LEAST_PER_LABEL)
    return scores


def quantum_entropy(places: np.ndarray, some: np.ndarray) -> np.ndarray:
    """h'Qh / tr Q of places [n, k] whitened robustly by `some` of them [m, k]; Q = exp(α(Σ − I)/(‖Σ‖ − 1)) of their covariance Σ."""
    mean, whitening = robust_whitening(some.astype(np.float64))
    second, total = np.zeros((places.shape[1], places.shape[1])), np.zeros(places.shape[1])
    for start in range(0, len(places), CHUNK):
        white = (places[start : start + CHUNK] - mean) @ whitening
        second += white.T @ white
        total += white.sum(0)
    values, axes = np.linalg.eigh(second / len(places) - np.outer(total, total) / len(places) ** 2)
    excess = values - 1
    powers = np.exp(ALPHA * (excess - excess[-1]) / excess[-1]) if excess[-1] > 1e-9 else np.ones_like(values)  # over exp(α): it cancels
    weighted = whitening @ axes * np.sqrt(powers / powers.sum())
    scores = np.empty(len(places))
    for start in range(0, len(places), CHUNK):
        turned = (places[start : start + CHUNK] - mean) @ weighted
        scores[start : start + CHUNK] = np.einsum("nk,nk->n", turned, turned)
    return scores


def robust_whitening(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean [k] and whitening matrix [k, k] of most of points float64 [n, k], after filtering (Diakonikolas et al. 2017, arXiv 1703.00893).

    In whitened coordinates z of a Gaussian E[(z'Vz) zz'] = 2V + (tr V) I. The symmetric V that exceeds this most is found by power
    iteration, without any k² × k² matrix, and the samples with the largest (z'Vz − tr V)² go out, until nothing exceeds it by much.
    """
    kept = points
    for _ in range(ROUNDS):
        mean, whitening = _whitening(kept)
        white = (kept - mean) @ whitening
        moment, excess = _heaviest(white)
        if excess < EXCESS:
            break
        surprise = (_forms(white, moment) - np.trace(moment)) ** 2
        count = int(np.ceil(FILTERED * len(points)))
        if len(kept) - count <= points.shape[1] + 1:
            break
        kept = kept[np.argsort(surprise, kind="stable")[: len(kept) - count]]
    return _whitening(kept)


def _whitening(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean = points.mean(0)
    values, axes = np.linalg.eigh(np.atleast_2d(np.cov(points.T, bias=True)))
    return mean, axes / np.sqrt(np.maximum(values, 1e-6 * max(values[-1], 1e-300)))


def _heaviest(white: np.ndarray) -> tuple[np.ndarray, float]:
    """The unit symmetric V [k, k] along which fourth moments exceed a Gaussian's most, and by how much (of 2, a Gaussian's own)."""
    width = white.shape[1]
    farthest = white[(white**2).sum(1).argmax()]
    moment = np.diag(np.linspace(1, 2, width)) + np.outer(farthest, farthest)
    moment /= np.linalg.norm(moment)
    size = 0.0
    for _ in range(POWER_STEPS):
        image = (white * _forms(white, moment)[:, None]).T @ white / len(white) - np.trace(moment) * np.eye(width)
        size = float(np.linalg.norm(image))
        if size == 0:
            break
        moment = image / size
    return moment, size - 2


def _forms(white: np.ndarray, moment: np.ndarray) -> np.ndarray:
    """z'Vz of every row, float64 [n]."""
    forms: np.ndarray = np.einsum("nk,nk->n", white @ moment, white)
    return forms
