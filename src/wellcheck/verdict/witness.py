"""Witnesses: models trained again without some of the samples, and what they say of those they have never seen."""

import enum
import functools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from wellcheck import training
from wellcheck.models import Classifier
from wellcheck.params import Train
from wellcheck.predictions import predict
from wellcheck.samples import Samples, evenly

ORDINARY = 0.5  # quantile of the margins of ordinary samples, answered as labelled: an answer above it is confident
UNSURE = 0.25  # quantile of these: an answer above it is not a guess
LEAST_EPOCHS = 10  # of a reference
NEAREST = 5  # neighbours
REFERENCES = 2000  # of one answer, among which neighbours are sought
TYPICAL = 0.95  # quantile of how far apart ordinary samples lie
BATCH = 256


@enum.unique
class Turn(enum.IntEnum):
    """Every model that is trained for a verdict: each has a seed of its own, but for those that are refined again and again."""

    REFERENCE = 1
    SECOND_WITNESS = 2
    APPEAL = 3
    REFINED = 4
    REFINED_AGAIN = 5
    WITHOUT_THE_LABEL = 6
    HALVES = 7
    OTHER_HALVES = 8


@dataclass(frozen=True, eq=False)
class Witness:
    """A model, and what it says of all N training samples."""

    classifier: Classifier
    images: np.ndarray  # uint8 [N, C, H, W]
    device: torch.device
    labels: np.ndarray  # int64 [N]: its answers
    margins: np.ndarray  # float32 [N]: log-probability of the received label less that of the best other one

    def confident(self, ordinary: np.ndarray, quantile: float = ORDINARY) -> float:
        """The margin that this share of the ordinary samples (bool [N]) answered as labelled stays below."""
        right = self.margins[ordinary & (self.margins > 0)]
        return float(np.quantile(right, quantile)) if len(right) else float("inf")

    def confident_by_answer(self, ordinary: np.ndarray, quantile: float) -> np.ndarray:
        """The same for every answer, float64 [K]: of a class that the model saw little of it is never as sure as of others."""
        labels = self.labels[ordinary & (self.margins > 0)]
        margins = self.margins[ordinary & (self.margins > 0)]
        classes = len(self.classifier.description.class_names)
        known = [margins[labels == answer] for answer in range(classes)]
        return np.array([np.quantile(some, quantile) if len(some) > NEAREST else np.inf for some in known])

    def contradicts(self, other: "Witness", ordinary: np.ndarray, quantile: float = ORDINARY) -> np.ndarray:
        """Samples that the other model answers as labelled, and this one gives to another label, bool [N].

        As surely, at least, as this share of ordinary samples (bool [N]) is answered: many margins are alike where a network saturates.
        """
        found: np.ndarray = (-self.margins >= self.confident(ordinary, quantile)) & (other.margins > 0)
        return found

    def foreign(self, other: "Witness", ordinary: np.ndarray) -> np.ndarray:
        """Samples that show another label than theirs: contradicted, and typical of what this model sees in them, bool [N]."""
        found: np.ndarray = self.contradicts(other, ordinary) & self.typical(ordinary)
        return found

    def typical(self, ordinary: np.ndarray) -> np.ndarray:
        """Samples as near, in its features, to ordinary ones (bool [N]) that it answers alike as these are to each other, bool [N].

        What a model has never seen it gives to some label all the same, and be it surely; only it does not look like that label's images.
        """
        found = np.zeros(len(self.labels), bool)
        for answer in np.unique(self.labels):
            known = self._known(answer, ordinary)
            if len(known) > NEAREST:
                rows = np.flatnonzero(self.labels == answer)
                distance = self.nearest(rows, evenly(known, REFERENCES))[0].mean(1)
                found[rows] = distance <= np.quantile(distance[np.isin(rows, known)], TYPICAL)
        return found

    def _known(self, answer: int, ordinary: np.ndarray) -> np.ndarray:
        """The ordinary samples that it answers so, as labelled: int64 [n]."""
        return np.flatnonzero(ordinary & (self.labels == answer) & (self.margins > 0))

    def nearest(self, rows: np.ndarray, among: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The five samples of `among` (int64 [m], more than five) nearest to each row (int64 [n]) in its features, itself excepted.

        Returns distances float32 [n, 5], and samples int64 [n, 5].
        """
        found = np.empty((len(rows), NEAREST), np.int64)
        distances = np.empty((len(rows), NEAREST), np.float32)
        for start in range(0, len(rows), BATCH):
            part = slice(start, start + BATCH)
            distance = torch.cdist(self.features[rows[part]], self.features[among])
            distance[torch.from_numpy(rows[part, None] == among)] = torch.inf
            least = distance.topk(NEAREST, largest=False)
            distances[part], found[part] = least.values.numpy(), among[least.indices.numpy()]
        return distances, found

    def reads(self, images: np.ndarray, ordinary: np.ndarray) -> np.ndarray:
        """Its answers for images uint8 [n, C, H, W] that are typical of them as above, −1 for the others, int64 [n]."""
        answers, features = self.answers(images), self._embedded(images)
        found = np.full(len(images), -1)
        for answer in np.unique(answers):
            known = evenly(self._known(answer, ordinary), REFERENCES)
            if len(known) > NEAREST:
                farthest = np.quantile(self.nearest(known, known)[0].mean(1), TYPICAL)
                mine = np.flatnonzero(answers == answer)
                distance = torch.cdist(features[mine], self.features[known]).topk(NEAREST, largest=False).values.mean(1).numpy()
                found[mine[distance <= farthest]] = answer
        return found

    def answers(self, images: np.ndarray) -> np.ndarray:
        """Its answers for images uint8 [n, C, H, W], int64 [n]."""
        return predict(self.classifier, images, device=self.device, title="transfer").labels

    @functools.cached_property
    def features(self) -> torch.Tensor:
        """Its penultimate layer for all training samples, float [N, D], on the CPU."""
        return self._embedded(self.images)

    @torch.inference_mode()
    def _embedded(self, images: np.ndarray) -> torch.Tensor:
        return torch.cat([self.classifier.embed(part.to(self.device)).cpu() for part in torch.from_numpy(images).split(BATCH)])


@dataclass(frozen=True)
class Witnesses:
    """Who can be asked about a delivered training set: models trained on it by one recipe, taken up from `cache` if interrupted."""

    train: Samples
    recipe: Train
    device: torch.device
    cache: Path

    def hear(self, classifier: Classifier, title: str) -> Witness:
        """Ask a model about all samples."""
        log_probabilities = predict(classifier, self.train.images, device=self.device, title=title).log_probabilities
        rows = np.arange(len(self.train))
        own = log_probabilities[rows, self.train.labels]
        others = log_probabilities.copy()
        others[rows, self.train.labels] = -np.inf
        return Witness(classifier, self.train.images, self.device, log_probabilities.argmax(1), own - others.max(1))

    def without(self, left_out: np.ndarray, title: str, *, turn: Turn, epochs: int | None = None) -> Witness:
        """A model trained on all samples but these (bool [N])."""
        recipe = self.recipe.unrecorded(seed=(self.recipe.seed + turn) % 2**32, epochs=epochs or self.recipe.epochs)
        trained = training.train_again(self.train.take(~left_out), recipe, device=self.device, cache=self.cache, title=title)
        return self.hear(trained.classifier, title)

    def reference(self, left_out: np.ndarray, title: str, *, turn: Turn) -> Witness:
        """Half the epochs, but enough: what an image shows is learnt long before what a backdoor or a single sample teaches."""
        return self.without(left_out, title, turn=turn, epochs=max(self.recipe.epochs // 2, min(self.recipe.epochs, LEAST_EPOCHS)))

    def marked(self, groups: Iterable[np.ndarray]) -> np.ndarray:
        """The samples of these groups (rows int64 [n] each), bool [N]."""
        marked = np.zeros(len(self.train), bool)
        for rows in groups:
            marked[rows] = True
        return marked
