"""t-SNE fast enough to sit in a pipeline: openTSNE with exact neighbours, a short schedule and a grid of moderate fineness.

docs/decisions/0002-fast-tsne.md holds what was measured and why this was chosen. To measure it again:

    WELLCHECK_MIRROR=<mirror> python benchmarks/projection.py --runs 3
"""

import numpy as np

from wellcheck.errors import InputError
from wellcheck.progress import progress

THREADS = 2  # whatever the machine has: the same bytes on the same machine
NEIGHBOURS_PER_PERPLEXITY = 1.5  # 3 is the convention; half as many cost half as much and keep more of the nearest 30
EXAGGERATION = 12  # factor on the attraction at the start (Belkina et al. 2019)
EXAGGERATION_ITERATIONS = 100  # 250 is the convention; from a start by principal components 100 preserve as much
MOMENTUM = 0.8  # share of the last step
GRID = {"ints_in_interval": 1.5, "min_num_intervals": 20}  # openTSNE's default cells are 1 wide: as good in the map, far slower
PROGRESS_EVERY = 10  # iterations


def tsne(features: np.ndarray, *, perplexity: float, components: int | None, iterations: int, seed: int) -> np.ndarray:
    """Map points to two dimensions so that neighbours stay neighbours; float32 [N, 2] (van der Maaten and Hinton 2008).

    features: real numbers [N, D], N at least 4. perplexity: effective number of neighbours, above 1; with fewer than 1.5 * perplexity + 1
    points it is lowered to (N - 1) / 1.5. components: principal components kept before the neighbour search, None to search in all D
    dimensions. iterations: those after the 100 of early exaggeration. Repulsion is interpolated on a grid (Linderman et al. 2019).

    The same input gives the same bytes on the same machine. Points that are all identical all lie at the origin. Raises InputError for
    too few points, NaN, infinity, or anything but a numeric [N, D].
    """
    if perplexity <= 1:
        raise InputError(f"perplexity: found {perplexity}, expected more than 1")
    points = _standardised(features, at_least=4)
    if not points.any():
        return np.zeros((len(points), 2), np.float32)
    # Imported here: most readers of this module only want to measure a map.
    from openTSNE import TSNEEmbedding, affinity, initialization
    from openTSNE.nearest_neighbors import PrecomputedNeighbors
    from sklearn.decomposition import PCA

    if components is not None and components < min(points.shape):
        points = PCA(components, svd_solver="randomized", random_state=seed).fit_transform(points)
    perplexity = min(perplexity, (len(points) - 1) / NEIGHBOURS_PER_PERPLEXITY)
    count = min(int(np.ceil(NEIGHBOURS_PER_PERPLEXITY * perplexity)), len(points) - 1)
    neighbours = PrecomputedNeighbors(*_nearest(points, count))
    affinities = affinity.PerplexityBasedNN(perplexity=perplexity, k_neighbors=count, knn_index=neighbours, n_jobs=THREADS)
    start = initialization.pca(points, random_state=seed) if points.shape[1] > 1 else np.column_stack([points, np.zeros(len(points))])
    embedding = TSNEEmbedding(start, affinities, negative_gradient_method="fft", n_jobs=THREADS, random_state=seed, **GRID)
    with progress("t-SNE", EXAGGERATION_ITERATIONS + iterations, "iterations") as advance:

        def show(iteration: int, error: float, embedding: object) -> None:
            advance(PROGRESS_EVERY)

        shared = {"momentum": MOMENTUM, "callbacks": show, "callbacks_every_iters": PROGRESS_EVERY, "inplace": True}
        embedding.optimize(EXAGGERATION_ITERATIONS, exaggeration=EXAGGERATION, **shared)
        embedding.optimize(iterations, **shared)
    return np.asarray(embedding, np.float32)


def neighbourhood_preservation(features: np.ndarray, projection: np.ndarray, *, neighbours: int) -> float:
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


def _standardised(features: np.ndarray, at_least: int = 2) -> np.ndarray:
    """Centre, scale to at most 1 (no affinity depends on the scale) and check; all zeros where all points are identical."""
    if features.ndim != 2 or not features.shape[1] or features.dtype.kind not in "buif":
        raise InputError(f"features: found {features.dtype} {list(features.shape)}, expected numbers [N, D]")
    if len(features) < at_least:
        raise InputError(f"features: found {len(features)} points, expected at least {at_least}")
    wide = features.astype(np.float64 if features.dtype.itemsize == 8 else np.float32)
    broken = ~np.isfinite(wide).all(axis=1)
    if broken.any():
        raise InputError(f"features: row {int(broken.argmax())} holds NaN or infinity, expected finite numbers")
    if (wide == wide[0]).all():
        return np.zeros(wide.shape, np.float32)
    wide = wide / np.abs(wide).max()  # before the mean, whose sum might overflow
    wide = wide - wide.mean(axis=0, dtype=np.float64).astype(wide.dtype)
    return np.asarray(wide / np.abs(wide).max(), np.float32)


def _nearest(points: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Each point's nearest others, nearest first: indices and Euclidean distances [N, count]; exact, by blocks of matrix products."""
    from sklearn.neighbors import NearestNeighbors

    distances, indices = NearestNeighbors(n_neighbors=count, algorithm="brute", n_jobs=THREADS).fit(points).kneighbors()
    return indices, distances.astype(np.float64)
