"""The gradient itself, scaled to the size of FGSM's step (article A4): no pixel moves more than ε, and it looks like parts of the image."""

import torch

from wellcheck.evasion.batch import Batch
from wellcheck.evasion.norms import LINF


def max_normed(batch: Batch, epsilon: float) -> torch.Tensor:
    """x + ε · ∇ loss / max |∇ loss|, float [n, C, H, W] in [0, 1]; an image without gradient stays as it is."""
    gradient = batch.slope.gradient
    largest = LINF.size(gradient)
    shape = gradient / torch.where(largest > 0, largest, 1)[:, None, None, None]  # first: ε times a sure model's gradient may be rounded up
    return batch.moved(epsilon * shape)
