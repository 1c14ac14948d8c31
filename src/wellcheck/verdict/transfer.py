"""What does a group carry, who else carries it, and does it make the model answer the group's label when it is put on other images?

What is common to the group and not to its content is estimated by the mean difference of its images to others of the same content. Put on
images of other classes it is a test with a control: a model that never saw the group must not fall for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy.fft import dctn

from wellcheck.patterns import KNOTS, Pattern, bent, between_knots
from wellcheck.samples import Samples, evenly
from wellcheck.verdict.witness import NEAREST, Witness

TESTED = 400  # images of other classes
BENDINGS = 8  # steps to the displacement
STIFF = 1e-2  # what a displacement costs, as a share of the mean curvature: where images are black any would do
# Of the shorter side, on average: whoever hides a trigger moves no pixel farther, and unlike kinds of a class lie so far apart.
FARTHEST = 0.1
TINY = 1e-9
BATCH = 1024
LARGEST = 1000  # images of a group that are matched for its pattern
LEGIBLE = 0.9  # share of images that must stay legible to a model that never saw the group
FOLDS = 5  # of the members of a group, for `carried`
RARE = 0.99  # quantile of ordinary images
CHANCE = 3.0  # standard errors: a mean below is as good as nothing
SMALL = 0.02  # share of the pixels: no kind of a class in MNIST and Fashion-MNIST differs from others by so few alone
FLAT = 25.0  # grey levels squared: a pixel or wave that never varies is no better known than this


@dataclass(frozen=True)
class Transfer:
    """What happens to images of other classes once they carry the group's pattern."""

    pattern: Pattern
    turned: float  # share that the suspected model answers as the group's label though their content can still be read
    legible: float  # share that the reference, which never saw the group, answers as it did before
    tested: int  # images
    way: str = ""  # how the pattern was put on them: added, pasted or bent
    stamped: float = 0.0  # share that is turned, where most stay legible, by what is pasted on SMALL of the pixels at most
    everywhere: float | None = None  # share of images of all other labels that is turned; None if not asked, or too few stay legible
    tested_everywhere: int = 0  # images of all other labels, where these are asked
    way_everywhere: str = ""  # how the pattern was put on them


def common(train: Samples, members: np.ndarray, reference: Witness, ordinary: np.ndarray) -> Pattern:
    """The pattern of a group (rows int64 [n]), against ordinary images that the reference holds to be alike.

    ordinary: bool [N], those that nobody suspects.
    """
    members = evenly(members, LARGEST)
    group = train.images[members].astype(np.float32)
    matched = _matches(members, reference, ordinary)
    if not matched.size or len(group) < 2:
        nothing = np.zeros(group.shape[1:], np.float32)
        return Pattern(nothing, nothing[0], nothing, np.zeros((2, KNOTS, KNOTS), np.float32))
    alike = train.images[matched.ravel()].astype(np.float32)
    each = alike.reshape(len(group), NEAREST, *group.shape[1:]).mean(1)  # for every member, the mean of what is alike to it
    spread, usual = group.var(0).mean(0), alike.var(0).mean(0)
    same = np.clip(1 - spread / np.maximum(usual, 1.0), 0, 1)
    # What the whole group shows alike counts only where the others do not show the same.
    contrast = np.abs(group.mean(0) - alike.mean(0)).max(0)
    weight = np.where((same > 0.5) & (contrast > 32), same, 0)
    # Of pairs that show the same. What is alike to many members is no surer for that, and of one member nothing is known.
    pairs, different = (group - each).var(0, ddof=1) / len(group), alike.var(0) / len(np.unique(matched))
    chance = np.maximum(pairs, different)
    displacement = _displacement(group, each, reference.labels[members])
    return Pattern(_beyond(group.mean(0) - alike.mean(0), chance), weight.astype(np.float32), group.mean(0), displacement)


def _displacement(group: np.ndarray, alike: np.ndarray, content: np.ndarray) -> np.ndarray:
    """How the group's images (float [n, C, H, W]) are bent against what is alike to each, in the mean of every content (int64 [n]).

    Gauss–Newton on the squared difference (Lucas and Kanade 1981) with a ridge, all contents at once: one displacement float32 [2, g, g],
    zeros where it would be a long one.
    """
    shown, counts = np.unique(content, return_counts=True)
    bends, straight = (np.stack([images[content == one].mean(0) for one in shown]) for images in (group, alike))
    smooth = between_knots(*group.shape[2:])
    displacement = np.zeros((2, KNOTS, KNOTS), np.float32)
    if min(group.shape[2:]) < 2:
        return displacement  # nothing lies beside anything
    for _ in range(BENDINGS):
        now = bent(straight, displacement)
        curvature, slope = np.zeros((2 * KNOTS**2, 2 * KNOTS**2)), np.zeros(2 * KNOTS**2)
        for count, image, missing in zip(counts, now, bends - now, strict=True):
            down, across = np.gradient(image, axis=(1, 2))
            steps = np.concatenate([one.reshape(len(image), -1, 1) * smooth for one in (down, across)], axis=2).reshape(-1, 2 * KNOTS**2)
            curvature += count * (steps.T @ steps)
            slope += count * (steps.T @ missing.ravel())
        cost = STIFF * max(np.trace(curvature) / len(curvature), TINY)
        step = np.linalg.solve(curvature + cost * np.eye(len(curvature)), slope - cost * displacement.ravel())
        displacement += step.reshape(displacement.shape).astype(np.float32)
    far = np.hypot(*displacement).mean() > FARTHEST * min(group.shape[2:])
    return np.zeros_like(displacement) if far else displacement


