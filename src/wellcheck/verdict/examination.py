"""The trial of every suspicious group: would a model that never saw it read its content as its label, and does its label still generalise?

Three things set a backdoor with foreign content apart from what else makes a group of samples stand out in a label:
1. A model trained without any suspects confidently gives them other labels, and they look to it like images of these (a natural sub-class
   stays in its class, or is typical of none: exclusionary reclassification, Chen et al. 2018, arXiv 1811.03728).
2. The model under suspicion answers them as labelled (it does not with labels that are merely wrong, unless it learnt them by heart).
3. A model that saw some of the group, but not these, answers these as labelled too: they share something that it learnt. Labels learnt by
   heart, and hard samples, do not help each other like that.
Or what a group carries, put on other images, turns these too (transfer.py): that also tells where its content is its label's own, as in
clean-label poison, or where the second model has not learnt it from what it was left. And where that convicts one label, foreign groups of
other labels that carry the same are its accomplices: a backdoor may have many targets.
Last, where nothing convicts a label, what its groups carry is put on images of all others: a trigger turns whatever it is put on, a kind of
a class what it resembles.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy.special import bdtrc  # the binomial's upper tail, without the second that scipy.stats takes to import

from wellcheck.metrics import proportion_interval
from wellcheck.patterns import STRONGER, added
from wellcheck.samples import Samples, evenly
from wellcheck.verdict.charges import ASKED, FOREIGN, KNOWN, OWN, TURNED, Accused, Finding, by_breadth, by_mark, by_pattern, is_guilty
from wellcheck.verdict.transfer import LARGEST, LEGIBLE, TESTED, Load, Transfer, carriers, common, try_on_others
from wellcheck.verdict.witness import UNSURE, Turn, Witness, Witnesses

ALMOST_HALF = 0.4  # share of its label from which a group may be the innocent side
LEAST_GAIN = 0.1  # nats a sample: less is no group
HELD_OUT = 0.25  # of every group on trial
CONTROLS = 0.1  # of the ordinary samples, held out with them
LEAST_OTHERS = 3  # labels, against which a group lies apart, and on which a pattern is tried
WORTH_ASKING = 0.3  # share of images that must be turned before those of all other labels are tried
NEARLY = 0.8  # times as foreign as the most foreign guilty group of a label
CONFIDENCE = 0.95  # of the intervals by which these are compared
QUARTER = 0.25  # of a label, that less foreign guilty groups may take
ON_TRIAL = 0.3  # share of a group that is foreign
INNOCENT = 0.05  # share of innocent groups that may be as telling as the null
# Share of images that the pattern of an innocent group may turn, at least and at most: what tells a kind of a class from others turns some,
# what tells it from its own class turns few; and not more than half, for the other groups may be guilty too.
INNOCENT_TURNS, INNOCENT_OWN_TURNS = (0.25, 0.5), (0.05, 0.5)


@dataclass(frozen=True)
class Examination:
    """All findings, and the witnesses they rest on."""

    findings: list[Finding]
    suspected: Witness  # the model under suspicion
    reference: Witness  # trained without those who were suspects at first
    excluded: np.ndarray  # bool [N]: the suspects
    unseen: np.ndarray  # bool [N], what the reference was trained without: not the suspects where the other half of a label is accused

    @property
    def guilty(self) -> list[Finding]:
        """The findings that convict their label."""
        return [one for one in self.findings if is_guilty(one, len(self.findings))]

    @property
    def bent(self) -> set[int]:
        """The labels that a displacement convicts, at least as surely as anything that is added or pasted."""
        foremost = {one.accused.label: one for one in _turning(self.findings)}
        # By their breadth only labels are convicted that nothing else convicts.
        broad = sorted((one for one in self.findings if by_breadth(one).holds(len(self.findings))), key=lambda one: one.p_everywhere)
        broadest = {one.accused.label: one for one in reversed(broad)}
        return {label for label, one in foremost.items() if one.bent} | {
            label for label, one in broadest.items() if one.transfer.way_everywhere == "bent"
        }

    def convicted_samples(self) -> dict[int, np.ndarray]:
        """The samples of guilty groups with foreign content, int64 [n] by label.

        Groups of a label overlap, and one that holds another may owe its guilt to it. Those that are nearly as foreign as the most foreign
        one count, by the lower ends of their intervals, for a small group may be so by chance; the others only while no more than a quarter
        of the label is taken: a reference that has to do without more does not know the label.
        """
        taken: dict[int, np.ndarray] = {}
        most: dict[int, float] = {}
        for sure, one in sorted(((_surely_foreign(one), one) for one in self.guilty if not one.own_content), key=lambda pair: -pair[0]):
            label, suspects = one.accused.label, one.accused.suspects
            together = np.union1d(taken.get(label, suspects), suspects)
            if sure >= NEARLY * most.setdefault(label, sure) or len(together) <= QUARTER * len(one.accused.rows):
                taken[label] = together
        return taken


def _turning(findings: Sequence[Finding]) -> list[Finding]:
    """Those whose pattern convicts their label, the most telling ones last; of equal ones those that are bent."""
    convicting = [one for one in findings if by_pattern(one).holds(len(findings))]
    return sorted(convicting, key=lambda one: (one.counted, one.bent))


def _surely_foreign(finding: Finding) -> float:
    """The lower end of the interval of the share of a group that is foreign."""
    suspects = len(finding.accused.suspects)
    interval = proportion_interval(round(finding.foreign * suspects), suspects, CONFIDENCE)
    return interval[0] if interval else 0.0


def facing(group: Accused, suspected: Witness, train: Samples, seed: int) -> Accused:
    """The group, or where it is about half of its label, whichever of the two halves turns more images of other labels.

    With clean-label poison neither half looks foreign, and poison need not be the smaller one. Put on other images, what tells a half from
    the other one leads the model to the label only if it is the trigger.
    """
    half = group.probability > 0.5
    others = np.flatnonzero(train.labels != group.label)
    if not ALMOST_HALF <= half.mean() <= 1 - ALMOST_HALF or not len(others):
        return group
    one, other = (train.images[group.rows[side]].mean(0, dtype=np.float32) for side in (half, ~half))
    images = train.images[np.sort(np.random.default_rng([seed, *b"facing"]).permutation(others)[:TESTED])]
    ways = (one - other, other - one)
    turned = [int((suspected.answers(added(images, difference, STRONGER[0])) == group.label).sum()) for difference in ways]
    return group if turned[0] >= turned[1] else group.other_side


def examine(groups: Sequence[Accused], suspected: Witness, witnesses: Witnesses) -> Examination:
    """Try every group; trains one model, two where one is half of its label, and one if what they carry does not settle it."""
    train, seed = witnesses.train, witnesses.recipe.seed
    unseen = witnesses.marked(group.suspects for group in groups)
    reference = witnesses.reference(unseen, "reference", turn=Turn.REFERENCE)
    reading = Reading(reference.labels, reference.foreign(suspected, ~unseen))
    rng = np.random.default_rng([seed, *b"others"])
    findings = [reading.on(group, _transfer(group, train, suspected, reference, ~unseen, rng)) for group in groups]
    findings, (shown, foreign) = halves(findings, reading, suspected, witnesses)
    excluded = witnesses.marked(one.accused.suspects for one in findings)
    ordinary = ~(excluded | unseen)
    others = len(np.unique(train.labels)) - 1
    if others == 1:
        findings = [replace(one, bare=_bare(one, train, reference, ordinary)) for one in findings]
    if others >= LEAST_OTHERS:
        findings = [replace(one, apart=apart(one, findings)) for one in findings]
    findings = [replace(one, p_turned=_turns(one, findings)) for one in findings]
    findings = accomplices(findings, foreign, train, reference, ordinary)
    settled = _settled(findings)
    on_trial = [one.accused.suspects for one in findings if one.foreign >= ON_TRIAL and one.accused.label not in settled]
    # A stream of its own: whoever poisoned may have drawn from the same seed.
    draws = np.random.default_rng([seed, *b"held out"]).random(len(train))
    held_out, controls = witnesses.marked(on_trial) & (draws < HELD_OUT), ordinary & (draws < CONTROLS)
    if held_out.any():
        second = witnesses.without(held_out | controls, "second witness", turn=Turn.SECOND_WITNESS)
        findings = [_asked(one, held_out & foreign, controls, train.labels, shown, second) for one in findings]
    return Examination(findings, suspected, reference, excluded, unseen)


def _bare(finding: Finding, train: Samples, reference: Witness, ordinary: np.ndarray) -> float:
    """The share of a group that the reference gives to another label, and that is typical of that once the pattern is off it.

    A network of two classes keeps of an image only which of both it is. To it whatever carries a pattern that it never saw is typical of
    neither; without the pattern poison is typical of what it shows. Asked only of what turns other images: odd kinds of a label, made less
    odd, are typical too.
    """
    if finding.transfer.turned < TURNED or finding.transfer.legible < LEGIBLE:
        return 0.0
    rows, label = finding.accused.suspects, finding.accused.label
    shown = reference.reads(finding.transfer.pattern.taken_off(train.images[rows], bent=False), ordinary)
    return float(((reference.labels[rows] != label) & (shown >= 0) & (shown != label)).mean())


def is_half(finding: Finding) -> bool:
    """Whether a group is about half of its label, and a model that knows the other half reads next to none of it as that."""
    return ALMOST_HALF <= finding.accused.share <= 1 - ALMOST_HALF and finding.own < 1 - OWN


class Reading(NamedTuple):
    """What a model that never saw some samples reads in all of them, and which of them look foreign to it."""

    shown: np.ndarray  # int64 [N]
    foreign: np.ndarray  # bool [N]

    def on(self, accused: Accused, transfer: Transfer) -> Finding:
        """What it says of a group."""
        rows = accused.suspects
        return Finding(accused, float((self.shown[rows] == accused.label).mean()), float(self.foreign[rows].mean()), transfer)


def halves(findings: Sequence[Finding], known: Reading, suspected: Witness, witnesses: Witnesses) -> tuple[list[Finding], Reading]:
    """The findings and the reading of all samples, once such groups have been heard by references that left out only these.

    Poison that is half of a label may be most of the class that it was taken from. What is left of that class must not be left out, and of
    so few the reference is less sure than of other classes: an answer is no guess if a quarter of the ordinary samples that are answered
    the same are so less surely. And it need not be the smaller half: each side of the best separated such group of a label is heard by a
    reference that knows the other side, and the more foreign one is accused. Its reading is that of the whole label.
    """
    best: dict[int, int] = {}  # by label, a place in the findings
    for place, one in sorted(enumerate(findings), key=lambda pair: pair[1].accused.gain):
        if is_half(one):
            best[one.accused.label] = place
    if not best:
        return list(findings), known
    sides = [{place: findings[place].accused for place in best.values()}]
    sides.append({place: accused.other_side for place, accused in sides[0].items()})
    turns = (Turn.HALVES, Turn.OTHER_HALVES)
    heard = [_read(side.values(), suspected, witnesses, turn) for turn, side in zip(turns, sides, strict=True)]
    again, together = list(findings), Reading(known.shown.copy(), known.foreign.copy())
    rng = np.random.default_rng([witnesses.recipe.seed, *b"halves"])
    for label, place in best.items():
        told = [reading.on(side[place], findings[place].transfer) for side, (reading, _, _) in zip(sides, heard, strict=True)]
        more = int(told[1].foreign > told[0].foreign)
        reading, reference, ordinary = heard[more]
        for other, before in enumerate(findings):
            if before.accused.label != label:
                continue
            is_it = other == place
            now = replace(told[more], heard_as_half=True) if is_it else reading.on(before.accused, before.transfer)
            # What the other side has in common with itself says nothing of this one; and what is its label's own is put on others once.
            if is_it or (now.surely_own and not before.surely_own):
                now = replace(now, transfer=_transfer(now.accused, witnesses.train, suspected, reference, ordinary, rng))
            again[other] = now
        rows = told[more].accused.rows
        for mine, theirs in zip(together, reading, strict=True):
            mine[rows] = theirs[rows]
    return again, together


def _read(accused: Collection[Accused], suspected: Witness, witnesses: Witnesses, turn: Turn) -> tuple[Reading, Witness, np.ndarray]:
    """The reading of a reference that left out only these groups; the reference; who is ordinary to it, bool [N]."""
    ordinary = ~witnesses.marked(one.suspects for one in accused)
    reference = witnesses.reference(~ordinary, f"reference without {turn.name.lower().replace('_', ' ')}", turn=turn)
    sure = -reference.margins >= reference.confident_by_answer(ordinary, UNSURE)[reference.labels]
    return Reading(reference.labels, sure & (suspected.margins > 0) & reference.typical(ordinary)), reference, ordinary


def accomplices(
    findings: Sequence[Finding], foreign: np.ndarray, train: Samples, reference: Witness, ordinary: np.ndarray
) -> list[Finding]:
    """The findings, those on labels that no pattern convicts with how many of their foreign samples carry one that convicts another label.

    What is added or pasted is searched for; a displacement is not. foreign: bool [N].
    """
    guilty = _turning(findings)
    convicted = {one.accused.label for one in guilty}
    # The most telling one of a label. A group's innocent members carry nothing of it.
    chiefs = {one.accused.label: one for one in guilty if one.transfer.way != "bent" or one.transfer.stamped}
    loads = [
        Load.of(train, _where(one.accused.suspects, foreign), one.transfer.pattern.difference, reference, ordinary)
        for one in chiefs.values()
    ]
    heard = []
    for one in findings:
        rows = one.accused.suspects[foreign[one.accused.suspects]]
        if loads and one.accused.label not in convicted and one.foreign >= KNOWN and len(rows) >= ASKED:
            rows = evenly(rows, LARGEST)
            hits, rate = carriers(train, rows, loads, reference, ordinary)
            p_value = min(1.0, len(loads) * float(bdtrc(hits - 1, len(rows), rate)))
            one = replace(one, searched=len(rows), marked=hits / len(rows), p_marked=p_value)
        heard.append(one)
    return heard


def _where(rows: np.ndarray, marked: np.ndarray) -> np.ndarray:
    """Those of the rows (int64 [n]) that are marked (bool [N]), or all of them if hardly any is."""
    some = rows[marked[rows]]
    return some if len(some) >= ASKED else rows


def _asked(finding: Finding, held_out: np.ndarray, controls: np.ndarray, labels: np.ndarray, shown: np.ndarray, second: Witness) -> Finding:
    """The finding with the second witness's answers: how many of the group's samples that it never saw it surely answers as labelled.

    The null: controls, which it never saw either, of other labels that the reference reads alike are answered so at their own rate (with
    one success added).
    """
    label, suspects = finding.accused.label, finding.accused.suspects
    asked = suspects[held_out[suspects]]
    if not len(asked):
        return finding
    least = 0.0 if finding.heard_as_half else second.confident(controls, UNSURE)  # half of a label is no guess, and not learnt by heart
    sure = (second.labels == label) & (second.margins >= least)
    others = controls & np.isin(labels, np.unique(shown[asked])) & (labels != label)
    rate = (int((second.labels[others] == label).sum()) + 1) / (int(others.sum()) + 1)
    hits = int(sure[asked].sum())
    p_value = float(bdtrc(hits - 1, len(asked), min(rate, 1.0)))
    return replace(finding, held_out=len(asked), generalises=hits / len(asked), p_generalises=p_value)


def appeal(examination: Examination, witnesses: Witnesses) -> Examination:
    """The examination once labels that foreign content alone convicts have been heard again.

    The first reference did without the suspects of all labels, innocent ones among them, and so without what would have taught it that an
    unusual kind of a class belongs there. On appeal that counts as foreign which still is to a reference that did without the guilty ones,
    and it must be more than half of the group beyond chance.
    """
    guilty, findings = examination.guilty, examination.findings
    settled = _settled(findings)
    appealing = [one for one in guilty if one.accused.label not in settled and not one.heard_as_half]
    if not appealing:
        return examination
    excluded = witnesses.marked(one.accused.suspects for one in guilty)
    reference = witnesses.reference(excluded, "reference on appeal", turn=Turn.APPEAL)
    foreign = reference.foreign(examination.suspected, ~excluded)
    heard = [_on_appeal(one, foreign[one.accused.suspects]) if one in appealing else one for one in findings]
    return replace(examination, findings=heard)


def _on_appeal(finding: Finding, foreign: np.ndarray) -> Finding:
    """The finding by how many of its samples still are foreign, bool [n], and the binomial p-value of so many where FOREIGN are."""
    return replace(finding, foreign=float(foreign.mean()), p_foreign=float(bdtrc(foreign.sum() - 1, len(foreign), FOREIGN)))


def _settled(findings: Sequence[Finding]) -> set[int]:
    """The labels that are convicted by what a group carries: what its content says is not asked."""
    return {one.accused.label for one in findings if any(charge(one).holds(len(findings)) for charge in (by_pattern, by_mark))}


def apart(finding: Finding, findings: Sequence[Finding]) -> float:
    """How many times as far a group lies apart from its label as the others': those at least half as large, for small ones lie farther."""
    mine = finding.accused
    others = [one.accused for one in findings if one.accused.label != mine.label]
    gains = [one.gain for one in others if one.source == mine.source and 2 * one.share >= mine.share] or [one.gain for one in others]
    return mine.gain / max([*gains, LEAST_GAIN])


