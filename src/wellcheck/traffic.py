"""What arrives at a served model: natural inputs, attacked ones, and natural ones that are other than what it learnt."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from scipy import ndimage

from wellcheck.evasion import attack
from wellcheck.evasion.batch import Budget
from wellcheck.evasion.goals import set_task
from wellcheck.evasion.norms import LINF
from wellcheck.evasion.pgd import REACH, Way, walk
from wellcheck.evasion.victim import Victim
from wellcheck.gradients import as_pixels, together
from wellcheck.models import Classifier
from wellcheck.params import AttackName, ShiftName, TwoSample
from wellcheck.progress import progress

BATCH = 256
QUERIES = 500  # of an attack that sees no gradient
BLUR = 1.0  # pixels, the standard deviation
BRIGHTER = 0.2  # of the range from black to white
TURNED = 15.0  # degrees
PGD, NOISE = "pgd", "gaussian_noise"


def blur(images: np.ndarray) -> np.ndarray:
    """By a Gaussian; images float32 [N, C, H, W] in [0, 1], as of all shifts."""
    blurred: np.ndarray = ndimage.gaussian_filter(images, (0, 0, BLUR, BLUR), mode="nearest")
    return blurred


def brightness(images: np.ndarray) -> np.ndarray:
    """Brighter, and white where that is too much."""
    return np.minimum(images + np.float32(BRIGHTER), 1)


def rotation(images: np.ndarray) -> np.ndarray:
    """Turned about the centre, the edges continued."""
    turned: np.ndarray = ndimage.rotate(images, TURNED, (3, 2), reshape=False, order=1, mode="nearest")
    return turned


SHIFTS: dict[ShiftName, Callable[[np.ndarray], np.ndarray]] = {"blur": blur, "brightness": brightness, "rotation": rotation}


@dataclass(frozen=True)
class Kind:
    """One kind of traffic."""

    name: str  # an attack's, a shift's, `pgd` or `gaussian_noise`; of what `make` does not make, `natural` or `trigger`
    epsilon: float | None  # None of a shift

    @property
    def told(self) -> str:
        """As a name of a file's entry."""
        return self.name if self.epsilon is None else f"{self.name}/{self.epsilon:g}"


def kinds(settings: TwoSample) -> Iterator[Kind]:
    """Every attack and noise at every size, then the shifts."""
    for name in (PGD, *settings.attacks, NOISE):
        yield from (Kind(name, epsilon) for epsilon in sorted(settings.epsilons))
    yield from (Kind(name, None) for name in settings.shifts)


def make(kind: Kind, classifier: Classifier, images: np.ndarray, settings: TwoSample, device: torch.device) -> np.ndarray:
    """Images uint8 [N, C, H, W] as that kind of traffic, float32 [N, C, H, W] in [0, 1]."""
    if kind.epsilon is None:
        shift = SHIFTS[cast(ShiftName, kind.name)]
        return np.ascontiguousarray(shift(images.astype(np.float32) / 255).clip(0, 1), np.float32)
    if kind.name == NOISE:
        noise = np.random.default_rng([settings.seed, *b"noise"]).standard_normal(images.shape, np.float32)
        return (images.astype(np.float32) / 255 + np.float32(kind.epsilon) * noise).clip(0, 1)
    if kind.name == PGD:
        return _all_steps(classifier, images, kind.epsilon, settings, device)
    (found,) = attack(
        classifier,
        images,
        name=cast(AttackName, kind.name),
        goal="untargeted",
        epsilons=[kind.epsilon],
        budget=Budget(steps=settings.steps, restarts=1, queries=QUERIES),
        device=device,
        seed=settings.seed,
    )
    return found.images


def _all_steps(classifier: Classifier, images: np.ndarray, epsilon: float, settings: TwoSample, device: torch.device) -> np.ndarray:
    """Projected gradient descent that takes all its steps, also when the answer has changed: as article A2's, and not as `pgd_linf`."""
    victim, generator = Victim(classifier, device), torch.Generator().manual_seed(settings.seed)
    found = []
    with progress(f"{PGD}, {epsilon:g}", len(images), "images") as advance:
        size = together(images, BATCH)
        for start in range(0, len(images), size):
            clean = as_pixels(images[start : start + size], device)
            task = set_task("untargeted", victim.logits(clean), generator)
            way = Way(victim, clean, task, LINF, epsilon, step=REACH * epsilon / settings.steps)
            start_at = way.allowed(clean + LINF.within(clean, epsilon, generator))
            found.append(walk(way, start_at, settings.steps).cpu().numpy())
            advance(len(clean))
    return np.concatenate(found) if found else np.empty(images.shape, np.float32)
