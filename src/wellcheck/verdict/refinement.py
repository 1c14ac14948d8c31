"""Which samples of a convicted label: suspects are taken out generously until a reference is free of the backdoor, and that one decides."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import expit

from wellcheck.detectors.mixture import SHRINKAGE, peel
from wellcheck.metrics import spread
from wellcheck.samples import Samples
from wellcheck.verdict.examination import QUARTER, Examination
from wellcheck.verdict.transfer import FOLDS, RARE, Carried, carried, common
from wellcheck.verdict.witness import UNSURE, Turn, Witness, Witnesses

ROUNDS = (Turn.REFINED, Turn.REFINED_AGAIN)  # references of `refine`, at most,
ROUNDS_IF_BENT = (*ROUNDS, *[Turn.REFINED_AGAIN] * 3)  # where a displacement convicts: what is bent is told from the rest kind by kind
MISLED = 0.1  # times the convicted samples: a reference that contradicts fewer has learnt the backdoor
SETTLED = 0.02  # of the guilty samples: with so few in doubt, another reference would change nothing
DOUBT = 0.02  # a probability between this and 1 less this
REACH = 3.0  # ordinary margins: what is beyond says no more
PASSES = 2  # fits of a posterior: the second knows the pattern of what the first one found
STEPS = 50  # of a fit
FREEDOM = 4.0  # degrees of freedom of a population: how many odd samples it has
STAMP = 3.0  # standard deviations of carriers and others between the two
TINY = 1e-9
LEAST_SPREAD = 0.02  # of a score of variance 1: added to every variance


def refine(
    whitened: Mapping[str, np.ndarray], suspects: Mapping[int, np.ndarray], examination: Examination, witnesses: Witnesses
) -> tuple[dict[int, np.ndarray], Witness, np.ndarray]:
    """The probability of being poison for every sample of the convicted labels, float64 [n] in row order; the last reference, and what it
    was trained without, bool [N].

    whitened: float32 [N, d] by layer; suspects: rows of the convicted groups, int64 [n] by label. Poison that went unnoticed keeps the
    backdoor alive in a reference, which then reads poison as labelled; so the first reference does without whatever lies apart in a
    convicted label. If it contradicts next to none of the convicted it has learnt the backdoor all the same, as from poison that is half of
    the label; then the next one does without all that looks foreign to a model that never saw the label. Those that a reference clears
    come back: the next one knows the label better.

    Where a displacement convicts a label, a kind of image may stay in the reference, bent like the others, and teach it what is bent so:
    the next one does without those too that the suspected model answers otherwise once they are bent back, and there are more references,
    until next to nobody is in doubt.
    """
    train, suspected = witnesses.train, examination.suspected
    excluded = witnesses.marked(suspects.values())
    of_label = {label: np.flatnonzero(train.labels == label) for label in suspects}
    rng = np.random.default_rng([witnesses.recipe.seed, *b"peel"])
    for rows in of_label.values():
        left = rows[~excluded[rows]]
        excluded[left[peel([layer[left] for layer in whitened.values()], rng)]] = True
    reference = witnesses.reference(excluded, "reference 2", turn=ROUNDS[0])
    contradicted = reference.contradicts(suspected, ~excluded)
    misled = [rows for label, rows in of_label.items() if contradicted[rows].sum() < MISLED * len(suspects[label])]
    if misled and 2 * len(misled) <= len(train.description.class_names):
        excluded = _without_the_foreign(misled, excluded, suspected, witnesses)
        reference = witnesses.reference(excluded, "reference 2, without the foreign", turn=ROUNDS[0])
    posteriors: dict[int, np.ndarray] = {}
    for number, turn in enumerate(ROUNDS_IF_BENT if examination.bent & suspects.keys() else ROUNDS):
        if number:
            reference = witnesses.reference(excluded, f"reference {number + 2}", turn=turn)
        unseen, ordinary = excluded, ~excluded
        surely, perhaps = reference.contradicts(suspected, ordinary), reference.contradicts(suspected, ordinary, UNSURE)
        judge = Judge(train, whitened, reference, ordinary, suspected)
        excluded, doubtful = np.zeros(len(train), bool), 0
        for label, rows in of_label.items():
            bent = label in examination.bent
            if number >= len(ROUNDS) and not bent:  # as if there were no other label
                excluded[rows] = unseen[rows]
                continue
            convicted = np.isin(rows, suspects[label])
            start = surely[rows] if surely[rows].any() else convicted
            found = posteriors[label] = judge.posterior(rows, start, convicted, bent=bent)
            doubt = (found > DOUBT) | (judge.bent_back(rows, found > 0.5) if bent else False)
            excluded[rows] = perhaps[rows] | doubt
            doubtful += int((doubt & (found < 1 - DOUBT)).sum())
        if doubtful <= SETTLED * excluded.sum() or np.array_equal(excluded, unseen):
            break
    return posteriors, reference, unseen


def _without_the_foreign(misled: Sequence[np.ndarray], excluded: np.ndarray, suspected: Witness, witnesses: Witnesses) -> np.ndarray:
    """What is left out already (bool [N]), and of these labels (rows int64 [n] each) what is foreign to a model that never saw them."""
    labels = witnesses.marked(misled)
    blind = witnesses.reference(excluded | labels, "reference without the label", turn=Turn.WITHOUT_THE_LABEL)
    left_out: np.ndarray = excluded | (labels & blind.foreign(suspected, ~excluded & ~labels))
    return left_out


class Stamp(NamedTuple):
    """How much of a pattern sets members of a group apart from the rest of its label beyond doubt; minus infinity where none does."""

    likely: float  # half-way between the two
    least: float  # what ordinary images mostly stay below


NO_STAMP = Stamp(-np.inf, -np.inf)


@dataclass(frozen=True)
class Judge:
    """What tells poison from the rest of a convicted label once there is a reference without most of it."""

    train: Samples
    whitened: Mapping[str, np.ndarray]  # float32 [N, d] by layer
    reference: Witness
    ordinary: np.ndarray  # bool [N], what nobody suspects
    suspected: Witness  # the model under suspicion

    def posterior(self, rows: np.ndarray, suspects: np.ndarray, convicted: np.ndarray, *, bent: bool = False) -> np.ndarray:
        """Of all samples of a label, float64 [n]: the layers, the reference's margin, and what the suspects carry, together.

        suspects: bool [n], some of which are poison; convicted: bool [n], the groups that convict the label; bent: whether a displacement
        does. That moves a few pixels of everything, and is lost among suspects of an odd kind: so those are suspects who are bent like the
        convicted as hardly any ordinary image is; and who is, and is read as another label by the reference, is poison of whatever kind.
        Where there is a stamp, whoever shows little of it is none, unless the suspected model answers it as labelled only as long as it is
        there: on an odd image it may be little of what is odd.
        """
        if bent:
            like_the_convicted = self._carried(rows, convicted, bent=True)
            alike = suspects & (like_the_convicted.amount > like_the_convicted.rare)
            suspects = alike if alike.any() else suspects  # of a handful convicted nothing can be sought
        members: np.ndarray = suspects.astype(np.float64)
        if not members.any() or members.all():
            return members
        margin = (self.reference.margins[rows] / self.reference.confident(self.ordinary)).clip(-REACH, REACH)
        misread = (margin < 0) & (self.suspected.margins[rows] > 0)
        for turn in range(PASSES):
            found = members > 0.5
            scores = [separate(layer[rows], found) for layer in self.whitened.values()]
            if bent:
                pattern, rare = like_the_convicted if turn == 0 else self._carried(rows, found, bent=True)
                stamp = NO_STAMP
            else:
                pattern, stamp = self._stamp(rows, found, convicted if turn == 0 else None)
            start = members * (pattern > stamp.likely)
            fitted = two_populations(np.column_stack([*scores, pattern, -margin / max(margin.std(), TINY)]), start)
            if bent:
                members = np.maximum(fitted, RARE * ((pattern > rare) & misread))
            else:
                little = (pattern <= stamp.least) & misread & (fitted > 0.5)
                stays = little & self.freed(rows, found) if little.any() else little
                members = fitted * ((pattern > stamp.least) | stays)
        return members

    def bent_back(self, rows: np.ndarray, members: np.ndarray) -> np.ndarray:
        """Who is freed by being bent back, bool [n]; nobody where that is too much of the label: a reference must know it."""
        freed = self.freed(rows, members, bent=True)
        return freed if (freed & ~members).sum() <= QUARTER * len(rows) else np.zeros_like(freed)

    def freed(self, rows: np.ndarray, members: np.ndarray, *, bent: bool = False) -> np.ndarray:
        """Which of a label's samples the suspected model answers as labelled only as long as they carry what the members do, bool [n]."""
        pattern = common(self.train, rows[members], self.reference, self.ordinary)
        without = self.suspected.answers(pattern.taken_off(self.train.images[rows], bent=bent))
        freed: np.ndarray = (self.suspected.margins[rows] > 0) & (without != self.train.labels[rows])
        return freed

    def _carried(self, rows: np.ndarray, members: np.ndarray, *, bent: bool = False) -> Carried:
        """What those of the rows that are members (bool [n]) have in common, by how much of it each of the rows carries."""
        return carried(self.train, rows, rows[members], self.reference, self.ordinary, bent_in=bent)

    def _stamp(self, rows: np.ndarray, members: np.ndarray, convicted: np.ndarray | None) -> tuple[np.ndarray, Stamp]:
        """What the members carry, float64 [n], and whether it is a stamp.

        Where most members may be none, `convicted` is given: then the pattern is taken again of those who carry most, and, if no stamp was
        seen, of the convicted.
        """
        pattern = self._carried(rows, members).amount
        stamp = stamp_of(pattern, members)
        if convicted is not None:
            most = members & (pattern > _between(pattern[members]))
            others = (most, convicted) if stamp == NO_STAMP else (most,)
            for some in [one for one in others if not np.array_equal(one, members)]:
                again = self._carried(rows, some).amount
                clearer = stamp_of(again, members)
                if clearer != NO_STAMP:
                    return again, clearer
        return pattern, stamp


