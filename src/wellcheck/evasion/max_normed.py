"""The gradient itself, scaled to the size of FGSM's step (article A4): no pixel moves more than ε, and it looks like parts of the image."""

import torch

from wellcheck import gradients
from wellcheck.evasion.batch import Batch


def max_normed(batch: Batch, epsilon: float) -> torch.Tensor:
    """x + ε · ∇ loss / max |∇ loss|, float [n, C, H, W] in [0, 1]; an image without gradient stays as it is."""
    return batch.moved(epsilon * gradients.max_normed(batch.slope.gradient))
