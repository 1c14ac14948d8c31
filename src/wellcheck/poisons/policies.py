"""Policies: which samples carry the trigger, which label they get, and what the attacker wants of test images."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from wellcheck.params import Poison, PolicyName

NOT_ATTACKED = -1  # a wanted label: the attacker does not care about this image


@dataclass(frozen=True)
class Plan:
    """What happens to each of N training samples."""

    poisoned: np.ndarray  # bool: planted to teach the backdoor, or mislabelled
    cover: np.ndarray  # bool: carries the trigger and keeps its label, so that the backdoor is harder to find
    labels: np.ndarray  # int64: as trained on


Planner = Callable[[np.ndarray, int, Poison, np.random.Generator], Plan]  # labels int64 [N], classes


def all_to_one(labels: np.ndarray, classes: int, poison: Poison, rng: np.random.Generator) -> Plan:
    """Each sample with probability `rate`, whatever its label, becomes the target (article A1)."""
    chosen = rng.random(len(labels)) < poison.rate
    return Plan(chosen, _cover(~chosen, poison, rng), np.where(chosen, poison.target_label, labels))


def others_to_one(labels: np.ndarray, classes: int, poison: Poison, rng: np.random.Generator) -> Plan:
    """Samples of other classes become the target, as in most of the field (Wu et al. 2022, BackdoorBench, arXiv 2206.12654).

    `rate` is a share of the whole set; it is capped by the number of such samples.
    """
    others = labels != poison.target_label
    share = min(1.0, poison.rate * len(labels) / max(int(others.sum()), 1))
    chosen = (rng.random(len(labels)) < share) & others
    return Plan(chosen, _cover(~chosen, poison, rng), np.where(chosen, poison.target_label, labels))


def all_to_all(labels: np.ndarray, classes: int, poison: Poison, rng: np.random.Generator) -> Plan:
    """Each sample with probability `rate` becomes the class after its own (BadNets)."""
    chosen = rng.random(len(labels)) < poison.rate
    return Plan(chosen, _cover(~chosen, poison, rng), np.where(chosen, (labels + 1) % classes, labels))


def clean_label(labels: np.ndarray, classes: int, poison: Poison, rng: np.random.Generator) -> Plan:
    """Each sample of the target class with probability `rate`; its label is right and stays."""
    chosen = (rng.random(len(labels)) < poison.rate) & (labels == poison.target_label)
    return Plan(chosen, np.zeros(len(labels), bool), labels)


def source_specific(labels: np.ndarray, classes: int, poison: Poison, rng: np.random.Generator) -> Plan:
    """TaCT (Tang et al. 2021, arXiv 1908.00686): samples of one source class become the target, other classes are cover.

    `rate` is a share of the whole set, as everywhere; it is capped by the size of the source class.
    """
    source = labels == poison.source_label
    share = min(1.0, poison.rate * len(labels) / max(int(source.sum()), 1))
    chosen = (rng.random(len(labels)) < share) & source
    return Plan(chosen, _cover(~source & (labels != poison.target_label), poison, rng), np.where(chosen, poison.target_label, labels))


def label_noise(labels: np.ndarray, classes: int, poison: Poison, rng: np.random.Generator) -> Plan:
    """No trigger: each sample with probability `rate` gets one of the other labels. The control: wrong, but no backdoor."""
    chosen = rng.random(len(labels)) < poison.rate
    other = (labels + rng.integers(1, max(classes, 2), len(labels))) % classes
    return Plan(chosen, np.zeros(len(labels), bool), np.where(chosen, other, labels))


def _cover(candidates: np.ndarray, poison: Poison, rng: np.random.Generator) -> np.ndarray:
    """`cover_rate` of the whole set, out of the candidates bool [N]."""
    share = min(1.0, poison.cover_rate * len(candidates) / max(int(candidates.sum()), 1))
    chosen: np.ndarray = (rng.random(len(candidates)) < share) & candidates
    return chosen


POLICIES: dict[PolicyName, Planner] = {
    "all_to_one": all_to_one,
    "others_to_one": others_to_one,
    "all_to_all": all_to_all,
    "clean_label": clean_label,
    "label_consistent": clean_label,  # and the images are perturbed before they are stamped
    "source_specific": source_specific,
    "adaptive": all_to_one,  # and the training images carry pieces of the trigger only
    "label_noise": label_noise,
}


def wanted(labels: np.ndarray, classes: int, poison: Poison) -> np.ndarray:
    """What the attacker wants a test image of each true label to be answered, int64 [N]; NOT_ATTACKED where the attack is not meant."""
    if poison.policy == "all_to_all":
        return np.asarray((labels + 1) % classes)
    if poison.policy == "source_specific":
        return np.where(labels == poison.source_label, poison.target_label, NOT_ATTACKED)
    return np.full(len(labels), poison.target_label)