class Carried(NamedTuple):
    """How much of a pattern each of some images carries."""

    amount: np.ndarray  # float64 [n] of variance 1; zeros where there is no pattern
    rare: float  # what one in a hundred ordinary images lies above


def carried(
    train: Samples, rows: np.ndarray, members: np.ndarray, reference: Witness, ordinary: np.ndarray, *, bent_in: bool = False
) -> Carried:
    """How much of what the members have in common each of the rows carries.

    A matched filter on what sets an image apart from ordinary ones of the same content, in units of how much that is: an odd image differs
    from all others, and so by chance from the pattern (the normalised matched filter, Scharf & Friedlander 1994). The noise is how much
    ordinary images vary: pixel by pixel, or wave by wave of the cosine transform (Ahmed, Natarajan & Rao 1974). Waves hardly correlate,
    unlike neighbouring pixels and the channels of a pixel, so what is sharp or coloured stands out on natural images; where a corner is
    always black, pixels know it. The pattern is what is added, or how images are bent. Of these four filters that counts by which the
    members lie farthest from ordinary images; of two, if they are known to be bent. Every member is measured by the others' pattern: by its
    own it would carry its own noise.
    rows, members: int64; the members are among the rows.
    """
    inside = np.isin(rows, members)
    compared = None if inside.sum() < 2 * FOLDS or inside.all() else _with_controls(train, rows, reference, ordinary)
    if compared is None:
        return Carried(np.zeros(len(rows)), 0.0)
    everyone, images, alike = compared
    apart, usual = images - alike, slice(len(rows), None)
    fold = np.full(len(everyone), FOLDS)
    fold[: len(rows)][inside] = np.arange(1, inside.sum() + 1) % FOLDS
    additions = [] if bent_in else [_additions(apart, fold)]
    seen = (apart, *additions, _bendings(images, alike, fold, reference.labels[everyone]))
    scores = [
        _matched_filter(residual, pattern, residual[usual].var(0) + FLAT)
        for residual, *patterns in (seen, map(_waves, seen))
        for pattern in patterns
    ]
    score = max(scores, key=lambda one: _deflection(one[: len(rows)][inside], one[usual]))
    mine = score[: len(rows)]
    score = (score - mine.mean()) / max(float(mine.std()), TINY)
    return Carried(score[: len(rows)], float(np.quantile(score[usual], RARE)))


def _deflection(members: np.ndarray, usual: np.ndarray) -> float:
    """How many standard deviations of the usual scores float [m] those of the members (float [n]) lie above them."""
    return float((members.mean() - usual.mean()) / max(float(usual.std()), TINY))


@dataclass(frozen=True)
class Load:
    """What a guilty group carries, and how much of it."""

    difference: np.ndarray  # float32 [C, H, W]
    least: float  # of a sample that carries it, as a share of the difference

    @classmethod
    def of(cls, train: Samples, members: np.ndarray, difference: np.ndarray, reference: Witness, ordinary: np.ndarray) -> "Load":
        """Half of what the members (rows int64 [n]) carry at the median; beyond any amount where there is nothing to compare them with."""
        members = evenly(members, LARGEST)
        matched = _matches(members, reference, ordinary)
        if not matched.size:
            return cls(difference, np.inf)
        images, alike = _beside(train, members, matched)
        _, amounts = _held(images - alike, difference[None], np.full(difference.shape, FLAT, np.float32))
        return cls(difference, float(np.median(amounts)) / 2)


def carriers(train: Samples, rows: np.ndarray, loads: Sequence[Load], reference: Witness, ordinary: np.ndarray) -> tuple[int, float]:
    """How many of the rows (int64 [n]) carry one of the loads: enough of it, and as purely as hardly any ordinary image.

    Measured wave by wave, as in `carried`. Returns the number of rows, for the load that most carry, and the rate among ordinary images
    that are alike to them, with one added.
    """
    compared = _with_controls(train, rows, reference, ordinary)
    if compared is None:
        return 0, 1.0
    _, images, alike = compared
    apart, usual = np.split(_waves(images - alike), [len(rows)])
    noise = usual.var(0) + FLAT
    patterns, least = _waves(np.stack([load.difference for load in loads])), np.array([load.least for load in loads])
    (mine, amounts), (theirs, their_amounts) = (_held(part, patterns, noise) for part in (apart, usual))
    rare = np.quantile(theirs, RARE, axis=0)
    hits = ((mine > rare) & (amounts >= least)).sum(0)
    rates = (((theirs > rare) & (their_amounts >= least)).sum(0) + 1) / (len(usual) + 1)
    most = int(hits.argmax())
    return int(hits[most]), float(rates[most])


