"""What a group of samples may be charged with, and how much of it convicts."""

from dataclasses import dataclass, replace

import numpy as np

from wellcheck.verdict.transfer import LEGIBLE, Transfer

LEVEL = 0.01  # of the accidents of few images, shared among all groups
# Share of a group that must be foreign to convict it, on appeal beyond chance: a weak model calls half of an unusual kind of a class so.
FOREIGN = 0.5
GENERALISES = 0.25  # share of these that must be answered as labelled by a model that never saw them
CONVICTS = 0.5  # evidence, on a scale from 0 to 1
ASKED = 5  # foreign samples held out, at least
TURNED = 0.7  # share of other images that a group's pattern must turn
TURNED_IF_KIND = 0.8  # where it bends them, or turns no others: kinds of a class differ in shape, and turn what they resemble
EVERYWHERE = 0.4  # share of images of all other labels, as many of each, that a trigger turns: it need not resemble what it is put on
OWN_EVERYWHERE = 0.5  # where the content is its own: an unusual, but innocent kind of a simple class turns up to 44 %
KNOWN = 0.25  # share of a group that must be foreign for its pattern to count, but for a stamp: else it may be an unknown kind of its label
OWN = 0.7  # share of a group that the reference reads as labelled: from here on its content is the label's own
MARKED = 0.5  # share of its foreign samples that must carry what convicts another label
# Where the content is its own the pattern must be strong: it spoils some images, and turns fewer. But so do some natural kinds of a class.
OWN_TURNED, OWN_LEGIBLE = 0.2, 0.85
APART = 1.5  # times the gain of other labels' groups: natural kinds of other classes lie as far apart


@dataclass(frozen=True, eq=False)
class Accused:
    """A group of samples of one label that stands out."""

    label: int
    source: str  # who found it
    rows: np.ndarray  # int64 [n], all samples of the label
    probability: np.ndarray  # float64 [n], of belonging to the group
    gain: float = 0.0  # of log-likelihood by telling it apart, nats a sample, where that is known

    @property
    def share(self) -> float:
        """Of the label's samples that are suspects."""
        return float((self.probability > 0.5).mean())

    @property
    def suspects(self) -> np.ndarray:
        """The rows of the group, int64."""
        suspects: np.ndarray = self.rows[self.probability > 0.5]
        return suspects

    @property
    def other_side(self) -> "Accused":
        """The rest of the label in its place."""
        return replace(self, probability=1 - self.probability)


@dataclass(frozen=True, eq=False)
class Finding:
    """What the trial says of one group."""

    accused: Accused
    own: float  # share of its samples that the reference reads as labelled
    foreign: float  # share of its samples that are; see `Witness.foreign`
    transfer: Transfer
    bare: float = 0.0  # share of its samples that are foreign without the pattern, asked where there are two classes only
    heard_as_half: bool = False  # by a reference that left out only such groups
    apart: float = 0.0  # its gain over the largest among other labels' groups that are at least half as large
    p_turned: float = 1.0  # of so many turned as count, were its pattern like those of other labels' groups
    p_everywhere: float = 1.0  # of so many turned everywhere, at their rate; asked last, where nothing else convicts the label
    searched: int = 0  # foreign samples that were searched for what convicts another label
    marked: float = 0.0  # share of these that carry it
    p_marked: float = 1.0  # of so many, did they carry it as ordinary images do
    held_out: int = 0  # foreign samples that the second witness never saw
    generalises: float = 0.0  # share of these that it answers as labelled all the same
    p_generalises: float = 1.0  # of so many, were they answered like others of the same content
    p_foreign: float = 0.0  # of so many foreign samples on appeal, in a group of which FOREIGN are; 0 before

    @property
    def counted(self) -> float:
        """The share of other images turned that counts: by a stamp, or by any pattern where the reference knows what the group shows.

        They must stay legible; where the content is the label's own the pattern must be strong, and spoils some.
        """
        known, legible = (True, OWN_LEGIBLE) if self.surely_own else (self.known, LEGIBLE)
        return self.transfer.turned if known and self.transfer.legible >= legible else self.transfer.stamped

    @property
    def known(self) -> bool:
        """Whether the reference knows what the group shows: enough of it is foreign, or with two classes bare."""
        return self.foreign >= KNOWN or self.bare >= FOREIGN

    @property
    def bent(self) -> bool:
        """Whether what counts is a displacement."""
        return self.transfer.way == "bent" and self.counted > self.transfer.stamped

    @property
    def narrow(self) -> bool:
        """Whether its pattern, put on images of all labels, is known to turn fewer than a trigger does."""
        return self.transfer.everywhere is not None and self.transfer.everywhere < EVERYWHERE

    @property
    def own_content(self) -> bool:
        """Whether it mostly shows what its label says."""
        return self.own >= 0.5

    @property
    def surely_own(self) -> bool:
        """Whether almost all of it does."""
        return self.own >= OWN


@dataclass(frozen=True)
class Charge:
    """One way to convict a group."""

    evidence: float  # of which CONVICTS is enough
    p_value: float  # of so many images at the rate of innocent groups; that rates differ from group to group is not in it

    def holds(self, tried: int) -> bool:
        """Whether it convicts, of so many groups that were tried."""
        return self.evidence >= CONVICTS and self.p_value * len(CHARGES) * tried < LEVEL


def by_content(finding: Finding) -> Charge:
    """Foreign content that the label generalises over: it must be both, so the larger p-value is that of the charge."""
    if finding.held_out < ASKED:
        return Charge(0.0, 1.0)
    evidence = CONVICTS * min(finding.foreign / FOREIGN, finding.generalises / GENERALISES)
    return Charge(evidence, max(finding.p_generalises, finding.p_foreign))


def by_pattern(finding: Finding) -> Charge:
    """A pattern that turns other images and leaves them legible, on a group whose own content is understood; or a stamp that does."""
    own = min(finding.counted / OWN_TURNED, finding.apart / APART)
    other = max(finding.transfer.stamped / TURNED, finding.counted / (TURNED_IF_KIND if finding.bent or finding.narrow else TURNED))
    return Charge(CONVICTS * (own if finding.surely_own else other), finding.p_turned)


def by_breadth(finding: Finding) -> Charge:
    """A pattern that turns images of whatever class, if not so many: of a group that is foreign, far apart, or surely its label's own."""
    everywhere = finding.transfer.everywhere or 0.0
    if finding.known or finding.apart >= APART:
        return Charge(CONVICTS * everywhere / EVERYWHERE, finding.p_everywhere)
    return Charge(CONVICTS * everywhere / OWN_EVERYWHERE if finding.surely_own else 0.0, finding.p_everywhere)


def by_mark(finding: Finding) -> Charge:
    """Foreign content with the pattern that convicts another label: a backdoor may have many targets."""
    return Charge(CONVICTS * finding.marked / MARKED if finding.foreign >= KNOWN else 0.0, finding.p_marked)


def evidence_of(finding: Finding) -> float:
    """How strongly a group speaks against its label, in [0, 1], of which CONVICTS is enough."""
    return min(1.0, max(charge(finding).evidence for charge in CHARGES))


def is_guilty(finding: Finding, tried: int) -> bool:
    """Whether one group, of so many that were tried, convicts its label."""
    return any(charge(finding).holds(tried) for charge in CHARGES)


CHARGES = (by_content, by_pattern, by_mark, by_breadth)
