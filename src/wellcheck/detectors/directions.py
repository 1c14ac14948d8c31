"""The mean, the scatter and the principal directions of some rows of a layer that may be larger than memory."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

CHUNK_VALUES = 2**22  # held at once: 32 MiB of float64
OVERSAMPLED = 8  # directions more than wanted
PASSES = 4
SOME = 4  # one row in so many, drawn at random, is read by all passes but the last,
ENOUGH = 16  # where these are so many times the directions
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
        basis = np.linalg.qr(np.concatenate([values.numpy() for values in centred.pieces()]).T)[0]
    else:
        basis = np.linalg.eigh(scatter_of(layer, rows, centred.mean))[1][:, -count:]
    narrow = torch.from_numpy(basis.astype(centred.kind))
    places = torch.cat([values @ narrow for values in centred.pieces()]).double().numpy()
    values, turned = np.linalg.eigh(places.T @ places)
    rounding = np.finfo(centred.kind).eps ** 2 * (np.maximum(values, 0).sum() + len(rows) * centred.mean @ centred.mean)
    order = np.argsort(-values, kind="stable")[:count]
    order = order[values[order] > max(1e-10 * values.max(initial=0), rounding)]
    directions = basis @ turned[:, order]
    signs = np.sign(directions[np.abs(directions).argmax(0), np.arange(len(order))])
    return Axes(centred.mean, values[order] / len(rows), directions * signs, places @ turned[:, order] * signs)


class _Centred:
    """The rows of a layer less their mean, in pieces [m, D] of its own precision, read anew for every pass unless they are few.

    By PyTorch, which widens half precision, and multiplies by what is narrow, several times as fast as NumPy.
    """

    def __init__(self, layer: np.ndarray, rows: np.ndarray) -> None:
        self.layer, self.rows = layer, rows
        self.kind = np.result_type(layer.dtype, np.float32)
        self.held: torch.Tensor | None = None
        if len(rows) * layer.shape[1] <= CHUNK_VALUES:
            self.held = self._read(rows)
            middle = self.held.mean(0)
            self.held -= middle
            self.mean = middle.double().numpy()
        else:
            self.mean = mean_of(layer, rows)

    def pieces(self, some: np.ndarray | None = None) -> Iterator[torch.Tensor]:
        """All rows, or some of them (int64 [m], places among the rows)."""
        if self.held is not None:
            yield self.held if some is None else self.held[torch.from_numpy(some)]
            return
        middle, rows = torch.from_numpy(self.mean.astype(self.kind)), self.rows if some is None else self.rows[some]
        for part in parts(len(rows), self.layer.shape[1]):
            yield self._read(rows[part]) - middle

    def _read(self, rows: np.ndarray) -> torch.Tensor:
        values = torch.from_numpy(self.layer[rows])
        return values.double() if self.kind == np.float64 else values.float()

    def subspace(self, width: int, seed: int) -> np.ndarray:
        """An orthonormal basis [D, width] of about the leading directions: a few passes over some of the rows, and a last one over all."""
        rng, count = np.random.default_rng(seed), len(self.rows)
        basis = rng.standard_normal((self.layer.shape[1], width), self.kind.type)
        some = np.sort(rng.choice(count, count // SOME, replace=False)) if count > SOME * ENOUGH * width else None
        for which in (*[some] * (PASSES - 1), None):
            basis = np.linalg.qr(basis)[0]
            narrow = torch.from_numpy(basis)
            image = torch.zeros_like(narrow.T)
            for values in self.pieces(which):
                image += (values @ narrow).T @ values
            basis = image.numpy().T
        return np.asarray(np.linalg.qr(basis)[0])
