"""What an attack sees: a classifier that can be asked for answers and for gradients by the image, and what is wanted of some images."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from wellcheck.errors import InputError
from wellcheck.gradients import answers, by_image, ready
from wellcheck.models import Classifier

SHORTEST = 1e-12  # of a difference of logits that something is divided by


@dataclass(frozen=True)
class Task:
    """The label that each image must lose, or get."""

    labels: torch.Tensor  # int64 [n]
    targeted: bool  # whether an image must get its label; else lose it

    def done(self, logits: torch.Tensor) -> torch.Tensor:
        """Where logits float [n, K] are as wanted, bool [n]."""
        return (logits.argmax(1) == self.labels) == self.targeted

    def cross_entropy(self, logits: torch.Tensor) -> torch.Tensor:
        """How near logits float [n, K] are to what is wanted, float [n]: more is nearer."""
        loss = nn.functional.cross_entropy(logits, self.labels, reduction="none")
        return -loss if self.targeted else loss

    def margin(self, logits: torch.Tensor) -> torch.Tensor:
        """The same by the difference to the best other logit, float [n], which does not vanish where a model is sure of itself."""
        own = logits.gather(1, self.labels[:, None])[:, 0]
        other = logits.scatter(1, self.labels[:, None], -torch.inf).amax(1)
        return own - other if self.targeted else other - own

    def logit_ratio(self, logits: torch.Tensor) -> torch.Tensor:
        """The same by the difference of logits ratio, float [n], which no scale changes (Croce and Hein 2020, arXiv 2003.01690, eq. 6).

        With a target after equation 7, which needs four classes (the other one three), but against the best other logit: the paper's is the
        true class's, which an attacker who only sees answers does not know.
        """
        ordered = logits.sort(dim=1, descending=True).values
        below = ordered[:, 2:4].mean(1) if self.targeted else ordered[:, 2]
        return self.margin(logits) / (ordered[:, 0] - below + SHORTEST)

    def take(self, rows: torch.Tensor) -> "Task":
        """The task for some of the images: int64 rows, or bool [n]."""
        return Task(self.labels[rows], self.targeted)


Loss = Callable[[Task, torch.Tensor], torch.Tensor]
Goal = Callable[[torch.Tensor], Task]


class Slope(NamedTuple):
    """A loss at some images, and how it rises from there."""

    losses: torch.Tensor  # float [n]
    gradient: torch.Tensor  # float [n, C, H, W]
    logits: torch.Tensor  # float [n, K]

    def take(self, rows: torch.Tensor) -> "Slope":
        """The same for some of the images: int64 rows, or bool [n]."""
        return Slope(self.losses[rows], self.gradient[rows], self.logits[rows])


class Victim:
    """A classifier under attack. Images are float [n, C, H, W] in [0, 1]; what normalises them is part of the classifier."""

    def __init__(self, classifier: Classifier, device: torch.device) -> None:
        """Raises InputError if the classifier is in train mode."""
        self.classifier, self.device = ready(classifier, device), device

    @torch.inference_mode()
    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Float [n, K]. Raises InputError where a logit is no number: no answer would follow from it."""
        logits: torch.Tensor = self.classifier(images).float()
        broken = ~logits.isfinite().all(1)
        if broken.any():
            raise InputError(f"the model: the logits of {int(broken.sum())} of {len(images)} images are not finite")
        return logits

    def begin(self, images: torch.Tensor, goal: Goal) -> tuple[Task, Slope]:
        """The task that the goal sets by the logits, and its cross-entropy's slope by the same pass. Raises InputError as `slope`."""
        images = images.detach().requires_grad_(True)
        logits = answers(self.classifier, images)
        task = goal(logits.detach())
        return task, self._slope(images, logits, task.cross_entropy(logits))

    def slope(self, images: torch.Tensor, task: Task, loss: Loss = Task.cross_entropy) -> Slope:
        """The loss of every image and its gradient. Raises InputError where a gradient is no number."""
        images = images.detach().requires_grad_(True)
        logits = answers(self.classifier, images)
        return self._slope(images, logits, loss(task, logits))

    def _slope(self, images: torch.Tensor, logits: torch.Tensor, losses: torch.Tensor) -> Slope:
        return Slope(losses.detach(), by_image(losses, images), logits.detach())
