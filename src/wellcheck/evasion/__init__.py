"""Attacks on a model's inputs: images changed by at most so much that the answer changes. An attack is one file here and one line below."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from wellcheck.errors import InputError
from wellcheck.evasion.apgd import apgd_ce, apgd_dlr
from wellcheck.evasion.batch import Batch, Budget, Crowd
from wellcheck.evasion.ensemble import ensemble
from wellcheck.evasion.feature_matching import feature_matching
from wellcheck.evasion.fgsm import fgsm
from wellcheck.evasion.goals import set_task
from wellcheck.evasion.low_frequency import low_frequency
from wellcheck.evasion.max_normed import max_normed
from wellcheck.evasion.noise import noise_l2, noise_linf
from wellcheck.evasion.norms import L2, LINF, Norm
from wellcheck.evasion.pgd import pgd_l2, pgd_linf
from wellcheck.evasion.square import square
from wellcheck.evasion.victim import Victim
from wellcheck.gradients import ROUNDING, as_pixels, together, within_range
from wellcheck.models import Classifier
from wellcheck.params import AttackName, GoalName
from wellcheck.progress import progress
from wellcheck.training import make_repeatable


@dataclass(frozen=True)
class Attack:
    """How an attack is made, and what its epsilon measures."""

    run: Callable[[Batch, float], torch.Tensor]
    norm: Norm


ATTACKS: dict[AttackName, Attack] = {
    "fgsm": Attack(fgsm, LINF),
    "max_normed": Attack(max_normed, LINF),
    "pgd_linf": Attack(pgd_linf, LINF),
    "pgd_l2": Attack(pgd_l2, L2),
    "apgd_ce": Attack(apgd_ce, LINF),
    "apgd_dlr": Attack(apgd_dlr, LINF),
    "square": Attack(square, LINF),
    "ensemble": Attack(ensemble, LINF),
    "feature_matching": Attack(feature_matching, LINF),
    "low_frequency": Attack(low_frequency, LINF),
    "noise_linf": Attack(noise_linf, LINF),
    "noise_l2": Attack(noise_l2, L2),
}
BATCH = 256


@dataclass(frozen=True)
class Attacked:
    """What became of N images at one epsilon."""

    epsilon: float
    images: np.ndarray  # float32 [N, C, H, W] in [0, 1], or of those that were to be kept
    target: np.ndarray  # int64 [N]: the label to get; −1: any other than before
    label_before: np.ndarray  # int64 [N]
    label_after: np.ndarray  # int64 [N]
    confidence_before: np.ndarray  # float32 [N], of the label before
    confidence_after: np.ndarray  # float32 [N], of the label after
    distance: np.ndarray  # float32 [N], in the attack's norm

    @property
    def success(self) -> np.ndarray:
        """Whether the attacker has got what was wanted, bool [N]; what was answered before is nobody's success."""
        aimed, changed = self.target >= 0, self.label_after != self.label_before
        got: np.ndarray = changed & (~aimed | (self.label_after == self.target))
        return got


def attack(
    classifier: Classifier,
    images: np.ndarray,
    *,
    name: AttackName,
    goal: GoalName | int,
    epsilons: Sequence[float],
    budget: Budget,
    device: torch.device,
    seed: int,
    keep: np.ndarray | None = None,
) -> list[Attacked]:
    """Change images uint8, or float in [0, 1], [N, C, H, W] at every epsilon (in units of white); one gradient at them serves all of these.

    goal: see `set_task`; keep: bool [N], whose changed images are returned (all). Raises InputError on pixels or an epsilon
    out of range, a target that is no class, a model in train mode, a model of one class, and gradients or logits that are no numbers.
    """
    chosen = ATTACKS[name]
    largest = chosen.norm.largest(int(np.prod(images.shape[1:])))
    for epsilon in epsilons:
        if not 0 < epsilon <= largest:
            raise InputError(f"{name}: epsilon must lie above 0 and be at most {largest:.4g} (pixels are in [0, 1]); found {epsilon:g}")
    make_repeatable(device)
    victim = Victim(classifier, device)
    # Two streams: whom a random goal aims at must not hang on what an attack draws.
    aims, generator = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed + 1)
    crowd = Crowd(victim, images)
    found: list[list[tuple[torch.Tensor, ...]]] = [[] for _ in epsilons]
    with progress(f"{name}, {goal}", len(images), "images") as advance:
        size = together(images, BATCH)
        for start in range(0, max(len(images), 1), size):
            clean = as_pixels(images[start : start + size], device)
            kept = slice(None) if keep is None else torch.from_numpy(keep[start : start + size]).to(device)
            batch = Batch(victim, clean, *victim.begin(clean, lambda logits: set_task(goal, logits, aims)), budget, generator, crowd)
            for place, epsilon in enumerate(epsilons):
                changed, *columns = _outcome(batch, chosen.run(batch, epsilon), chosen.norm, epsilon)
                found[place].append((changed[kept].cpu(), *columns))
            advance(len(clean))
    tables = [[torch.cat(column).numpy() for column in zip(*parts, strict=True)] for parts in found]
    return [Attacked(epsilon, *table) for epsilon, table in zip(epsilons, tables, strict=True)]


def sign_images(classifier: Classifier, images: np.ndarray, device: torch.device) -> np.ndarray:
    """The direction of FGSM's step as an image of its own (article A4): (1 + sign ∇ loss) / 2, float32 [N, C, H, W]. Raises as `attack`."""
    make_repeatable(device)
    victim, aims = Victim(classifier, device), torch.Generator()
    signs = []
    size = together(images, BATCH)
    for start in range(0, len(images), size):
        _, slope = victim.begin(as_pixels(images[start : start + size], device), lambda logits: set_task("untargeted", logits, aims))
        signs.append(((1 + slope.gradient.sign()) / 2).cpu().numpy())
    return np.concatenate(signs) if signs else np.empty(images.shape, np.float32)


def _outcome(batch: Batch, images: torch.Tensor, norm: Norm, epsilon: float) -> tuple[torch.Tensor, ...]:
    """The images and their columns. Raises InputError where an attack has left its bounds."""
    within_range("attacked images", images)
    distance = norm.size(images - batch.clean)
    if (distance > epsilon * (1 + ROUNDING) + ROUNDING).any():
        raise InputError(f"attacked images: at most {epsilon:g} away was asked for, found {distance.max():.4g}")
    logits = (batch.slope.logits, batch.victim.logits(images))
    labels = [one.argmax(1) for one in logits]
    confidences = [one.softmax(1).gather(1, label[:, None])[:, 0] for one, label in zip(logits, labels, strict=True)]
    target = batch.task.labels if batch.task.targeted else torch.full_like(batch.task.labels, -1)
    columns = (target, *labels, *confidences, distance)
    return (images, *(column.cpu() for column in columns))
