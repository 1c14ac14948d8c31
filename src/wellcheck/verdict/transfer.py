"""What does a group carry, who else carries it, and does it make the model answer the group's label when it is put on other images?

What is common to the group and not to its content is estimated by the mean difference of its images to others of the same content. Put on
images of other classes it is a test with a control: a model that never saw the group must not fall for it.
"""

from dataclasses import dataclass

import numpy as np

from wellcheck.samples import Samples
from wellcheck.verdict.witness import NEAREST, Witness, evenly

TESTED = 400  # images of other classes
STRONGER = 2.0  # times the difference
BATCH = 1024
LARGEST = 1000  # images of a group that are matched for its pattern
LEGIBLE = 0.9  # share of images that must stay legible to a model that never saw the group
FOLDS = 5  # of the members of a group, for `carried`
CHANCE = 3.0  # standard errors: a mean below is as good as nothing
FLAT = 25.0  # grey levels squared: a pixel that never varies is no better known than this


@dataclass(frozen=True)
class Pattern:
    """What a group carries: images become (1 − weight)·image + weight·colour + difference."""

    difference: np.ndarray  # float32 [C, H, W], 255 is white
    weight: np.ndarray  # float32 [H, W] in [0, 1]: 1 where the whole group shows the same
    colour: np.ndarray  # float32 [C, H, W] in [0, 255]

    def add(self, images: np.ndarray, strength: float) -> np.ndarray:
        """Images uint8 [N, C, H, W] with the difference on them."""
        return added(images, self.difference, strength)

    def paste(self, images: np.ndarray) -> np.ndarray:
        """Images uint8 [N, C, H, W] with what the whole group shows in place of their own pixels."""
        pasted: np.ndarray = ((1 - self.weight) * images + self.weight * self.colour).round().clip(0, 255).astype(np.uint8)
        return pasted


def added(images: np.ndarray, difference: np.ndarray, strength: float) -> np.ndarray:
    """Images uint8 [N, C, H, W] with so many times a difference float [C, H, W] on them, 255 is white."""
    changed: np.ndarray = (images + strength * difference).round().clip(0, 255).astype(np.uint8)
    return changed


@dataclass(frozen=True)
class Transfer:
    """What happens to images of other classes once they carry the group's pattern."""

    pattern: Pattern
    turned: float  # share that the suspected model answers as the group's label though their content can still be read
    legible: float  # share that the reference, which never saw the group, answers as it did before
    tested: int  # images


def common(train: Samples, members: np.ndarray, reference: Witness, ordinary: np.ndarray) -> Pattern:
    """The pattern of a group (rows int64 [n]), against ordinary images that the reference holds to be alike.

    ordinary: bool [N], those that nobody suspects.
    """
    members = evenly(members, LARGEST)
    group = train.images[members].astype(np.float32)
    alike = train.images[_matches(members, reference, ordinary).ravel()].astype(np.float32)
    if not len(alike):
        return Pattern(np.zeros(group.shape[1:], np.float32), np.zeros(group.shape[2:], np.float32), np.zeros(group.shape[1:], np.float32))
    spread, usual = group.var(0).mean(0), alike.var(0).mean(0)
    same = np.clip(1 - spread / np.maximum(usual, 1.0), 0, 1)
    # What the whole group shows alike counts only where the others do not show the same.
    contrast = np.abs(group.mean(0) - alike.mean(0)).max(0)
    weight = np.where((same > 0.5) & (contrast > 32), same, 0)
    chance = group.var(0) / len(group) + alike.var(0) / len(alike)
    return Pattern(_beyond(group.mean(0) - alike.mean(0), chance), weight.astype(np.float32), group.mean(0))


