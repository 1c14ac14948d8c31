"""The mean, the scatter and the principal directions of some rows of a layer that may be larger than memory."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

CHUNK_VALUES = 2**22  # held at once: 32 MiB of float64
OVERSAMPLED = 8  # directions more than wanted
PASSES = 4
FEW = 4  # rows or columns are few up to so many times the directions asked for


def parts(count: int, width: int) -> Iterator[slice]:
    """So many rows in pieces of at most 4 Mi values."""
    step = max(1, CHUNK_VALUES // max(width, 1))
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def chunks(layer: np.ndarray, rows: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """The rows (int64 [n]) of a layer [N, D] piece by piece: their place in `rows`, and float64 values [m, D]."""
    for part in parts(len(rows), layer.shape[1]):
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


@dataclass(frozen=True)
class Axes:
    """Where some rows of a layer vary most."""

    mean: np.ndarray  # float64 [D], of the rows
    variances: np.ndarray  # float64 [k], of the rows along the directions, largest first
    directions: np.ndarray  # float64 [D, k]
    places: np.ndarray  # float64 [n, k], the rows less their mean, on the directions


def principal(layer: np.ndarray, rows: np.ndarray, *, count: int, seed: int) -> Axes:
    """The leading principal directions of the rows (int64 [n]) of a layer, k ≤ `count` of them.

    Directions without variance are left out, so constant rows have none (k = 0). Each direction's largest component is positive, so that no
    sign hangs on rounding or on the order of the rows. Few rows, or columns, are solved exactly, more by subspace iteration (Halko,
    Martinsson and Tropp 2011, algorithm 4.4) in the layer's own precision: no D × D matrix is made, and what memory holds is read once.
    """
    centred = _Centred(layer, rows)
    if min(len(rows), layer.shape[1]) > FEW * (count + OVERSAMPLED):
        basis = centred.subspace(count + OVERSAMPLED, seed)
    elif len(rows) < layer.shape[1]:
        basis = np.linalg.qr(np.concatenate(list(centred)).T)[0]
    else:
        basis = np.linalg.eigh(scatter_of(layer, rows, centred.mean))[1][:, -count:]
    places = np.concatenate([values @ basis for values in centred]).astype(np.float64)
    values, turned = np.linalg.eigh(places.T @ places)
    rounding = np.finfo(centred.kind).eps ** 2 * (np.maximum(values, 0).sum() + len(rows) * centred.mean @ centred.mean)
    order = np.argsort(-values, kind="stable")[:count]
    order = order[values[order] > max(1e-10 * values.max(initial=0), rounding)]
    directions = basis @ turned[:, order]
    signs = np.sign(directions[np.abs(directions).argmax(0), np.arange(len(order))])
    return Axes(centred.mean, values[order] / len(rows), directions * signs, places @ turned[:, order] * signs)


class _Centred:
    """The rows of a layer less their mean, float32 or float64 [m, D] in pieces, read anew for every pass unless they are few."""

    def __init__(self, layer: np.ndarray, rows: np.ndarray) -> None:
        self.layer, self.rows = layer, rows
        self.kind = np.result_type(layer.dtype, np.float32)
        self.held = self._read(rows) if len(rows) * layer.shape[1] <= CHUNK_VALUES else None
        self.mean = mean_of(layer, rows) if self.held is None else self.held.mean(0, dtype=np.float64)
        if self.held is not None:
            self.held -= self.mean.astype(self.kind)

    def __iter__(self) -> Iterator[np.ndarray]:
        if self.held is not None:
            yield self.held
            return
        for part in parts(len(self.rows), self.layer.shape[1]):
            yield self._read(self.rows[part]) - self.mean.astype(self.kind)

    def _read(self, rows: np.ndarray) -> np.ndarray:
        values = self.layer[rows]
        if values.dtype == np.float16:  # PyTorch widens it several times as fast
            values = torch.from_numpy(values).float().numpy()
        return np.asarray(values, self.kind)

    def subspace(self, width: int, seed: int) -> np.ndarray:
        """An orthonormal basis [D, width] of about the leading directions."""
        basis = np.random.default_rng(seed).standard_normal((self.layer.shape[1], width), self.kind.type)
        for _ in range(PASSES):
            basis = np.linalg.qr(basis)[0]
            narrow = torch.from_numpy(basis)
            image = torch.zeros_like(narrow.T)
            for values in map(torch.from_numpy, self):  # PyTorch multiplies such narrow matrices twice as fast
                image += (values @ narrow).T @ values
            basis = image.numpy().T
        return np.asarray(np.linalg.qr(basis)[0])