def separate(values: np.ndarray, members: np.ndarray) -> np.ndarray:
    """How far on the members' side each sample lies, float64 [n] of variance 1; zeros where there are too few members.

    Fisher's discriminant of values float [n, d], each sample measured by one that was fitted without it: in many dimensions a few members
    can be set apart from anything, and only they.
    """
    count, width = values.shape
    if min(members.sum(), (~members).sum()) < 2 * FOLDS:
        return np.zeros(count)
    fold, found = np.where(members, np.cumsum(members), np.cumsum(~members)) % FOLDS, np.empty(count)
    for one in range(FOLDS):
        out, inside = fold == one, members & (fold != one)
        rest = ~members & (fold != one)
        middle = values[inside].mean(0), values[rest].mean(0)
        apart = np.concatenate([values[inside] - middle[0], values[rest] - middle[1]]).astype(np.float64)
        within = apart.T @ apart / len(apart)
        within += SHRINKAGE * np.eye(width) * max(np.trace(within) / width, 1e-12)
        found[out] = (values[out] - (middle[0] + middle[1]) / 2) @ np.linalg.solve(within, middle[0] - middle[1])
    return np.asarray((found - found.mean()) / max(float(found.std()), TINY))


def stamp_of(pattern: np.ndarray, members: np.ndarray) -> Stamp:
    """Whether those of the members that carry most of a pattern are clearly apart from whoever is no member, and by how much.

    A stamp lies on all poison alike: then a member without it is an odd image of the label as a rule, and no poison.
    pattern: float [n], of variance 1; members: bool [n].
    """
    if not members.any() or members.all() or not pattern.any():
        return NO_STAMP
    carrying = pattern[members & (pattern > _between(pattern[members]))]
    if not len(carrying):
        return NO_STAMP
    (top, above), (bottom, below) = _middle(carrying), _middle(pattern[~members])
    return Stamp((top + bottom) / 2, bottom + below) if top - bottom > STAMP * (above + below) else NO_STAMP


