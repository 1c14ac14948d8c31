"""Images under attack together, and what every attack needs to know of them before it begins."""

import functools
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch

from wellcheck.errors import InputError
from wellcheck.evasion.victim import Slope, Task, Victim
from wellcheck.gradients import as_pixels, together

ASKED = 512  # images at once


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What an attack may spend on an image; each uses what it knows."""

    steps: int  # gradients of one way up
    restarts: int  # ways
    queries: int  # answers, where no gradient is used

    def __post_init__(self) -> None:
        """Raises InputError for anything below 1: a model that is not attacked would look robust."""
        for name, value in asdict(self).items():
            if value < 1:
                raise InputError(f"evasion: {name} must be at least 1, found {value}")


@dataclass(frozen=True)
class Crowd:
    """All N images of an attack, of which a batch are some; the model is asked about them if an attack wants to know."""

    victim: Victim
    images: np.ndarray  # uint8, or float in [0, 1], [N, C, H, W]

    @functools.cached_property
    @torch.inference_mode()
    def seen(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Their penultimate features, float [N, D], and their answers, int64 [N]."""
        size, network = together(self.images, ASKED), self.victim.classifier.network
        parts = [as_pixels(self.images[start : start + size], self.victim.device) for start in range(0, len(self.images), size)]
        features = torch.cat([self.victim.classifier.embed(pixels).float() for pixels in parts])
        return features, torch.cat([network.head(part).argmax(1) for part in features.split(ASKED)])


@dataclass(frozen=True)
class Batch:
    """n images on their way to be changed."""

    victim: Victim
    clean: torch.Tensor  # float [n, C, H, W] in [0, 1]
    task: Task
    slope: Slope  # of the task's cross-entropy, at the clean images
    budget: Budget
    generator: torch.Generator  # of all that is random
    crowd: Crowd

    def moved(self, perturbation: torch.Tensor) -> torch.Tensor:
        """The images with a perturbation float [n, C, H, W], within [0, 1]."""
        return (self.clean + perturbation).clamp_(0, 1)

    def take(self, rows: torch.Tensor) -> "Batch":
        """Some of the images: int64 rows, or bool [n]."""
        return replace(self, clean=self.clean[rows], task=self.task.take(rows), slope=self.slope.take(rows))


@dataclass(frozen=True)
class Best:
    """The best point so far for each image: a solved one before any other, then by its loss."""

    images: torch.Tensor  # float [n, C, H, W]
    losses: torch.Tensor  # float [n]
    solved: torch.Tensor  # bool [n]

    @classmethod
    def of(cls, batch: Batch) -> "Best":
        """The images as they are."""
        return cls(batch.clean.clone(), batch.slope.losses.clone(), batch.task.done(batch.slope.logits))

    @property
    def unsolved(self) -> torch.Tensor:
        """Rows, int64."""
        return (~self.solved).nonzero()[:, 0]

    def see(self, rows: torch.Tensor, images: torch.Tensor, losses: torch.Tensor, solved: torch.Tensor) -> torch.Tensor:
        """Keep those of these images that are better than what is held for their rows; returns which are unsolved still, bool [n]."""
        better = ~self.solved[rows] & (solved | (losses > self.losses[rows]))
        chosen = rows[better]
        self.images[chosen], self.losses[chosen], self.solved[chosen] = images[better], losses[better], solved[better]
        return ~self.solved[rows]
