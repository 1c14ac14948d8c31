"""The mean, the spread and the principal directions of some rows of a layer that may be larger than memory."""

from collections.abc import Iterator

import numpy as np

CHUNK_VALUES = 2**22  # float64 held at once: 32 MiB
EXACT_WIDTH = 2048  # up to here the D × D scatter is cheap; wider layers get their leading directions from a few passes
OVERSAMPLED = 12  # directions more than wanted, and passes: Halko, Martinsson and Tropp (2011), algorithm 4.4
PASSES = 4


def chunks(layer: np.ndarray, rows: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """The rows (int64 [n]) of a layer [N, D] piece by piece: their place in `rows`, and float64 values [m, D]."""
    step = max(1, CHUNK_VALUES // max(layer.shape[1], 1))
    for start in range(0, len(rows), step):
        part = slice(start, min(start + step, len(rows)))
        yield part, layer[rows[part]].astype(np.float64)


def mean_of(layer: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The mean of the rows, float64 [D]."""
    total = np.zeros(layer.shape[1])
    for _, values in chunks(layer, rows):
        total += values.sum(0)
    return total / max(len(rows), 1)


def scatter_of(layer: np.ndarray, rows: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Σ (h − mean)(h − mean)′ over the rows, float64 [D, D]."""
    scatter = np.zeros((layer.shape[1], layer.shape[1]))
    for _, values in chunks(layer, rows):
        values -= mean
        scatter += values.T @ values
    return scatter


def projected(layer: np.ndarray, rows: np.ndarray, mean: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """(h − mean) · directions for every row, float64 [n, k]; directions: float64 [D, k]."""
    places = np.empty((len(rows), directions.shape[1]))
    for part, values in chunks(layer, rows):
        places[part] = (values - mean) @ directions
    return places


def principal(layer: np.ndarray, rows: np.ndarray, *, count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The mean [D] of the rows, their variances [k] along the leading directions, largest first, and those directions [D, k].

    k is at most `count`; directions without variance are left out, so constant rows have none (k = 0). Each direction's largest component
    is positive, so that no sign hangs on rounding or on the order of the rows.
    """
    mean = mean_of(layer, rows)
    if len(rows) < layer.shape[1] and len(rows) <= EXACT_WIDTH:
        # With X = U S V', X X' = U S² U' and V = X' U / S.
        centred = layer[rows].astype(np.float64) - mean
        values, left = np.linalg.eigh(centred @ centred.T)
        values, directions = values[-count:], centred.T @ (left[:, -count:] / np.sqrt(np.maximum(values[-count:], 1e-300)))
    elif layer.shape[1] <= EXACT_WIDTH:
        values, directions = np.linalg.eigh(scatter_of(layer, rows, mean))
    else:
        values, directions = _leading(layer, rows, mean, count, seed)
    rounding = 1e-22 * (np.maximum(values, 0).sum() + len(rows) * mean @ mean)
    order = np.argsort(-values, kind="stable")[:count]
    order = order[values[order] > max(1e-10 * values.max(initial=0), rounding)]
    directions = directions[:, order]
    signs = np.sign(directions[np.abs(directions).argmax(0), np.arange(len(order))])
    return mean, values[order] / len(rows), directions * signs


def _leading(layer: np.ndarray, rows: np.ndarray, mean: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scatter along the leading directions of a wide layer, ascending, by subspace iteration: no D × D matrix is made."""
    basis = np.random.default_rng(seed).standard_normal((layer.shape[1], min(count + OVERSAMPLED, *layer.shape)))
    for _ in range(PASSES):
        basis = np.linalg.qr(basis)[0]
        image = np.zeros_like(basis)
        for _, values in chunks(layer, rows):
            values -= mean
            image += values.T @ (values @ basis)
        basis = image
    basis = np.linalg.qr(basis)[0]
    places = projected(layer, rows, mean, basis)
    values, turned = np.linalg.eigh(places.T @ places)
    return values, basis @ turned
