"""Square Attack (Andriushchenko et al. 2020, arXiv 1912.00049, algorithms 1 and 2): random squares, and no gradient at all."""

from dataclasses import replace

import torch

from wellcheck.evasion.batch import Batch, Best

FIRST_SHARE = 0.8  # of the image's area that the first squares cover
HALVES = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)  # shares of the queries after which a square covers half as much


def square(batch: Batch, epsilon: float) -> torch.Tensor:
    """Squares of ±ε, each kept where it brings the image nearer to what is wanted; L∞, float [n, C, H, W] in [0, 1]."""
    best = replace(Best.of(batch), losses=batch.task.margin(batch.slope.logits))
    for query in range(batch.budget.queries):
        left = best.unsolved
        if not len(left):
            break
        part = batch.take(left)
        tried = _stripes(part, epsilon) if query == 0 else _with_square(part, best.images[left], epsilon, query / batch.budget.queries)
        logits = batch.victim.logits(tried)
        best.see(left, tried, part.task.margin(logits), part.task.done(logits))
    return best.images


def _stripes(batch: Batch, epsilon: float) -> torch.Tensor:
    count, channels, _, width = batch.clean.shape
    return batch.moved(epsilon * _signs((count, channels, 1, width), batch))


def _with_square(batch: Batch, images: torch.Tensor, epsilon: float, spent: float) -> torch.Tensor:
    """The images with a square somewhere in which every channel stands at its upper or its lower bound."""
    count, channels, height, width = images.shape
    share = FIRST_SHARE / 2 ** sum(spent > point for point in HALVES)
    side = max(1, min(round((share * height * width) ** 0.5), height, width))
    rows, columns = (
        (torch.randint(0, length - side + 1, (count, 1), generator=batch.generator) - torch.arange(length)).to(images.device)
        for length in (height, width)
    )
    inside = ((rows <= 0) & (rows > -side))[:, None, :, None] & ((columns <= 0) & (columns > -side))[:, None, None, :]
    return torch.where(inside, batch.moved(epsilon * _signs((count, channels, 1, 1), batch)), images)


def _signs(shape: tuple[int, ...], batch: Batch) -> torch.Tensor:
    drawn = torch.randint(0, 2, shape, generator=batch.generator)
    return (2 * drawn - 1).to(batch.clean.device, batch.clean.dtype)
