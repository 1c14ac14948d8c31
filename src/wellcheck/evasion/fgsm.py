"""The fast gradient sign method (Goodfellow, Shlens and Szegedy 2015, arXiv 1412.6572, section 4)."""

import torch

from wellcheck.evasion.batch import Batch
from wellcheck.evasion.norms import LINF


def fgsm(batch: Batch, epsilon: float) -> torch.Tensor:
    """x + ε · sign(∇ loss), float [n, C, H, W] in [0, 1]."""
    return batch.moved(epsilon * LINF.steepest(batch.slope.gradient))