def last_question(examination: Examination) -> Examination:
    """The examination once labels that nothing convicts have been asked whether a pattern of theirs turns images of whatever class.

    What tells a kind of a class turns those classes that it resembles; a trigger turns any, be it fewer than is asked of a pattern that is
    put on images of the group's own content. Last, for in a label that is convicted groups of which a part is poison do so too.
    """
    findings = examination.findings
    convicted = {one.accused.label for one in examination.guilty}
    asked = [one for one in findings if one.accused.label not in convicted]
    heard = [replace(one, p_everywhere=_everywhere(one, asked)) if one in asked else one for one in findings]
    return replace(examination, findings=heard)


def _turns(finding: Finding, findings: Sequence[Finding]) -> float:
    """The binomial p-value of so many turned images, if the group's pattern were like the most telling ones of other labels."""
    return _as_many(finding, finding.counted, finding.transfer.tested, [one.transfer.turned for one in _alike(finding, findings)])


def _everywhere(finding: Finding, findings: Sequence[Finding]) -> float:
    """The same of images of all other labels, none of which a pattern turns that was not tried on them."""
    others = [one.transfer.everywhere or 0.0 for one in _alike(finding, findings)]
    return _as_many(finding, finding.transfer.everywhere or 0.0, finding.transfer.tested_everywhere, others)


