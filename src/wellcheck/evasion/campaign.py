"""Every attack, for every goal and at every size, on the same images: what became of them as one table."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from wellcheck.artifacts import Columns
from wellcheck.evasion import Attacked, attack, sign_images
from wellcheck.evasion.batch import Budget
from wellcheck.models import Classifier
from wellcheck.params import AttackName, Evasion, GoalName
from wellcheck.predictions import predict
from wellcheck.robustness import SIGN_ALONE, image_name
from wellcheck.samples import Samples


@dataclass(frozen=True)
class Campaign:
    """What is attacked, with what, and of which samples the changed images are kept."""

    chosen: Samples
    shown: np.ndarray  # sample_id, int64 [n]
    settings: Evasion
    device: torch.device

    def run(self, classifier: Classifier, variant: str, goals: Sequence[GoalName]) -> tuple[Columns, Columns]:
        """Every attack for every goal: a row for each epsilon and sample, and the images kept, by `image_name`, float32 [n, C, H, W]."""
        images, kept = self.chosen.images, np.isin(self.chosen.sample_id, self.shown)
        tables, pictures = [], {}
        for name in self.settings.attacks:
            for goal in goals:
                for one in self._attack(classifier, name, goal, kept):
                    tables.append(self._table(variant, name, goal, one))
                    if goal == "untargeted":
                        pictures[image_name(variant, name, one.epsilon)] = one.images
        signs = sign_images(classifier, images, self.device)
        pictures[image_name(variant, SIGN_ALONE, np.nan)] = signs[kept]
        before = predict(classifier, images, device=self.device, title=f"{variant}, as they are")
        alone = predict(classifier, signs, device=self.device, title=f"{variant}, signs alone")
        nothing = np.full(len(images), np.nan, np.float32)
        answers = (before.labels, alone.labels, before.confidences, alone.confidences)
        tables.append(
            self._table(variant, SIGN_ALONE, "untargeted", Attacked(np.nan, signs, np.full(len(images), -1), *answers, distance=nothing))
        )
        return {column: np.concatenate([table[column] for table in tables]) for column in tables[0]}, pictures

    def _attack(self, classifier: Classifier, name: AttackName, goal: GoalName, kept: np.ndarray) -> list[Attacked]:
        chosen = self.settings
        budget = Budget(steps=chosen.steps, restarts=chosen.restarts, queries=chosen.queries)
        return attack(
            classifier,
            self.chosen.images,
            name=name,
            goal=goal,
            epsilons=chosen.sizes(name),
            budget=budget,
            device=self.device,
            seed=chosen.seed,
            keep=kept,
        )

    def _table(self, variant: str, name: str, goal: GoalName, one: Attacked) -> Columns:
        count = len(self.chosen)
        return {
            "variant": np.full(count, variant),
            "sample_id": self.chosen.sample_id,
            "label": self.chosen.labels,
            "attack": np.full(count, name),
            "goal": np.full(count, goal),
            "epsilon": np.full(count, one.epsilon),
            "target": one.target,
            "label_before": one.label_before,
            "label_after": one.label_after,
            "confidence_before": one.confidence_before,
            "confidence_after": one.confidence_after,
            "distance": one.distance,
            "success": one.success,
        }
