"""An attacker who knows that inputs are held against the model's gradient: what is changed is as smooth as pictures are."""

import torch

from wellcheck.evasion.batch import Batch
from wellcheck.evasion.norms import Linf
from wellcheck.evasion.pgd import pgd
from wellcheck.gradients import blurred, max_normed

BLUR = 2.0  # pixels, the standard deviation


class _Smooth(Linf):
    """L∞, but the direction of a step is that of the blurred gradient: where natural images vary much, so that nobody sees it there."""

    def steepest(self, gradient: torch.Tensor) -> torch.Tensor:
        return super().steepest(blurred(max_normed(gradient), BLUR))


SMOOTH = _Smooth()


def low_frequency(batch: Batch, epsilon: float) -> torch.Tensor:
    """PGD (see `pgd`) by blurred gradients (after Guo, Frank and Weinberger 2019, arXiv 1809.08758); L∞, float [n, C, H, W] in [0, 1]."""
    return pgd(batch, epsilon, SMOOTH)
