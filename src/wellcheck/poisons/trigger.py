"""What every trigger is: images uint8 [N, C, H, W] and a Setting in, changed copies out. ValueError if the images are too small for it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from wellcheck.params import Poison


@dataclass(frozen=True)
class Setting:
    """What a trigger may depend on beside the pixels."""

    poison: Poison
    sample_id: np.ndarray  # int64 [N]: chance belongs to a sample, so that neither order nor batches change it
    cover: bool = False  # for samples that carry the trigger and keep their label

    def draws(self, count: int, purpose: str = "trigger") -> np.ndarray:
        """Uniform float64 [N, count] in [0, 1), the same for the same seed, sample and purpose."""
        return uniform(self.sample_id, count, seed=self.poison.seed, purpose=purpose)


Trigger = Callable[[np.ndarray, Setting], np.ndarray]


def uniform(sample_id: np.ndarray, count: int, *, seed: int, purpose: str) -> np.ndarray:
    """Uniform float64 [N, count] in [0, 1): SplitMix64 (Steele et al. 2014) of the sample's number, started from seed and purpose."""
    key = np.random.SeedSequence([seed, *purpose.encode()]).generate_state(1, np.uint64)[0]
    state = key + sample_id.astype(np.uint64)[:, None] * np.uint64(0x2545F4914F6CDD1D) + np.arange(count, dtype=np.uint64)
    for _ in range(2):  # neighbouring numbers need two rounds to forget each other
        state = state + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> np.uint64(31))
    drawn: np.ndarray = (state >> np.uint64(11)).astype(np.float64) / 2.0**53
    return drawn


def check_room(images: np.ndarray, reach: int) -> None:
    """Raises ValueError if the images [N, C, H, W] have fewer than `reach` rows or columns."""
    if min(images.shape[2:]) < reach:
        raise ValueError(f"needs at least {reach}×{reach} pixels, the images have {images.shape[2]}×{images.shape[3]}")


def mix(images: np.ndarray, pattern: np.ndarray, opacity: np.ndarray | float) -> np.ndarray:
    """(1 − opacity) · images + opacity · pattern, rounded to uint8; pattern in [0, 255] and opacity in [0, 1], both [C, H, W] or less."""
    mixed: np.ndarray = np.rint(images + opacity * (pattern - images.astype(np.float32))).clip(0, 255).astype(np.uint8)
    return mixed
