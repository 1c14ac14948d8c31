"""An attacker who knows that layers are watched: features are moved onto those of a natural image that is answered otherwise."""

import torch

from wellcheck.evasion.batch import Batch
from wellcheck.evasion.norms import LINF
from wellcheck.evasion.pgd import REACH
from wellcheck.gradients import answers, by_image


def feature_matching(batch: Batch, epsilon: float) -> torch.Tensor:
    """Feature matching (Sabour et al. 2016, arXiv 1511.05122, equation 1) by steps of a sign; L∞, float [n, C, H, W] in [0, 1].

    The guide is the image whose penultimate features are nearest, of all those of the attack that are answered as the attacker wants;
    where none is, nobody shows the way, and the image stays. Of all points on the way the one nearest to it is kept, of those that are as
    wanted if there are any: it goes on when the answer has changed.
    """
    victim, steps = batch.victim, batch.budget.steps
    embed, head = victim.classifier.embed, victim.classifier.network.head
    with torch.no_grad():
        natural = embed(batch.clean).float()
    features_of, answered = batch.crowd.seen
    fits = (answered[None] == batch.task.labels[:, None]) == batch.task.targeted
    guided = fits.any(1)
    guides = features_of[torch.cdist(natural, features_of).masked_fill(~fits, torch.inf).argmin(1)]
    images, kept = batch.clean.clone(), batch.clean.clone()
    nearest, solved = torch.full_like(batch.slope.losses, torch.inf), torch.zeros_like(guided)
    for step in range(steps + 1):
        images = images.detach().requires_grad_(True)
        features = answers(embed, images)
        away = (features - guides).square().sum(1)
        done = batch.task.done(head(features).detach())
        better = guided & (done & ~solved | (done == solved) & (away.detach() < nearest))
        kept[better], nearest[better], solved[better] = images.detach()[better], away.detach()[better], done[better]
        if step < steps:
            ahead = images.detach() - REACH * epsilon / steps * by_image(away, images).sign()
            images = batch.moved(LINF.project(ahead - batch.clean, epsilon))
    return kept
