"""Two Gaussians with one covariance in every label: most of its samples, and a group that lies apart from them.

Ours. The idea of SCAn (Tang et al. 2021, arXiv 1908.00686: a label with two identities) without its clean reference set: features are
whitened by the covariance within labels, so that what varies in every label counts for little, and the split is sought from many starts at
once. All starts share the label's total covariance T, and the covariance within groups is T − p(1−p) δδ', so that one inverse serves them
all (Sherman–Morrison).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from wellcheck.detectors.case import Case
from wellcheck.detectors.directions import parts
from wellcheck.detectors.knn import knn_disagreement

LAYERS = ("feature_map", "penultimate")
DIRECTIONS = 60  # of the whitened features
SHRINKAGE = 0.05  # of the covariance towards a sphere: a label may have few samples
SEARCHED = 4000  # samples of a label among which the starts compete
FINALISTS = 12
LEAST = 5  # samples in a group
LEAST_PER_LABEL = 20
LARGEST_SHARE = 0.6
DISAGREES = 0.6  # of the neighbours: a start
AXES = 8  # the label varies most along these: starts
HALVED = 10  # samples for every direction: among fewer any half can be told from the other one
SHARES = (0.01, 0.03, 0.1, 0.3)  # of the label at the end of a direction: starts
PEELED = 3  # groups a layer
PEELED_SHARE = 0.35


@dataclass(frozen=True)
class Group:
    """Samples of one label that lie apart from the rest of it in one layer."""

    label: int
    layer: str
    rows: np.ndarray  # int64 [n], all samples of the label
    log_odds: np.ndarray  # float64 [n], of belonging to the group
    gain: float  # log-likelihood over that of one Gaussian, nats a sample
    separation: float  # of the two means, in standard deviations

    @property
    def suspects(self) -> np.ndarray:
        """The rows that belong to the group, int64."""
        return self.rows[self.log_odds > 0]


@dataclass(frozen=True)
class Split:
    """Several two-component fits of one label side by side."""

    log_odds: np.ndarray  # [n, I]
    share: np.ndarray  # [I]
    gain: np.ndarray  # [I]
    separation: np.ndarray  # [I]


def mixture(case: Case) -> np.ndarray:
    """How far a sample lies on the group's side of its label's best split, in standard deviations; the layer with the larger gain counts.

    Scores float64 [N]; NaN in labels of fewer than 20 samples.
    """
    scores = np.full(len(case.labels), np.nan)
    disagreement = knn_disagreement(case)
    best = np.zeros(case.classes)
    for layer in LAYERS:
        for label, found in find_groups(case, layer, whiten(case, layer), disagreement, most=1):
            rows = case.labels == label
            scores[rows] = np.nan_to_num(scores[rows])
            if found and found[0].gain > best[label]:
                best[label] = found[0].gain
                scores[rows] = found[0].log_odds / max(found[0].separation, 1e-9)
    return scores


def find_groups(case: Case, layer: str, whitened: np.ndarray, disagreement: np.ndarray, *, most: int) -> list[tuple[int, list[Group]]]:
    """For every label, up to `most` groups that share less than half of their samples: the best one from `disagreement`, then by gain.

    whitened: float32 [N, d], the layer; disagreement: float [N], the share of a sample's neighbours in pixels that carry another label.
    """

    def search(label: int, rows: np.ndarray) -> tuple[int, list[Group]]:
        values = whitened[rows].astype(np.float64)
        if not values.any():
            return label, []
        foreign = np.nan_to_num(disagreement[rows]) > DISAGREES
        split = _search(values, foreign, np.random.default_rng([case.seed, label]))
        return label, [Group(label, layer, rows, *one) for one in _distinct(split, most, first=foreign.any())]

    return case.by_label(search, at_least=LEAST_PER_LABEL)


def whiten(case: Case, layer: str) -> np.ndarray:
    """Features centred in their label and scaled to unit variance along the leading directions of what varies within labels.

    Returns float32 [N, d], d ≤ 60; a constant layer gives zeros. Works in chunks: the layer may be larger than memory.
    """
    features = case.layer(layer)
    count, width = features.shape
    means, members = np.zeros((case.classes, width)), np.bincount(case.labels, minlength=case.classes)
    for part in parts(count, width):
        np.add.at(means, case.labels[part], features[part].astype(np.float32))
    means /= np.maximum(members, 1)[:, None]
    scatter = np.zeros((width, width))
    for part in parts(count, width):
        centred = features[part].astype(np.float32) - means[case.labels[part]].astype(np.float32)
        scatter += centred.T @ centred
    variances, directions = np.linalg.eigh(scatter / max(count, 1))
    kept = np.argsort(variances)[::-1][:DIRECTIONS]
    kept = kept[variances[kept] > 1e-9 * max(variances.max(), 1e-30)]
    projection = (directions[:, kept] / np.sqrt(variances[kept])).astype(np.float32)
    shift = means.astype(np.float32) @ projection
    whitened = np.empty((count, len(kept)), np.float32)
    for part in parts(count, width):
        whitened[part] = features[part].astype(np.float32) @ projection - shift[case.labels[part]]
    return whitened


def peel(layers: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Samples that lie apart in any layer, bool [n]; layers: float32 [n, d], whitened."""
    apart = np.zeros(len(layers[0]), bool)
    if len(apart) < LEAST_PER_LABEL:
        return apart
    for values in layers:
        if not values.any():
            continue
        split = _search(values.astype(np.float64), np.zeros(len(apart), bool), rng)
        for log_odds, _, _ in _distinct(split, PEELED, first=False):
            if (log_odds > 0).mean() < PEELED_SHARE:
                apart |= log_odds > 0
    return apart


