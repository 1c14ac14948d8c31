"""t-SNE fast enough to sit in a pipeline: exact neighbours, short schedule, repulsion on a grid.

docs/decisions/0002-fast-tsne.md holds what was measured and why this was chosen. To measure it again:

    python benchmarks/projection.py --runs 3

The map minimises KL(P || Q) (van der Maaten and Hinton 2008, Visualizing Data using t-SNE). The gradient has two parts. Attraction runs
over the neighbour graph. Repulsion is a sum over all pairs of a function of their difference, so it is a convolution, done by FFT on a grid
as in FIt-SNE (Linderman et al. 2019, Fast interpolation-based t-SNE for improved visualization of single-cell RNA-seq data). Here cubic
B-splines spread the points, so that the force is the derivative of the one convolution that the normalisation needs anyway.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft, sparse

from wellcheck.errors import InputError
from wellcheck.progress import progress

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]

THREADS = 2  # attraction and repulsion of one iteration run side by side; what each computes does not depend on this
NEIGHBOURS_PER_PERPLEXITY = 1.5  # 3 is the convention; half as many cost half as much and keep more of the nearest 30
SPARE_NEIGHBOURS = 10  # candidates beyond those wanted: the blocked float32 product may misplace near-ties, exact distances then choose
BLOCK_ELEMENTS = 2**23  # distances held at once by one thread (32 MiB), so memory grows with N and never with N x N
BISECTIONS = 40  # of the range e^-50 to e^50 for a point's precision: leaves 1e-10 of it undecided
EXAGGERATION = 12.0  # factor on the attraction at the start (Belkina et al. 2019)
EXAGGERATION_ITERATIONS = 100  # 250 is the convention; from a start by principal components 100 preserve as much
MOMENTUM = 0.8  # share of the last step
LONGEST_STEP = 5.0  # map units in one iteration, so that no point leaves the map
INITIAL_DEVIATION = 1e-4  # standard deviation of the start along its first axis, map units (Kobak and Berens 2019)
INITIAL_JITTER = 0.01  # share of INITIAL_DEVIATION; parts points that the first two principal components put in one place
GRID_SPACING = 0.6  # map units between grid nodes; the kernel 1 / (1 + d^2) is one unit wide
GRID_NODES = 1024  # at most so many along a side: a map that is wider takes a coarser grid rather than more memory


def tsne(features: NDArray[np.generic], *, perplexity: float, components: int | None, iterations: int, seed: int) -> Floats:
    """Map points to two dimensions so that neighbours stay neighbours; float32 [N, 2].

    features: real numbers [N, D], N at least 4. perplexity: effective number of neighbours, above 1; with fewer than 1.5 * perplexity + 1
    points it is lowered to (N - 1) / 1.5. components: principal components kept before the neighbour search, None to search in all D
    dimensions. iterations: those after the 100 of early exaggeration.

    The same input gives the same bytes on the same machine with the same number of BLAS threads. Points that are all identical all lie at
    the origin. Raises InputError for too few points, NaN, infinity, or anything but a numeric [N, D].
    """
    if perplexity <= 1:
        raise InputError(f"perplexity: found {perplexity}, expected more than 1")
    points = _standardised(features, at_least=4)
    if not points.any():
        return np.zeros((len(points), 2), np.float32)
    if components is not None and components < min(points.shape):
        points = _principal_components(points, components, seed)
    perplexity = min(perplexity, (len(points) - 1) / NEIGHBOURS_PER_PERPLEXITY)
    count = min(int(np.ceil(NEIGHBOURS_PER_PERPLEXITY * perplexity)), len(points) - 1)
    affinities = _affinities(*_nearest(points, count), perplexity)
    return _descend(affinities, _start(points, seed), iterations)


def neighbourhood_preservation(features: NDArray[np.generic], projection: NDArray[np.generic], *, neighbours: int) -> float:
    """Share of each point's nearest neighbours that are also among its nearest in the map, averaged over points; 0 to 1.

    features: [N, D]. projection: [N, 2]. neighbours: how many, 1 to N - 1. A map drawn at random keeps neighbours / (N - 1). Raises
    InputError for arrays that do not belong together, NaN, infinity, or too many neighbours.
    """
    if len(features) != len(projection):
        raise InputError(f"projection: found {len(projection)} points, expected {len(features)} as in the features")
    if not 1 <= neighbours < len(features):
        raise InputError(f"neighbours: found {neighbours}, expected 1 to {len(features) - 1} for {len(features)} points")
    before, _ = _nearest(_standardised(features), neighbours)
    after, _ = _nearest(_standardised(projection), neighbours)
    # Row number times N makes (row, neighbour) one number, so that one intersection counts all rows.
    rows = np.arange(len(features))[:, None] * len(features)
    return float(np.intersect1d(rows + before, rows + after, assume_unique=True).size / before.size)


def _standardised(features: NDArray[np.generic], at_least: int = 2) -> Floats:
    """Centre, scale to at most 1 (no affinity depends on the scale) and check; all zeros where all points are identical."""
    if features.ndim != 2 or not features.shape[1] or features.dtype.kind not in "buif":
        raise InputError(f"features: found {features.dtype} {list(features.shape)}, expected numbers [N, D]")
    if len(features) < at_least:
        raise InputError(f"features: found {len(features)} points, expected at least {at_least}")
    wide: NDArray[Any] = features.astype(np.float64 if features.dtype.itemsize == 8 else np.float32)
    broken = ~np.isfinite(wide).all(axis=1)
    if broken.any():
        raise InputError(f"features: row {int(broken.argmax())} holds NaN or infinity, expected finite numbers")
    if (wide == wide[0]).all():
        return np.zeros(wide.shape, np.float32)
    wide = wide / np.abs(wide).max()  # before the mean, whose sum might overflow
    wide = wide - wide.mean(axis=0, dtype=np.float64).astype(wide.dtype)
    return np.asarray(wide / np.abs(wide).max(), np.float32)


def _principal_components(points: Floats, count: int, seed: int) -> Floats:
    """Project centred points [N, D] on their first principal axes: [N, count], by subspace iteration (Halko et al. 2011, algorithm 4.4)."""
    spare, rounds = 10, 4
    basis = np.random.default_rng(seed).standard_normal((points.shape[1], min(count + spare, *points.shape)), np.float32)
    for _ in range(rounds):
        basis = np.linalg.qr(points.T @ np.linalg.qr(points @ basis)[0])[0]
    projected = points @ basis
    _, axes = np.linalg.eigh(projected.T @ projected)  # ascending
    return np.ascontiguousarray(projected @ axes[:, ::-1][:, :count])


def _start(points: Floats, seed: int) -> Floats:
    """The first two principal components, tiny, and a jitter: [N, 2] (Kobak and Berens 2019, The art of using t-SNE)."""
    components = np.zeros((len(points), 2), np.float32)
    axes = min(2, points.shape[1])
    components[:, :axes] = _principal_components(points, axes, seed)
    jitter = np.random.default_rng(seed).standard_normal(components.shape, np.float32)
    start: Floats = INITIAL_DEVIATION * (components / components[:, 0].std() + INITIAL_JITTER * jitter)
    return start


def _nearest(points: Floats, count: int) -> tuple[Indices, Floats]:
    """Each point's nearest others, nearest first: indices [N, count] and squared Euclidean distances [N, count]; exact, by blocks."""
    norms = np.einsum("nd,nd->n", points, points)
    candidates = min(count + SPARE_NEIGHBOURS, len(points) - 1)
    size = max(1, BLOCK_ELEMENTS // len(points))

    def search(start: int) -> tuple[Indices, Floats]:
        block = points[start : start + size]
        rows = np.arange(len(block))
        rough = (-2 * block) @ points.T
        rough += norms
        rough[rows, start + rows] = np.inf  # no point is its own neighbour
        found = np.argpartition(rough, candidates - 1, axis=1)[:, :candidates]
        # From differences, not from norms: in a tight cluster far from the centre the norms cancel to noise.
        differences = (points[found[:, column]] - block for column in range(candidates))
        exact = np.stack([np.einsum("nd,nd->n", one, one) for one in differences], axis=1)
        order = np.argsort(exact, axis=1, kind="stable")[:, :count]
        return np.take_along_axis(found, order, axis=1), np.take_along_axis(exact, order, axis=1)

    with ThreadPoolExecutor(THREADS) as threads:
        indices, distances = zip(*threads.map(search, range(0, len(points), size)), strict=True)
    return np.concatenate(indices), np.concatenate(distances)


def _affinities(neighbours: Indices, distances: Floats, perplexity: float) -> sparse.csr_array:
    """Symmetric P over neighbour pairs, summing to 1: float32 sparse [N, N]; each point's Gaussian is as wide as the perplexity asks."""
    squared = distances.astype(np.float64)
    squared -= squared[:, :1]
    squared /= np.maximum(squared.mean(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    # Bisection on the logarithm of the precision. More ties than the perplexity allows end at the upper bound: uniform over the ties.
    low, high = np.full((len(squared), 1), -50.0), np.full((len(squared), 1), 50.0)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        weights = np.exp(-squared * np.exp(middle))
        weights /= weights.sum(axis=1, keepdims=True)
        entropy = -(weights * np.log(np.maximum(weights, 1e-300))).sum(axis=1, keepdims=True)
        too_wide = entropy > np.log(perplexity)
        low, high = np.where(too_wide, middle, low), np.where(too_wide, high, middle)
    points, count = neighbours.shape
    starts = np.arange(0, points * count + 1, count)
    conditional = sparse.csr_array((weights.ravel(), neighbours.ravel(), starts), shape=(points, points))
    joint = sparse.csr_array(conditional + conditional.T) / (2 * points)
    joint.sort_indices()
    return joint.astype(np.float32)


def _descend(affinities: sparse.csr_array, start: Floats, iterations: int) -> Floats:
    """Gradient descent with momentum and a gain per coordinate, the learning rate N / exaggeration (Belkina et al. 2019); [N, 2]."""
    positions = start.copy()
    step = np.zeros_like(positions)
    gains = np.ones_like(positions)
    attract = _attraction(affinities)
    repel = _Repulsion()
    total = EXAGGERATION_ITERATIONS + iterations
    with ThreadPoolExecutor(1) as aside, progress("t-SNE", total, "iterations") as advance:
        for iteration in range(total):
            exaggeration = EXAGGERATION if iteration < EXAGGERATION_ITERATIONS else 1.0
            pull = aside.submit(attract, positions)
            push = repel(positions)
            gradient = exaggeration * pull.result() - push
            # As every t-SNE since the first (Jacobs 1988); a step runs against its gradient, so unlike signs mean "still the same way".
            gains = np.where(np.sign(step) != np.sign(gradient), gains + 0.2, 0.8 * gains + 0.01)
            step = MOMENTUM * step - len(positions) / exaggeration * gains * gradient
            length = np.linalg.norm(step, axis=1, keepdims=True)
            step *= np.minimum(1, LONGEST_STEP / np.maximum(length, LONGEST_STEP))
            positions = positions + step
            positions -= positions.mean(axis=0)
            advance()
    return positions.astype(np.float32)


def _attraction(affinities: sparse.csr_array) -> Callable[[Floats], Floats]:
    """Return the function positions [N, 2] -> sum over j of p_ij q_ij (y_i - y_j), with q_ij = 1 / (1 + |y_i - y_j|^2): [N, 2]."""
    others = affinities.indices.astype(np.intp)
    degrees = np.diff(affinities.indptr)  # never 0: every point has neighbours, so reduceat sees no empty row
    starts = affinities.indptr[:-1].astype(np.intp)
    weights = affinities.data

    def attract(positions: Floats) -> Floats:
        # A point as one complex number: one gather and one sum instead of two.
        plane = np.ascontiguousarray(positions, np.float32).view(np.complex64)[:, 0]
        differences = np.repeat(plane, degrees)
        differences -= plane[others]
        squared = differences.real**2
        squared += differences.imag**2
        squared += 1
        differences *= weights / squared
        return np.add.reduceat(differences, starts).view(np.float32).reshape(-1, 2)

    return attract


class _Repulsion:
    """The repulsive half of the gradient; keeps the kernel's transform, which only changes when the map outgrows its grid."""

    def __init__(self) -> None:
        self._shape = (0, 0.0)
        self._transform: Floats = np.zeros((0, 0), np.float32)

    def __call__(self, positions: Floats) -> Floats:
        """Positions [N, 2] -> sum over j of q_ij^2 (y_i - y_j), divided by the sum of q over all pairs: [N, 2].

        phi(y) = sum over j of 1 / (1 + |y - y_j|^2) is spread on a grid, convolved and read back; its values sum to the normalisation and
        half its falling slope is the force.
        """
        low = positions.min(axis=0)
        span = float((positions.max(axis=0) - low).max())
        spacing = max(GRID_SPACING, span / GRID_NODES)
        side = self._prepare(int(span / spacing) + 4, spacing)
        scaled = (positions - low) / np.float32(spacing)
        cell = scaled.astype(np.intp)
        (x, y), (slope_x, slope_y) = _cubic_splines((scaled - cell).T.astype(np.float32))
        nodes = np.arange(4)
        where = ((cell[:, 0, None] + nodes)[:, :, None] * side + (cell[:, 1, None] + nodes)[:, None, :]).reshape(-1, 16)
        mass = np.bincount(where.ravel(), (x[:, :, None] * y[:, None, :]).ravel(), side * side).astype(np.float32).reshape(side, side)
        potential = fft.irfft2(fft.rfft2(mass) * self._transform, s=(side, side)).ravel()[where].reshape(-1, 4, 4)
        along_y = np.einsum("nab,nb->na", potential, y)
        normalisation = np.einsum("na,na->", along_y, x, dtype=np.float64) - len(positions)  # without each point's own 1
        slope = np.empty_like(positions)
        np.einsum("na,na->n", along_y, slope_x, out=slope[:, 0])
        np.einsum("na,na->n", np.einsum("nab,nb->na", potential, slope_y), x, out=slope[:, 1])
        return slope * np.float32(-0.5 / spacing / normalisation)

    def _prepare(self, nodes: int, spacing: float) -> int:
        """Set the kernel's transform for a map so many nodes wide; return the grid's side: twice that, so that nothing wraps round."""
        nodes = -(-nodes // 16) * 16  # in steps, so that a growing map rarely needs a new kernel
        side: int = fft.next_fast_len(2 * nodes, real=True)
        if self._shape != (side, spacing):
            self._shape = (side, spacing)
            offset = np.minimum(np.arange(side), side - np.arange(side)) * spacing
            kernel = fft.rfft2(1 / (1 + offset[:, None] ** 2 + offset**2)).real  # even, so its transform is real
            # Spreading and reading both blur by the spline's node values (1, 4, 1) / 6: divide twice, and the kernel is exact at the nodes.
            blur = (4 + 2 * np.cos(2 * np.pi * np.arange(side) / side)) / 6
            self._transform = (kernel / np.outer(blur, blur[: side // 2 + 1]) ** 2).astype(np.float32)
        return side


def _cubic_splines(place: Floats) -> tuple[Floats, Floats]:
    """Values and slopes of the four cubic B-splines over a cell, at places 0 to 1 in it: [2, N] -> twice [2, N, 4]."""
    rest = 1 - place
    values = np.stack([rest**3, 4 - 6 * place**2 + 3 * place**3, 4 - 6 * rest**2 + 3 * rest**3, place**3], axis=-1) / 6
    slopes = np.stack([-(rest**2), (3 * place - 4) * place, (4 - 3 * rest) * rest, place**2], axis=-1) / 2
    return values.astype(np.float32), slopes.astype(np.float32)
