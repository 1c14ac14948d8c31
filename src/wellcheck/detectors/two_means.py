"""k-means with two clusters, all its starts at once (Lloyd 1982; starts as k-means++, Arthur and Vassilvitskii 2007)."""

import numpy as np
import torch

STARTS = 5
ITERATIONS = 100
ROUGHLY = 0.01  # of the points change sides: then the best start is known,
SETTLED = 1e-4  # and goes on alone
SILHOUETTE_SAMPLES = 500  # its mean is then known to about ±0.01


def two_means(points: np.ndarray, *, seed: int) -> np.ndarray:
    """The side of each point in the best of five splits of points float64 [n, k], bool [n]; True is the smaller cluster.

    The order of the points plays no part, for starts are drawn from them as sorted by the first coordinate. Without spread all are False.
    """
    if (points == points[0]).all():
        return np.zeros(len(points), bool)
    cloud = np.array(points.T, order="C")  # a coordinate along a row: its sums and products are several times as fast
    cloud -= cloud.mean(1, keepdims=True)
    centres = _starts(cloud, np.random.default_rng(seed))
    for settled in (ROUGHLY, SETTLED):
        sides, centres = _settle(cloud, *centres, settled)
        one, two = centres
        # The inertia is the total less what the means explain.
        explained = (~sides).sum(1) * (one**2).sum(1) + sides.sum(1) * (two**2).sum(1)
        best = explained.argmax()
        centres = one[[best]], two[[best]]
    side: np.ndarray = sides[best]
    return side if 2 * side.sum() <= len(side) else ~side


def _settle(cloud: np.ndarray, one: np.ndarray, two: np.ndarray, settled: float) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Lloyd's iterations from the centres [s, k] of each start until at most this share of the points changes sides.

    cloud: float64 [k, n]. Returns sides bool [s, n], and the centres. All starts run side by side: with two clusters a step is one product
    with the lines between the centres and one with the sides, a row of ones among the coordinates for half-way marks and for counts.
    """
    count = cloud.shape[1]
    cloud = np.concatenate([cloud, np.ones((1, count))])
    total = cloud.sum(1)
    sides = np.zeros((len(one), count), bool)
    for _ in range(ITERATIONS):
        half_way = ((two**2).sum(1) - (one**2).sum(1)) / 2
        before, sides = sides, np.column_stack([two - one, -half_way]) @ cloud > 0
        inside = sides.astype(np.float64) @ cloud.T
        outside = total - inside
        one, two = (sums[:, :-1] / sums[:, -1:].clip(1, count - 1) for sums in (outside, inside))
        if np.count_nonzero(before != sides) <= settled * sides.size:
            break
    return sides, (one, two)


def silhouette(points: np.ndarray, smaller: np.ndarray, *, seed: int) -> float:
    """Mean silhouette (Rousseeuw 1987) of a split bool [n] of points [n, k], over at most 500 of them; 0 if a side has fewer than two."""
    some = np.sort(np.random.default_rng(seed).permutation(len(points))[:SILHOUETTE_SAMPLES])
    some = np.argsort(points[:, 0], kind="stable")[some]  # whatever the order of the points
    points, smaller = points[some], smaller[some]
    counts = np.array([(~smaller).sum(), smaller.sum()])
    if counts.min() < 2:
        return 0.0
    cloud = torch.from_numpy(points)
    distances = torch.cdist(cloud, cloud).numpy()
    np.fill_diagonal(distances, 0)
    sums = (distances @ np.column_stack([~smaller, smaller]).astype(np.float64)).T
    own = smaller.astype(int)
    every = np.arange(len(points))
    inside, outside = sums[own, every] / (counts[own] - 1), sums[1 - own, every] / counts[1 - own]
    return float(((outside - inside) / np.maximum(np.maximum(inside, outside), 1e-300)).mean())


def margins(points: np.ndarray, smaller: np.ndarray) -> np.ndarray:
    """Where each point [n, k] lies between the two means: −1 at the larger cluster's, 0 half-way, 1 at the smaller one's; float64 [n]."""
    if not smaller.any() or smaller.all():
        return np.zeros(len(points))
    inside, members = smaller.astype(np.float64) @ points, smaller.sum()
    near, far = inside / members, (points.sum(0) - inside) / (len(points) - members)
    half = (near - far) / 2
    length = float(half @ half)
    return (points - (near + far) / 2) @ half / length if length > 0 else np.zeros(len(points))


def _starts(cloud: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two centres [starts, k] each: a point of the cloud [k, n], and another drawn in proportion to its squared distance from it."""
    count = cloud.shape[1]
    ordered = cloud[:, np.argsort(cloud[0], kind="stable")]
    first = ordered[:, rng.integers(0, count, STARTS)].T
    reaches = np.maximum((ordered**2).sum(0) - 2 * first @ ordered + (first**2).sum(1, keepdims=True), 0).cumsum(1)  # [starts, n]
    drawn = [np.searchsorted(reach, rng.random() * reach[-1], "right") for reach in reaches]
    return first, ordered[:, np.minimum(drawn, count - 1)].T