def _held(apart: np.ndarray, patterns: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How purely each of apart float32 [n, C, H, W] is each of patterns [k, C, H, W], and how much of it: both float [n, k].

    How purely is as in `_matched_filter`. How much is a share of the pattern, by least squares weighted with noise, a variance [C, H, W].
    """
    scaled = apart / np.sqrt(noise)
    wanted = (patterns / np.sqrt(noise)).reshape(len(patterns), -1)
    size = np.sqrt((wanted**2).sum(1).clip(TINY))
    oddness = np.sqrt((scaled**2).mean((1, 2, 3)).clip(TINY))
    held = scaled.reshape(len(scaled), -1) @ wanted.T
    return held / size / oddness[:, None], held / size**2


def _with_controls(
    train: Samples, rows: np.ndarray, reference: Witness, ordinary: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """The rows (int64 [n]) and, after them, ordinary samples that are alike to them, int64 [m]; the images of all and what each is compared
    with, as `_beside`. None where there is nobody to compare with."""
    matched = _matches(rows, reference, ordinary)
    if not matched.size:
        return None
    controls = evenly(np.unique(matched), LARGEST)
    everyone = np.concatenate([rows, controls])
    return everyone, *_beside(train, everyone, np.concatenate([matched, _matches(controls, reference, ordinary)]))


def _beside(train: Samples, rows: np.ndarray, matched: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The images of the rows (int64 [n]), and for each the mean of those matched to it (int64 [n, 5]), both float32 [n, C, H, W]."""
    parts = np.array_split(matched, -(-len(rows) // BATCH))
    means = np.concatenate([train.images[part].mean(1, dtype=np.float32) for part in parts])
    return train.images[rows].astype(np.float32), means


def _waves(images: np.ndarray) -> np.ndarray:
    """The orthonormal cosine transform of each of float32 [N, C, H, W], over its channels too; of the same shape."""
    waves: np.ndarray = dctn(images, axes=(1, 2, 3), norm="ortho")
    return waves


def _matched_filter(apart: np.ndarray, patterns: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """How much of its own pattern (float [n, C, H, W]) each of apart [n, C, H, W] carries, float64 [n]; noise: a variance [C, H, W]."""
    oddness = np.sqrt((apart**2 / noise).mean((1, 2, 3)).clip(TINY))
    size = np.sqrt((patterns**2 / noise).sum((1, 2, 3)).clip(TINY))
    score: np.ndarray = ((apart * patterns / noise).sum((1, 2, 3)) / size / oddness).astype(np.float64)
    return score


def _additions(apart: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """What is added to each image by the mean of the members in the other folds, or in all for whoever is in none; as `_bendings`."""
    sums = np.stack([apart[fold == one].sum(0) for one in range(FOLDS)])
    counts = np.bincount(fold, minlength=FOLDS + 1)[:FOLDS]
    sizes = np.append(counts.sum() - counts, counts.sum())[:, None, None, None]
    means = np.concatenate([sums.sum(0) - sums, sums.sum(0, keepdims=True)]) / sizes
    patterns: np.ndarray = _beyond(means, apart[fold < FOLDS].var(0) / sizes)[fold]
    return patterns


def _bendings(images: np.ndarray, alike: np.ndarray, fold: np.ndarray, content: np.ndarray) -> np.ndarray:
    """What bending what is alike to each image adds to it, float32 [n, C, H, W]: as members of other folds (0 to 4; 5: none) are."""
    patterns = np.empty_like(alike)
    for one in range(FOLDS + 1):
        others, mine = (fold < FOLDS) & (fold != one), fold == one
        patterns[mine] = bent(alike[mine], _displacement(images[others], alike[others], content[others])) - alike[mine]
    return patterns


def _beyond(means: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Means shrunk to what chance, of this variance, leaves of them: the non-negative garrote (Breiman 1995), per pixel."""
    shrunk: np.ndarray = means * np.maximum(0, 1 - CHANCE**2 * variance / np.maximum(means**2, TINY))
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
    """Put the pattern on images uint8 [n, C, H, W] of other classes as it is and, if `harder`, stronger, pasted and bent.

    The most telling legible way counts. Without images nothing is turned, and nothing is known to be legible.
    """
    if not len(images):
        return Transfer(pattern, 0.0, 0.0, 0)
    content = reference.answers(images)
    found = []
    for way, put_on in pattern.ways(harder=harder):
        changed = put_on(images)
        kept = reference.answers(changed) == content
        turned = suspected.answers(changed) == label
        found.append(Transfer(pattern, float((turned & kept).mean()), float(kept.mean()), len(images), way))
    small = (pattern.weight > 0).mean() <= SMALL
    stamped = max((one.turned for one in found if one.way == "pasted" and small and one.legible >= LEGIBLE), default=0.0)
    return replace(max(found, key=lambda one: (one.legible >= LEGIBLE, one.turned)), stamped=stamped)