def _alike(finding: Finding, findings: Sequence[Finding]) -> list[Finding]:
    """The groups of other labels, of those whose content is as much or as little their own."""
    return [one for one in findings if one.surely_own == finding.surely_own and one.accused.label != finding.accused.label]


def _as_many(finding: Finding, share: float, tested: int, others: Sequence[float]) -> float:
    """The binomial p-value of this share of so many images, at the rate that one in twenty of the others exceeds."""
    bounds = INNOCENT_OWN_TURNS if finding.surely_own else INNOCENT_TURNS
    rate = np.clip(np.quantile(others, 1 - INNOCENT) if others else 1.0, *bounds)
    return float(bdtrc(round(share * tested) - 1, tested, rate))


def _transfer(
    group: Accused, train: Samples, suspected: Witness, reference: Witness, ordinary: np.ndarray, rng: np.random.Generator
) -> Transfer:
    """What the group carries, put on images of other labels; harder where the reference does not read it as labelled."""
    suspects = group.suspects
    content = reference.labels[suspects]
    harder = float((content == group.label).mean()) < OWN
    pattern = common(train, suspects, reference, ordinary)
    # A trigger may turn the images of some classes only: others show what the group shows, in the same proportions.
    shown = content[content != group.label]
    if len(shown) <= len(content) / 2:
        shown = train.labels[train.labels != group.label]
    images = _drawn(train, ordinary, np.bincount(shown, minlength=len(train.description.class_names)), rng)
    found = try_on_others(pattern, group.label, images, suspected, reference, harder=harder)
    elsewhere = rng.spawn(1)[0]  # of every group, so that what is drawn for one hangs on no other
    if found.turned < WORTH_ASKING or found.legible < LEGIBLE:
        return found
    everyone = try_on_others(
        pattern, group.label, _of_all_others(train, ordinary, group.label, elsewhere), suspected, reference, harder=harder
    )
    if everyone.legible < LEGIBLE:
        return found
    return replace(found, everywhere=everyone.turned, tested_everywhere=everyone.tested, way_everywhere=everyone.way)


def _of_all_others(train: Samples, ordinary: np.ndarray, label: int, rng: np.random.Generator) -> np.ndarray:
    """Ordinary images of all other labels, about as many of each, uint8 [n, C, H, W]; none where these are fewer than LEAST_OTHERS."""
    others = np.bincount(train.labels[ordinary], minlength=len(train.description.class_names)) > 0
    others[label] = False
    return _drawn(train, ordinary, others, rng) if others.sum() >= LEAST_OTHERS else train.images[:0]


def _drawn(train: Samples, ordinary: np.ndarray, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Some ordinary images, uint8 [n, C, H, W], in which labels have these shares (of any sum, [K])."""
    candidates = np.flatnonzero(ordinary & (shares[train.labels] > 0))
    chances = shares / np.maximum(np.bincount(train.labels[candidates], minlength=len(shares)), 1)
    weights = chances[train.labels[candidates]]
    few = min(TESTED, len(candidates))
    chosen = rng.choice(candidates, few, replace=False, p=weights / weights.sum()) if few else candidates
    images: np.ndarray = train.images[np.sort(chosen)]
    return images
