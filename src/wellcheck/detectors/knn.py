"""Whom a sample looks like: the labels of its nearest neighbours in pixels, a model-free sign of a label that was changed.

Distance-free: only the neighbours' labels count, so that neither contrast nor the density of a class plays a part (after Cover and Hart
1967; Wilson 1972 edits a training set by it; k nearest neighbours against poison: Peri et al. 2020, arXiv 1909.13374).
"""

from collections.abc import Callable

import numpy as np
import torch

from wellcheck.detectors.case import Case
from wellcheck.detectors.directions import principal, projected

NEIGHBOURS = 10
DIRECTIONS = 60
REFERENCES = 20_000  # the samples among which neighbours are sought: time is linear in N
CHUNK = 512  # samples compared at once: 40 MiB of distances


def knn_disagreement(case: Case) -> np.ndarray:
    """Share of a sample's ten nearest neighbours that carry another label; scores float64 [N] in [0, 1]. See `neighbour_votes`."""
    return neighbour_votes(case)[0]


def neighbour_votes(case: Case, layer: str = "pixels") -> tuple[np.ndarray, np.ndarray]:
    """The share of a sample's neighbours that carry another label, float64 [N], and how many carry each label, uint8 [N, classes].

    Ten neighbours (or as many as there are), by Euclidean distance along 60 principal directions, among at most 20,000 samples drawn by
    `case.seed`, the sample itself left out. The share is NaN in a label with no more than ten samples among those: it could not agree.
    Where nothing tells samples apart the share is 0, and so are all votes.
    """
    count = len(case.labels)
    references = np.sort(np.random.default_rng(case.seed).permutation(count)[:REFERENCES])
    neighbours = min(NEIGHBOURS, len(references) - 1)
    members = np.bincount(case.labels[references], minlength=case.classes)
    if neighbours < 1:
        return np.full(count, np.nan), np.zeros((count, case.classes), np.uint8)
    features = case.layer(layer)
    axes = principal(features, references, count=DIRECTIONS, seed=case.seed)
    if not axes.directions.size:
        return np.where(members[case.labels] > NEIGHBOURS, 0.0, np.nan), np.zeros((count, case.classes), np.uint8)
    known = torch.from_numpy(axes.places.astype(np.float32))
    votes = np.empty((count, case.classes), np.uint8)
    place = np.full(count, -1)  # among the references
    place[references] = np.arange(len(references))
    vote = _voting(known.to(case.device), torch.from_numpy(case.labels[references]).to(case.device), neighbours, case.classes)
    for start in range(0, count, CHUNK):
        rows = np.arange(start, min(start + CHUNK, count))
        places = projected(features, rows, axes.mean, axes.directions).astype(np.float32)
        votes[rows] = vote(torch.from_numpy(places).to(case.device), place[rows])
    share = 1 - votes[np.arange(count), case.labels] / neighbours
    return np.where(members[case.labels] > NEIGHBOURS, share, np.nan), votes


def _voting(known: torch.Tensor, labels: torch.Tensor, neighbours: int, classes: int) -> Callable[[torch.Tensor, np.ndarray], np.ndarray]:
    """A function that counts the labels of the nearest of `known` [R, k]: places [n, k], own row there int64 [n] or −1 → [n, classes]."""
    # ‖x − r‖² − ‖x‖² = ‖r‖² − 2 x·r, which has the same order as the distances of x.
    squares, transposed = (known**2).sum(1), (-2 * known.T).contiguous()
    space = torch.empty((CHUNK, len(known)), device=known.device)  # a fresh one each time would cost as much as the product

    def vote(places: torch.Tensor, own: np.ndarray) -> np.ndarray:
        distances = torch.addmm(squares, places, transposed, out=space[: len(places)])
        (inside,) = np.nonzero(own >= 0)
        distances[torch.from_numpy(inside), torch.from_numpy(own[inside])] = torch.inf
        nearest = labels[distances.topk(neighbours, dim=1, largest=False, sorted=False).indices]
        found = torch.zeros((len(places), classes), dtype=torch.uint8, device=known.device)
        counted: np.ndarray = found.scatter_add_(1, nearest, torch.ones_like(nearest, dtype=torch.uint8)).cpu().numpy()
        return counted

    return vote
