"""The control of every attack: a perturbation of the same size in a random direction."""

import torch

from wellcheck.evasion.batch import Batch
from wellcheck.evasion.norms import L2, LINF


def noise_linf(batch: Batch, epsilon: float) -> torch.Tensor:
    """Every value ε up or down by chance, float [n, C, H, W] in [0, 1]."""
    return batch.moved(LINF.around(batch.clean, epsilon, batch.generator))


def noise_l2(batch: Batch, epsilon: float) -> torch.Tensor:
    """Gaussian noise of length ε, float [n, C, H, W] in [0, 1]; what leaves the range is cut off, as it is from an attack's steps."""
    return batch.moved(L2.around(batch.clean, epsilon, batch.generator))
