"""The mean, the scatter and the principal directions of some rows of a layer that may be larger than memory."""

import copy
import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

CHUNK_VALUES = 2**22  # held at once: 32 MiB of float64
OVERSAMPLED = 8  # directions more than wanted
PASSES = 4
SOME = 4  # one row in so many is read by all passes but the last,
ENOUGH = 16  # where these are so many times the directions;
FARTHEST = 0.01  # and this share of the rows, farthest from their mean: a direction may hang on a handful
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
    Martinsson and Tropp 2011, algorithm 4.4) in the layer's own precision, all passes but the last over a quarter of very many rows: no
    D × D matrix is made, and what memory holds is read once. Where no direction leads, as in noise, what is found is any.
    """
    centred = _Centred(layer, rows)
    if min(len(rows), layer.shape[1]) > FEW * (count + OVERSAMPLED):
        basis = centred.subspace(count + OVERSAMPLED, seed)
    elif len(rows) < layer.shape[1]:
        basis = np.linalg.qr(np.concatenate([values.numpy() for values in centred.pieces()]).T)[0]
    else:
        basis = np.linalg.eigh(scatter_of(layer, rows, centred.mean))[1][:, -count:]
    across = torch.from_numpy(np.ascontiguousarray(basis.T, centred.kind))
    places = torch.cat([across @ values.T for values in centred.pieces()], 1).T.double().numpy()
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
            if layer.dtype != np.float16 and len(rows):  # of that a sum in single precision is exact enough; else equal rows would differ
                first = self.held[0].numpy()
                middle = torch.from_numpy(first + (self.held.numpy() - first).mean(0, dtype=np.float64))
            self.held -= middle.to(self.held.dtype)
            self.mean = middle.double().numpy()
        else:
            self.mean = mean_of(layer, rows)

    def pieces(self) -> Iterator[torch.Tensor]:
        """All rows."""
        if self.held is not None:
            yield self.held
            return
        middle = torch.from_numpy(self.mean.astype(self.kind))
        for part in parts(len(self.rows), self.layer.shape[1]):
            yield self._read(self.rows[part]) - middle

    def some(self) -> "_Centred":
        """Some of them less the mean of all, whatever their order: evenly by the distance from the mean, and the farthest ones."""
        order = torch.cat([torch.linalg.vector_norm(values, dim=1) for values in self.pieces()]).numpy().argsort(kind="stable")
        taken = np.zeros(len(order), bool)
        taken[order[::SOME]] = taken[order[len(order) - round(FARTHEST * len(order)) :]] = True
        places = np.flatnonzero(taken)
        chosen = copy.copy(self)
        chosen.rows, chosen.held = self.rows[places], None if self.held is None else self.held[torch.from_numpy(places)]
        return chosen

    def _read(self, rows: np.ndarray) -> torch.Tensor:
        values = self.layer[rows]
        return torch.from_numpy(values).float() if values.dtype == np.float16 else torch.from_numpy(values.astype(self.kind, copy=False))

    def subspace(self, width: int, seed: int) -> np.ndarray:
        """An orthonormal basis [D, width] of about the leading directions: a few passes over some of the rows, and a last one over all."""
        # A direction is a row: products with so few rows take a half to a quarter of the time that those with as few columns do.
        across = _anywhere(width, self.layer.shape[1], self.kind, seed)
        some = self.some() if len(self.rows) > SOME * ENOUGH * width else self
        for which in (*[some] * (PASSES - 1), self):
            across = torch.linalg.qr(across.T)[0].T.contiguous()
            image = torch.zeros_like(across)
            for values in which.pieces():
                image += (across @ values.T) @ values
            across = image
        return np.asarray(torch.linalg.qr(across.T)[0].numpy())


@functools.lru_cache(maxsize=4)
def _anywhere(count: int, width: int, kind: np.dtype, seed: int) -> torch.Tensor:
    """So many directions [count, D] at random, from which all labels start."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((count, width), kind.type))
