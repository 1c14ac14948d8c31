"""Second opinions on labels: as many models as folds, each trained without one fold of a set and then asked about it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from wellcheck import label_errors, training
from wellcheck.errors import InputError
from wellcheck.params import LabelErrors, Train
from wellcheck.predictions import predict
from wellcheck.samples import Samples


@dataclass(frozen=True)
class Asked:
    """Which samples there can be a second opinion on."""

    rows: np.ndarray  # int64 [n], in the order of the set
    too_few: dict[int, int]  # labels of which fewer are asked about than there are folds, with their number: some model would not know them


def choose(labels: np.ndarray, settings: LabelErrors) -> Asked:
    """Whom to ask about, of labels int64 [N]. Raises InputError if not two classes are left."""
    most = len(labels) if settings.samples is None else min(settings.samples, len(labels))
    # At random, but of every class its share.
    order = np.lexsort((np.random.default_rng([settings.seed, *b"asked"]).permutation(len(labels)), labels))
    rows = np.sort(order[np.unique(np.linspace(0, len(labels) - 1, most).round().astype(int))])
    found, members = np.unique(labels), np.bincount(labels[rows], minlength=int(labels.max(initial=0)) + 1)
    too_few = {int(label): int(members[label]) for label in found if members[label] < settings.folds}
    enough = len(found) - len(too_few)
    if enough < 2:
        advice = "lower label_errors.folds" + ("" if most == len(labels) else " or raise label_errors.samples")
        raise InputError(
            f"label_errors.folds: found {settings.folds}, but of {len(found)} classes among {most:,} samples only {enough} have as many, "
            f"and at least two must: {advice}"
        )
    return Asked(rows[~np.isin(labels[rows], list(too_few))], too_few)


def hear(asked: Samples, recipe: Train, settings: LabelErrors, *, device: torch.device, cache: Path) -> np.ndarray:
    """Probabilities float32 [N, K] of every sample by the model that did not see it; each training is taken up from `cache`.

    Raises InputError if a training diverges, or if a label has fewer samples than there are folds.
    """
    recipe = recipe.unrecorded(epochs=settings.epochs or recipe.epochs)

    def answer(inside: np.ndarray, outside: np.ndarray, fold: int) -> np.ndarray:
        title = f"model {fold + 1} of {settings.folds}"
        trained = training.train_again(asked.take(inside), recipe, device=device, cache=cache, title=title)
        said: np.ndarray = np.exp(predict(trained.classifier, asked.images[outside], device=device, title=title).log_probabilities)
        return said

    classes = len(asked.description.class_names)
    return label_errors.out_of_sample(asked.labels, classes, folds=settings.folds, seed=settings.seed, answer=answer)