def carried(train: Samples, rows: np.ndarray, members: np.ndarray, reference: Witness, ordinary: np.ndarray) -> np.ndarray:
    """How much of what the members have in common each of the rows carries, float64 [n] of variance 1; zeros where there is nothing.

    A matched filter on what sets an image apart from ordinary ones of the same content, in units of how much that is: an odd image differs
    from all others, and so by chance from the pattern (the normalised matched filter, Scharf & Friedlander 1994). Every member is measured
    by the others' pattern: by its own it would carry its own noise. rows, members: int64; the members are among the rows.
    """
    matched = _matches(rows, reference, ordinary)
    inside = np.isin(rows, members)
    if inside.sum() < 2 * FOLDS or inside.all() or not matched.size:
        return np.zeros(len(rows))
    apart = np.empty((len(rows), int(np.prod(train.images.shape[1:]))), np.float32)
    for start in range(0, len(rows), BATCH):
        part = slice(start, start + BATCH)
        alike = train.images[matched[part]].astype(np.float32).mean(1)
        apart[part] = (train.images[rows[part]] - alike).reshape(len(alike), -1)
    noise = apart[~inside].var(0) + FLAT
    fold = np.where(inside, np.cumsum(inside) % FOLDS, FOLDS)
    sums = np.stack([apart[fold == one].sum(0) for one in range(FOLDS)])
    counts = np.bincount(fold, minlength=FOLDS + 1)[:FOLDS]
    # The mean of the other folds for each fold, and of all for whoever is no member.
    sizes = np.append(counts.sum() - counts, counts.sum())[:, None]
    means = np.concatenate([sums.sum(0) - sums, sums.sum(0, keepdims=True)]) / sizes
    chance = apart[inside].var(0) / sizes
    shrunk = _beyond(means, chance)
    filters = shrunk / noise / np.sqrt((shrunk**2 / noise).sum(1, keepdims=True).clip(1e-9))
    oddness = np.sqrt((apart**2 / noise).mean(1).clip(1e-9)).astype(np.float64)
    found = (apart @ filters.T)[np.arange(len(rows)), fold] / oddness
    return np.asarray((found - found.mean()) / max(float(found.std()), 1e-9))


def _beyond(means: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Means shrunk to what chance, of this variance, leaves of them: the positive-part estimator of James and Stein 1961, per pixel."""
    shrunk: np.ndarray = means * np.maximum(0, 1 - CHANCE**2 * variance / np.maximum(means**2, 1e-9))
    return shrunk


def _matches(rows: np.ndarray, reference: Witness, ordinary: np.ndarray) -> np.ndarray:
    """For every row, ordinary samples that show the reference the same, the nearest: int64 [n, 5], or [n, 0]; itself excepted."""
    matched = np.empty((len(rows), NEAREST), np.int64)
    content = reference.labels
    for shown in np.unique(content[rows]):
        mine = np.flatnonzero(content[rows] == shown)
        others = np.flatnonzero(ordinary & (content == shown))
        if len(others) <= NEAREST:
            others = np.flatnonzero(ordinary)
        if len(others) <= NEAREST:
            return matched[:, :0]
        matched[mine] = reference.nearest(rows[mine], others)[1]
    return matched


def try_on_others(pattern: Pattern, label: int, images: np.ndarray, suspected: Witness, reference: Witness, *, harder: bool) -> Transfer:
    """Put the pattern on images uint8 [n, C, H, W] of other classes as it is and, if `harder`, stronger and pasted.

    The most telling legible way counts. Without images nothing is turned, and nothing is known to be legible.
    """
    if not len(images):
        return Transfer(pattern, 0.0, 0.0, 0)
    ways = [pattern.add(images, 1.0)]
    if harder:
        ways.append(pattern.add(images, STRONGER))
    if harder and pattern.weight.any():
        ways.append(pattern.paste(images))
    content = reference.answers(images)
    found = []
    for changed in ways:
        kept = reference.answers(changed) == content
        turned = suspected.answers(changed) == label
        found.append(Transfer(pattern, float((turned & kept).mean()), float(kept.mean()), len(images)))
    return max(found, key=lambda one: (one.legible >= LEGIBLE, one.turned))
