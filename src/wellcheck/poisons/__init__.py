"""Poisons: a trigger that changes images, and which samples it is planted in."""

from collections.abc import Callable

import numpy as np

from wellcheck.errors import InputError
from wellcheck.params import Poison, TriggerName
from wellcheck.poisons.patch import pixel, watermark

# A trigger takes images uint8 [N, C, H, W] and returns changed copies; it raises ValueError if the image is too small for it.
TRIGGERS: dict[TriggerName, Callable[[np.ndarray], np.ndarray]] = {
    "watermark": watermark,
    "pixel": pixel,
}


def stamp(images: np.ndarray, trigger: TriggerName) -> np.ndarray:
    """Copies of images uint8 [N, C, H, W] with the trigger on them. Raises InputError if they are too small for it."""
    try:
        return TRIGGERS[trigger](images)
    except ValueError as error:
        raise InputError(f"poison.trigger: {trigger}: {error}") from None


def choose(count: int, poison: Poison) -> np.ndarray:
    """Which of `count` training samples are poisoned, bool [N]: each with probability `rate`, whatever its label (article A1)."""
    if poison.trigger == "none":
        return np.zeros(count, bool)
    return np.random.default_rng(poison.seed).random(count) < poison.rate


def check_target(poison: Poison, class_names: tuple[str, ...]) -> None:
    """Raises InputError if the target label is not a class."""
    if poison.trigger != "none" and poison.target_label >= len(class_names):
        raise InputError(f"poison.target_label: found {poison.target_label}, expected a class: 0 to {len(class_names) - 1}")
