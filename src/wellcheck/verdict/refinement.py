"""Which samples of a convicted label: suspects are taken out generously until a reference is free of the backdoor, and that one decides."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from scipy.special import expit

from wellcheck.detectors.mixture import fit, peel
from wellcheck.params import Train
from wellcheck.samples import Samples
from wellcheck.verdict.examination import Examination, reference_recipe
from wellcheck.verdict.witness import Witness, without

ROUNDS = 3  # references of `refine`, at most
FOREIGN = 0.5  # share of a convicted group that must still be foreign on appeal
SETTLED = 0.02  # of the foreign samples: so few new ones, and the reference knows as much as the one before
UNSURE = 0.25  # quantile of ordinary margins: an answer above it is not a guess
REACH = 3.0  # ordinary margins: what is beyond says no more
STEPS = 8  # of the last fit: enough to settle, too few to drift to a tighter group


def appeal(
    train: Samples, suspects: Mapping[int, np.ndarray], examination: Examination, recipe: Train, *, device: torch.device, cache: Path
) -> dict[int, np.ndarray]:
    """The convicted groups that are still foreign to a reference that had to do without these groups alone.

    The first reference did without the suspects of all labels, innocent ones among them, and so without what would have taught it that an
    unusual kind of a class belongs there. suspects: rows int64 [n] by label.
    """
    excluded = np.zeros(len(train), bool)
    for rows in suspects.values():
        excluded[rows] = True
    reference = without(train, excluded, reference_recipe(recipe, turn=3), device=device, cache=cache, title="reference on appeal")
    foreign = (-reference.margins > reference.confident(~excluded)) & (examination.suspected.margins > 0)
    return {label: rows for label, rows in suspects.items() if foreign[rows].mean() >= FOREIGN}


def refine(
    train: Samples,
    whitened: Mapping[str, np.ndarray],
    suspects: Mapping[int, np.ndarray],
    examination: Examination,
    recipe: Train,
    *,
    device: torch.device,
    cache: Path,
) -> tuple[dict[int, np.ndarray], Witness]:
    """The probability of being poison for every sample of the convicted labels, float64 [n] in row order, and the last reference.

    whitened: float32 [N, d] by layer; suspects: rows of the convicted groups, int64 [n] by label. Poison that went unnoticed keeps the
    backdoor alive in a reference, which then reads poison as labelled; so every round leaves out more: whatever still lies apart in a
    convicted label, and what the last reference found foreign. An innocent sample left out is read as labelled all the same.
    """
    mine = np.isin(train.labels, list(suspects))
    excluded = np.zeros(len(train), bool)
    for rows in suspects.values():
        excluded[rows] = True
    reference, foreign = examination.reference, np.zeros(len(train), bool)
    for turn in range(ROUNDS):
        rng = np.random.default_rng([recipe.seed, turn, *b"peel"])
        for label in suspects:
            left = np.flatnonzero((train.labels == label) & ~excluded)
            excluded[left[peel([layer[left] for layer in whitened.values()], rng)]] = True
        again = reference_recipe(recipe, turn=turn + 4)
        reference = without(train, excluded, again, device=device, cache=cache, title=f"reference {turn + 2}")
        unsure = reference.confident(~excluded, UNSURE)
        before, foreign = foreign, mine & (-reference.margins > unsure) & (examination.suspected.margins > 0)
        if (foreign & ~before).sum() <= SETTLED * foreign.sum():
            break
        excluded |= foreign
    return {
        label: _judged(np.flatnonzero(train.labels == label), whitened, examination.suspected, reference, ~excluded) for label in suspects
    }, reference


def _judged(
    rows: np.ndarray, whitened: Mapping[str, np.ndarray], suspected: Witness, reference: Witness, ordinary: np.ndarray
) -> np.ndarray:
    """The posterior of what is surely foreign, in all layers and the reference's margins together, float64 [n]."""
    scale = reference.confident(ordinary)
    margin = (reference.margins[rows] / scale).clip(-REACH, REACH)
    foreign = (-reference.margins[rows] > scale) & (suspected.margins[rows] > 0)
    if not foreign.any() or foreign.all():
        return np.asarray(foreign, np.float64)
    values = np.column_stack([*(layer[rows] for layer in whitened.values()), margin / max(margin.std(), 1e-9)])
    posterior: np.ndarray = expit(fit(values.astype(np.float64), foreign[:, None].astype(np.float64), steps=STEPS).log_odds[:, 0])
    return posterior