def _between(values: np.ndarray) -> float:
    """What parts values float [n] into the two clusters of 2-means."""
    low, high = float(values.min()), float(values.max())
    for _ in range(STEPS):
        above = values > (low + high) / 2
        if not above.any() or above.all():
            break
        low, high = float(values[~above].mean()), float(values[above].mean())
    return (low + high) / 2


def _middle(values: np.ndarray) -> tuple[float, float]:
    """The median, and a spread that few odd values do not change."""
    return float(np.median(values)), max(spread(values), LEAST_SPREAD**0.5)


def two_populations(values: np.ndarray, members: np.ndarray) -> np.ndarray:
    """The probability of being one of the members, float64 [n], from a start float [n] in [0, 1].

    Two Student's t distributions by expectation–maximisation (Peel & McLachlan 2000, sections 3 and 5): a label has odd images, and in a
    Gaussian's thin tail whatever lies between the two would belong to the wider one.
    values: float [n, d] of variance 1, few columns, members high: each has its own covariance, for poison that the model hardly learnt lies
    with its label in one column and far from it in another. What lies lower than the middle of the rest counts as that middle: to the wider
    population of the members such a sample would be one of them, and it is the most innocent of all.
    """
    count, width = values.shape
    pulls = np.ones((2, count))  # what lies far out has little say
    for _ in range(STEPS):
        densities, rest = [], (1 - members).clip(TINY)
        seen = np.maximum(values, rest @ values / rest.sum())
        for belongs, pull in zip((members.clip(TINY), rest), pulls, strict=True):
            weight = belongs * pull
            middle = weight @ values / weight.sum()
            away = values - middle
            scale = (weight[:, None] * away).T @ away / belongs.sum() + LEAST_SPREAD * np.eye(width)
            pull[:] = (FREEDOM + width) / (FREEDOM + _distance(away, scale))
            tail = (FREEDOM + width) * np.log1p(_distance(seen - middle, scale) / FREEDOM)
            densities.append(np.log(belongs.sum() / count) - (tail + np.linalg.slogdet(scale)[1]) / 2)
        before, members = members, np.asarray(expit(densities[0] - densities[1]))
        if np.abs(members - before).max() < 1e-4:
            break
    return members


def _distance(away: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Mahalanobis's, squared, float64 [n]."""
    squared: np.ndarray = (away * np.linalg.solve(scale, away.T).T).sum(1)
    return squared
