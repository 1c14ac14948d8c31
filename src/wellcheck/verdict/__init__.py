"""One verdict from everything that is known of a delivered training set: is it poisoned, which labels, which samples, by what.

First per label, then samples inside the convicted labels only. Nothing that was planted is known here, no clean data, no rate, no target.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import expit

from wellcheck.detectors.case import Case
from wellcheck.detectors.clustering import clusters
from wellcheck.detectors.knn import neighbour_votes
from wellcheck.detectors.mixture import LAYERS, LEAST_PER_LABEL, find_groups, whiten
from wellcheck.metrics import spread
from wellcheck.params import Train
from wellcheck.patterns import Pattern
from wellcheck.samples import Samples
from wellcheck.verdict.charges import CHARGES, CONVICTS, Accused, Finding, evidence_of
from wellcheck.verdict.examination import LEAST_GAIN, Examination, appeal, examine, facing, last_question
from wellcheck.verdict.refinement import Judge, refine
from wellcheck.verdict.transfer import common
from wellcheck.verdict.witness import Witness, Witnesses

GROUPS = 4  # per label and layer
MOST = 0.7  # of a label that its groups may take
MOST_OF_THE_REST = 0.4  # of a label, where they neither look foreign nor lie farthest apart
MORE_FOREIGN = 0.25  # of the neighbours
LEAST_SPREAD = 0.05  # of the evidence over labels: where all have next to none, a little more is no outlier


@dataclass(frozen=True)
class LabelVerdict:
    """What is held of one label."""

    label: int
    samples: int
    groups: int  # that were examined
    evidence: float  # in [0, 1], of its worst group; see `evidence_of`
    z: float  # of the evidence over all labels, robust
    p_value: float  # of enough evidence in its worst group, times the number of tests in all labels; 1 without enough
    convicted: bool
    note: str = ""


@dataclass(frozen=True)
class Verdict:
    """What is held of a delivered set of N samples."""

    labels: list[LabelVerdict]
    examination: Examination
    probability: np.ndarray  # float64 [N], of being poison; 0 outside the convicted labels
    shown: np.ndarray  # int64 [N], the class that the last reference reads in each image
    unseen: np.ndarray  # bool [N], what that reference was trained without
    votes: np.ndarray  # uint8 [N, classes], of the nearest neighbours in pixels
    patterns: dict[int, Pattern]  # what the flagged samples of a convicted label have in common

    @property
    def convicted(self) -> list[int]:
        """The labels that are held to be poisoned."""
        return [one.label for one in self.labels if one.convicted]

    @property
    def flagged(self) -> np.ndarray:
        """The samples that are held to be poison, bool [N]."""
        flagged: np.ndarray = self.probability > 0.5
        return flagged

    @property
    def not_examined(self) -> int:
        """How many labels have too few samples, or nothing by which to tell them."""
        return sum(bool(one.note) for one in self.labels)

    @property
    def p_value(self) -> float:
        """The smallest of the labels'; `Charge` says what it is worth."""
        return min((one.p_value for one in self.labels), default=1.0)


def reach(case: Case, train: Samples, recipe: Train, *, cache: Path) -> Verdict:
    """Examine a delivered set and the model that was trained on it by `recipe`. Trains one to twelve models more, kept in `cache`.

    Raises InputError where the case lacks its images, model or layers.
    """
    classifier, _ = case.model()
    disagreement, votes = neighbour_votes(case)
    whitened = {layer: whiten(case, layer) for layer in LAYERS}
    witnesses = Witnesses(train, recipe, case.device, cache)
    suspected = witnesses.hear(classifier, "model under suspicion")
    accused = list(_accused(case, whitened, disagreement, suspected, train))
    examination = last_question(appeal(examine(accused, suspected, witnesses), witnesses))
    foreign = examination.convicted_samples()
    probability, reference, unseen = np.zeros(len(train)), examination.reference, examination.unseen
    if foreign:
        posteriors, reference, unseen = refine(whitened, foreign, examination, witnesses)
        for label, values in posteriors.items():
            probability[train.labels == label] = values
    # Where the content is the label's own no reference can tell; what the groups carry can.
    own = _suspects(one.accused for one in examination.guilty if one.own_content and one.accused.label not in foreign)
    if own:
        judge = Judge(train, whitened, examination.reference, ~(examination.excluded | examination.unseen), suspected)
        for label, rows in own.items():
            mine = np.flatnonzero(train.labels == label)
            convicted = np.isin(mine, rows)
            probability[mine] = judge.posterior(mine, convicted, convicted)
    labels = label_verdicts(examination.findings, case, {*foreign, *own})
    flagged = probability > 0.5
    patterns = {
        label: common(train, np.flatnonzero(flagged & (train.labels == label)), reference, ~(examination.excluded | flagged))
        for label in np.unique(train.labels[flagged]).tolist()
    }
    return Verdict(labels, examination, probability, reference.labels, unseen, votes, patterns)


