"""Three attacks of different kinds one after another, each on what the former left (after AutoAttack, Croce and Hein 2020)."""

import torch

from wellcheck.evasion.apgd import apgd_ce, apgd_dlr
from wellcheck.evasion.batch import Batch
from wellcheck.evasion.square import square


def ensemble(batch: Batch, epsilon: float) -> torch.Tensor:
    """Auto-PGD on the cross-entropy and on the difference of logits ratio, then squares; L∞, float [n, C, H, W] in [0, 1]."""
    images = batch.clean.clone()
    left = torch.arange(len(images), device=images.device)
    for attack in (apgd_ce, apgd_dlr, square):
        if not len(left):
            break
        part = batch.take(left)
        images[left] = attack(part, epsilon)
        left = left[~part.task.done(batch.victim.logits(images[left]))]
    return images
