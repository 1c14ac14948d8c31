"""Witnesses: models trained again without some of the samples, and what they say of those they have never seen."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from wellcheck import training
from wellcheck.models import Classifier
from wellcheck.params import Train
from wellcheck.predictions import predict
from wellcheck.samples import Samples

ORDINARY = 0.5  # a margin is confident where it is above this quantile of those of ordinary samples, answered as labelled


@dataclass(frozen=True)
class Witness:
    """A model, and its answers for all N training samples."""

    classifier: Classifier
    labels: np.ndarray  # int64 [N]: its answers
    margins: np.ndarray  # float32 [N]: log-probability of the received label less that of the best other one

    def confident(self, ordinary: np.ndarray, quantile: float = ORDINARY) -> float:
        """The margin that this share of the ordinary samples (bool [N]) answered as labelled stays below."""
        right = self.margins[ordinary & (self.margins > 0)]
        return float(np.quantile(right, quantile)) if len(right) else float("inf")


def hear(classifier: Classifier, train: Samples, device: torch.device, *, title: str) -> Witness:
    """Ask a model about all samples."""
    log_probabilities = predict(classifier, train.images, device=device, title=title).log_probabilities
    rows = np.arange(len(train))
    own = log_probabilities[rows, train.labels]
    others = log_probabilities.copy()
    others[rows, train.labels] = -np.inf
    return Witness(classifier, log_probabilities.argmax(1), own - others.max(1))


def without(train: Samples, left_out: np.ndarray, recipe: Train, *, device: torch.device, cache: Path, title: str) -> Witness:
    """Train a model on all samples but these (bool [N]), and ask it about all. Taken up from `cache` if it was interrupted."""
    kept = train.take(~left_out)
    nobody = train.take(np.empty(0, np.int64))
    name = training.checkpoint_name(kept.digest(), "", recipe, device)
    trained = training.train(kept, nobody, recipe, device=device, checkpoint=cache / name, title=title)
    return hear(trained.classifier, train, device, title=title)