def fit(values: np.ndarray, start: np.ndarray, *, steps: int = 60) -> Split:
    """Expectation–maximisation of all starts together.

    values: float64 [n, d]; start: responsibilities of the group, float64 [n, I] in [0, 1].
    """
    count, width = values.shape
    values = values - values.mean(0)
    total = values.T @ values / count
    total = (1 - SHRINKAGE) * total + SHRINKAGE * np.eye(width) * max(np.trace(total) / width, 1e-12)
    inverse = np.linalg.inv(total)
    belongs = start
    for _ in range(steps):
        share = belongs.mean(0).clip(1e-6, 1 - 1e-6)
        mean = values.T @ belongs / (count * share)  # of the group; the rest has −share/(1−share) times it, for the label's is 0
        between = mean / (1 - share)
        direction = inverse @ between
        explained = (between * direction).sum(0)
        within = np.maximum(1 - (1 - SHRINKAGE) * share * (1 - share) * explained, 1e-6)
        direction /= within
        middle = mean * (1 - 2 * share) / (2 * (1 - share))
        log_odds = values @ direction - (middle * direction).sum(0) + np.log(share / (1 - share))
        before, belongs = belongs, expit(log_odds)
        if np.abs(belongs - before).max(initial=0) < 1e-3:
            break
    return _judge(values @ direction, log_odds)


def _judge(projected: np.ndarray, log_odds: np.ndarray) -> Split:
    """What a split explains: two normals along its own direction against one."""
    belongs = expit(log_odds)
    share = belongs.mean(0).clip(1e-9, 1 - 1e-9)
    one = (belongs * projected).sum(0) / (len(belongs) * share)
    rest = ((1 - belongs) * projected).sum(0) / (len(belongs) * (1 - share))
    within = (belongs * (projected - one) ** 2 + (1 - belongs) * (projected - rest) ** 2).mean(0) + 1e-12
    two = np.logaddexp(np.log(share) - (projected - one) ** 2 / (2 * within), np.log(1 - share) - (projected - rest) ** 2 / (2 * within))
    gain = two.mean(0) - 0.5 * np.log(within) + 0.5 * np.log(projected.var(0) + 1e-12) + 0.5
    return Split(log_odds, share, gain, np.abs(one - rest) / np.sqrt(within))


def _search(values: np.ndarray, foreign: np.ndarray, rng: np.random.Generator) -> Split:
    """Let many starts compete on some of the samples, then fit the best ones, and the neighbours' start, on all."""
    some = np.sort(rng.permutation(len(values))[:SEARCHED])
    sample = values[some]
    _, axes = np.linalg.eigh(sample.T @ sample)
    leading = axes[:, -AXES:].T
    ends = np.concatenate([leading, -leading, sample[rng.integers(0, len(sample), 24)]])
    reach = sample @ ends.T
    starts = np.concatenate([reach > np.quantile(reach, 1 - share, axis=0) for share in SHARES], 1).astype(np.float64)
    if len(sample) >= HALVED * sample.shape[1]:
        along = sample @ leading.T
        starts = np.concatenate([starts, along > np.median(along, axis=0)], 1)
    if foreign.any():
        starts = np.concatenate([foreign[some, None].astype(np.float64), starts], 1)
    first = fit(sample, starts, steps=25)
    if len(values) == len(sample):
        return first
    order = [0, *(1 + np.argsort(-first.gain[1:])[: FINALISTS - 1])] if foreign.any() else np.argsort(-first.gain)[:FINALISTS]
    # A start on all samples: the group's and the rest's means on some of them say where the others belong.
    belongs = expit(first.log_odds[:, order])
    share = belongs.mean(0).clip(1e-6, 1 - 1e-6)
    between = sample.T @ (belongs - share) / (len(sample) * share * (1 - share))
    reach = values @ between
    return fit(values, (reach > [np.quantile(column, 1 - part) for column, part in zip(reach.T, share, strict=True)]).astype(np.float64))


def _distinct(split: Split, most: int, *, first: bool) -> list[tuple[np.ndarray, float, float]]:
    """Splits by gain (`first`: after the first one), each the smaller side, none that mostly repeats an earlier one."""
    kept: list[tuple[np.ndarray, float, float]] = []
    by_gain = np.argsort(-split.gain).tolist()
    for index in dict.fromkeys([0, *by_gain] if first else by_gain):
        log_odds = split.log_odds[:, index]
        if split.share[index] > 0.5 and not (first and index == 0):  # which side the neighbours' start means is known
            log_odds = -log_odds
        members = log_odds > 0
        if members.sum() < LEAST or members.mean() > LARGEST_SHARE:
            continue
        if all((members & (other > 0)).sum() < 0.5 * (members | (other > 0)).sum() for other, _, _ in kept):
            kept.append((log_odds, float(split.gain[index]), float(split.separation[index])))
        if len(kept) == most:
            break
    return kept