def _accused(
    case: Case, whitened: Mapping[str, np.ndarray], disagreement: np.ndarray, suspected: Witness, train: Samples
) -> Iterator[Accused]:
    found: dict[int, list[Accused]] = {}
    for layer, values in whitened.items():
        for label, groups in find_groups(case, layer, values, disagreement, most=GROUPS):
            found.setdefault(label, []).extend(
                Accused(label, f"mixture in {layer}", one.rows, expit(one.log_odds), one.gain) for one in groups if one.gain >= LEAST_GAIN
            )
    for one in clusters(case):
        if one.suspicious:
            accused = Accused(one.label, "activation clustering", one.rows, one.smaller.astype(np.float64))
            found.setdefault(one.label, []).append(accused)
    for mine in found.values():
        faced = [one if looks_foreign(one, disagreement) else facing(one, suspected, train, case.seed) for one in mine]
        yield from put_on_trial(faced, disagreement)


def put_on_trial(groups: Sequence[Accused], disagreement: np.ndarray) -> list[Accused]:
    """The groups of one label that are tried: all, as long as enough of the label is left for a reference to know it.

    First the best separated one, then those whose images look more foreign than the rest of the label, until 70 % of it are taken; then the
    others by how well they are separated, until 40 % are. disagreement: float [N], the share of a sample's neighbours in pixels that carry
    another label.
    """
    best = max((group.gain for group in groups), default=0.0)
    marked = [(group, group.gain == best or looks_foreign(group, disagreement)) for group in groups]
    chosen, taken = [], np.zeros(len(disagreement), bool)
    for group, important in sorted(marked, key=lambda one: (one[0].gain < best, not one[1], -one[0].gain)):
        together = taken.copy()
        together[group.suspects] = True
        if together.sum() <= (MOST if important else MOST_OF_THE_REST) * len(group.rows):
            chosen.append(group)
            taken = together
    return chosen


def looks_foreign(group: Accused, disagreement: np.ndarray) -> bool:
    """Whether the neighbours of its images, float [N] as above, carry other labels much more often than those of the rest of the label."""
    suspects, looks = group.probability > 0.5, np.nan_to_num(disagreement[group.rows])
    if suspects.all() or not suspects.any():
        return False
    return bool(looks[suspects].mean() >= looks[~suspects].mean() + MORE_FOREIGN)


def label_verdicts(findings: list[Finding], case: Case, convicted: Collection[int]) -> list[LabelVerdict]:
    """One verdict for every label of the set, from the findings on its groups and the labels that are convicted in the end."""
    present = np.unique(case.labels)
    evidence = np.zeros(case.classes)
    for finding in findings:
        evidence[finding.accused.label] = max(evidence[finding.accused.label], evidence_of(finding))
    middle = np.median(evidence[present]) if len(present) else 0.0
    deviation = max(spread(evidence[present]), LEAST_SPREAD) if len(present) else 1.0
    verdicts = []
    for label in present.tolist():
        mine = [finding for finding in findings if finding.accused.label == label]
        samples = int((case.labels == label).sum())
        telling = [charge(finding) for finding in mine for charge in CHARGES]
        p_value = min([1.0, *(one.p_value * len(CHARGES) * len(findings) for one in telling if one.evidence >= CONVICTS)])
        note = _not_examined(case, label, samples, len(present))
        z = float((evidence[label] - middle) / deviation)
        verdicts.append(LabelVerdict(label, samples, len(mine), float(evidence[label]), z, p_value, label in convicted, note))
    return verdicts


def _not_examined(case: Case, label: int, samples: int, labels: int) -> str:
    """Why nothing can be held of a label, or nothing to say."""
    if samples < LEAST_PER_LABEL:
        return f"only {samples} samples: not examined"
    if labels < 2:
        return "no other label to compare with: not examined"
    rows = np.flatnonzero(case.labels == label)
    if all((case.layer(layer)[rows] == case.layer(layer)[rows[0]]).all() for layer in LAYERS):
        return "the model sees the same in all of its samples: not examined"
    return ""


def _suspects(groups: Iterable[Accused]) -> dict[int, np.ndarray]:
    """The samples of these groups, int64 [n] by label."""
    found: dict[int, list[np.ndarray]] = {}
    for group in groups:
        found.setdefault(group.label, []).append(group.suspects)
    return {label: np.unique(np.concatenate(rows)) for label, rows in found.items()}
