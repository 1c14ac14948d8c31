"""Projected gradient descent (Madry et al. 2018, arXiv 1706.06083, section 2.1), in any norm; the best point on the way is kept."""

from dataclasses import dataclass

import torch

from wellcheck.evasion.batch import Batch, Best
from wellcheck.evasion.norms import L2, LINF, Norm
from wellcheck.evasion.victim import Slope, Task, Victim

REACH = 2.5  # steps together, in radii: enough to cross the ball (Madry et al.)


def pgd_linf(batch: Batch, epsilon: float) -> torch.Tensor:
    """See `pgd`; no pixel moves by more than epsilon."""
    return pgd(batch, epsilon, LINF)


def pgd_l2(batch: Batch, epsilon: float) -> torch.Tensor:
    """See `pgd`; epsilon is the length of the whole change."""
    return pgd(batch, epsilon, L2)


def pgd(batch: Batch, epsilon: float, norm: Norm) -> torch.Tensor:
    """The nearest to what is wanted of all points on so many ways, float [n, C, H, W] in [0, 1]; a solved image goes no further.

    The first way begins with a steepest step as long as the radius: what that one solves (FGSM, in L∞) is solved. The others begin anywhere
    in the ball, as does the first one where the image has no gradient to follow. Each takes as many gradients as the budget has steps.
    """
    best, steps = Best.of(batch), batch.budget.steps
    for turn in range(batch.budget.restarts):
        left = best.unsolved
        if not len(left):
            break
        part = batch.take(left)
        first = turn == 0  # its first gradient is the one at the clean images
        if first:
            start = epsilon * norm.steepest(part.slope.gradient)
            flat = ~start.flatten(1).any(1)
            start[flat] = norm.within(part.clean[flat], epsilon, batch.generator)
        else:
            start = norm.within(part.clean, epsilon, batch.generator)
        way = Way(batch.victim, part.clean, part.task, norm, epsilon, step=REACH * epsilon / steps)
        climb(way, part.moved(start), steps - first, best, left)
    return best.images


@dataclass(frozen=True)
class Way:
    """What does not change on one way up: where from, what for, how far at most, and by which steps."""

    victim: Victim
    clean: torch.Tensor  # float [n, C, H, W]
    task: Task
    norm: Norm
    epsilon: float
    step: float

    def allowed(self, images: torch.Tensor) -> torch.Tensor:
        """The images, brought back into the ball and into [0, 1]."""
        return (self.clean + self.norm.project(images - self.clean, self.epsilon)).clamp_(0, 1)

    def further(self, images: torch.Tensor, slope: Slope) -> torch.Tensor:
        """One step up from there."""
        return self.allowed(images + self.step * self.norm.steepest(slope.gradient))

    def take(self, rows: torch.Tensor) -> "Way":
        """The same for some of the images."""
        return Way(self.victim, self.clean[rows], self.task.take(rows), self.norm, self.epsilon, self.step)


def walk(way: Way, images: torch.Tensor, steps: int) -> torch.Tensor:
    """Where so many steps from these images lead, also when the answer has changed."""
    for _ in range(steps):
        images = way.further(images, way.victim.slope(images, way.task))
    return images


def climb(way: Way, images: torch.Tensor, steps: int, best: Best, rows: torch.Tensor) -> None:
    """So many steps from these images; `best` sees every point as one of its `rows`, and what it holds to be solved is dropped."""
    for _ in range(steps):
        slope = way.victim.slope(images, way.task)
        open_ = best.see(rows, images, slope.losses, way.task.done(slope.logits))
        if not open_.all():
            rows, images, way, slope = rows[open_], images[open_], way.take(open_), slope.take(open_)
            if not len(rows):
                return
        images = way.further(images, slope)
    logits = way.victim.logits(images)
    best.see(rows, images, way.task.cross_entropy(logits), way.task.done(logits))
