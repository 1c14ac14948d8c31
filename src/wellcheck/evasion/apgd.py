"""Auto-PGD (Croce and Hein 2020, arXiv 2003.01690, algorithm 1): a step size that halves by itself where the loss no longer rises."""

from collections.abc import Iterator

import torch

from wellcheck.evasion.batch import Batch, Best
from wellcheck.evasion.norms import LINF
from wellcheck.evasion.victim import Loss, Task

FIRST_STEP = 2.0  # radii
MOMENTUM = 0.75  # share of the new step
RISING = 0.75  # share of the steps since the last checkpoint that must have raised the loss
FIRST_PERIOD, SHORTER, SHORTEST = 0.22, 0.03, 0.06  # of the steps, between two checkpoints


def apgd_ce(batch: Batch, epsilon: float) -> torch.Tensor:
    """On the cross-entropy, in L∞; float [n, C, H, W] in [0, 1]."""
    return _apgd(batch, epsilon, Task.cross_entropy)


def apgd_dlr(batch: Batch, epsilon: float) -> torch.Tensor:
    """On the difference of logits ratio, which no scale of the logits flattens; with fewer than four classes on the cross-entropy."""
    return _apgd(batch, epsilon, Task.logit_ratio if batch.slope.logits.shape[1] >= 4 else Task.cross_entropy)


def _apgd(batch: Batch, epsilon: float, loss: Loss) -> torch.Tensor:
    kept = Best.of(batch)
    for _ in range(batch.budget.restarts):
        left = kept.unsolved
        if not len(left):
            break
        part = batch.take(left)
        found = _climb(part, epsilon, loss, part.moved(LINF.within(part.clean, epsilon, batch.generator)))
        logits = batch.victim.logits(found)
        kept.see(left, found, part.task.cross_entropy(logits), part.task.done(logits))
    return kept.images


def _climb(batch: Batch, epsilon: float, loss: Loss, images: torch.Tensor) -> torch.Tensor:
    """The best points on the way from these images, float [n, C, H, W]."""
    checkpoints = set(_checkpoints(batch.budget.steps))
    low, high = (batch.clean - epsilon).clamp_(min=0), (batch.clean + epsilon).clamp_(max=1)
    slope = batch.victim.slope(images, batch.task, loss)
    best = Best(images.clone(), slope.losses.clone(), batch.task.done(slope.logits))
    uphill = slope.gradient.clone()  # at the best points
    every = torch.arange(len(images), device=images.device)
    step_size = torch.full_like(slope.losses, FIRST_STEP * epsilon)[:, None, None, None]
    before, losses = images, slope.losses
    rises, since = torch.zeros_like(losses), 0
    halved, top = torch.ones_like(best.solved), losses.clone()  # at the last checkpoint
    for step in range(batch.budget.steps):
        ahead = (images + step_size * slope.gradient.sign()).clamp(low, high)
        if step:
            ahead = (images + MOMENTUM * (ahead - images) + (1 - MOMENTUM) * (images - before)).clamp(low, high)
        before, images = images, ahead
        slope = batch.victim.slope(images, batch.task, loss)
        improved = slope.losses > best.losses
        if not best.see(every, images, slope.losses, batch.task.done(slope.logits)).any():
            break
        uphill[improved] = slope.gradient[improved]
        rises, losses, since = rises + (slope.losses > losses), slope.losses, since + 1
        if step in checkpoints:
            stuck = (rises < RISING * since) | (~halved & (best.losses <= top))
            rises, since, halved, top = torch.zeros_like(rises), 0, stuck, best.losses.clone()
            back = stuck[:, None, None, None]
            step_size = torch.where(back, step_size / 2, step_size)
            images, slope = torch.where(back, best.images, images), slope._replace(gradient=torch.where(back, uphill, slope.gradient))
    return best.images


def _checkpoints(steps: int) -> Iterator[int]:
    before, now, period = 0.0, FIRST_PERIOD, FIRST_PERIOD
    while now <= 1:
        yield round(now * steps)
        period = max(now - before - SHORTER, SHORTEST)
        before, now = now, now + period
