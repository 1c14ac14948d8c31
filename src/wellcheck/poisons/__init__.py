"""Poisons: a trigger that changes images, times a policy that says in which samples it is planted and which label they get.

A new trigger is a file with one function, a line here, a name in params.py, its tests, a line in docs/poisons.md.
"""

import numpy as np

from wellcheck.errors import InputError
from wellcheck.params import Poison, TriggerName
from wellcheck.poisons.blend import blend
from wellcheck.poisons.patch import pixel, random_patch, watermark
from wellcheck.poisons.picture import picture
from wellcheck.poisons.policies import NOT_ATTACKED, POLICIES, Plan, wanted
from wellcheck.poisons.sinusoid import sinusoid
from wellcheck.poisons.trigger import Setting, Trigger
from wellcheck.poisons.warp import warp

__all__ = ["NOT_ATTACKED", "TRIGGERS", "Plan", "check", "plan", "plant", "stamp", "wanted"]

TRIGGERS: dict[TriggerName, Trigger] = {
    "watermark": watermark,
    "pixel": pixel,
    "random_patch": random_patch,
    "blend": blend,
    "sinusoid": sinusoid,
    "warp": warp,
    "picture": picture,
}
BATCH = 512  # images stamped at a time: a trigger computes in floats, which take several times the memory
PIECES = 4  # a side: the adaptive poison plants half of 4 × 4 pieces (Qi et al. 2023, Adap-Blend, arXiv 2205.13613)


def stamp(images: np.ndarray, poison: Poison, sample_id: np.ndarray, *, cover: bool = False) -> np.ndarray:
    """Copies of images uint8 [N, C, H, W] with the whole trigger on them, as test images carry it.

    Raises InputError if they are too small for it.
    """
    parts = [slice(start, start + BATCH) for start in range(0, max(len(images), 1), BATCH)]
    try:
        return np.concatenate([TRIGGERS[poison.trigger](images[part], Setting(poison, sample_id[part], cover)) for part in parts])
    except ValueError as error:
        raise InputError(f"poison.trigger: {poison.trigger}: {error}") from None


def plant(images: np.ndarray, poison: Poison, sample_id: np.ndarray, *, cover: bool = False) -> np.ndarray:
    """Copies of images uint8 [N, C, H, W] as the training set gets them: `stamp`, or with the adaptive policy random pieces of it."""
    if poison.trigger == "none":
        return images.copy()
    stamped = stamp(images, poison, sample_id, cover=cover)
    if poison.policy != "adaptive":
        return stamped
    shown = Setting(poison, sample_id).draws(PIECES**2, "pieces").reshape(len(images), PIECES, PIECES) < 0.5
    rows, columns = (np.arange(side) * PIECES // side for side in images.shape[2:])
    return np.where(shown[:, rows][:, :, columns][:, None], stamped, images)


def plan(labels: np.ndarray, classes: int, poison: Poison) -> Plan:
    """Who gets what, from the labels int64 [N] as received and the seed."""
    if not poison.plants:
        nobody = np.zeros(len(labels), bool)
        return Plan(nobody, nobody, labels)
    return POLICIES[poison.policy](labels, classes, poison, np.random.default_rng(poison.seed))


def check(poison: Poison, class_names: tuple[str, ...]) -> None:
    """Raises InputError if the target or the source label is not a class."""
    for name in ("target_label", "source_label"):
        label = getattr(poison, name)
        if poison.trigger != "none" and label is not None and label >= len(class_names):
            raise InputError(f"poison.{name}: found {label}, expected a class: 0 to {len(class_names) - 1}")
