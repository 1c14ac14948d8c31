"""One verdict from everything that is known of a delivered training set: is it poisoned, which labels, which samples, by what.

First per label, then samples inside the convicted labels only. Nothing that was planted is known here, no clean data, no rate, no target.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
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
from wellcheck.samples import Samples
from wellcheck.verdict.charges import CHARGES, CONVICTS, Accused, Finding, by_pattern, evidence_of, is_guilty
from wellcheck.verdict.examination import Examination, examine
from wellcheck.verdict.refinement import Judge, appeal, refine
from wellcheck.verdict.transfer import Pattern, common
from wellcheck.verdict.witness import Witnesses

GROUPS = 3  # per label and layer
SMALL_SHARE = 0.25  # of the label: larger groups must look foreign
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
    shown: np.ndarray  # int64 [N], the class that a model free of the suspects reads in each image
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
    def p_value(self) -> float:
        """Of the least likely label if nothing were wrong with any."""
        return min((one.p_value for one in self.labels), default=1.0)


def reach(case: Case, train: Samples, recipe: Train, *, cache: Path) -> Verdict:
    """Examine a delivered set and the model that was trained on it by `recipe`. Trains one to six models more, kept in `cache`.

    Raises InputError where the case lacks its images, model or layers.
    """
    classifier, _ = case.model()
    disagreement, votes = neighbour_votes(case)
    whitened = {layer: whiten(case, layer) for layer in LAYERS}
    accused = list(_accused(case, whitened, disagreement))
    witnesses = Witnesses(train, recipe, case.device, cache)
    examination = examine(accused, witnesses.hear(classifier, "model under suspicion"), witnesses)
    guilty = [one for one in examination.findings if is_guilty(one, len(examination.findings))]
    foreign = _suspects(one.accused for one in guilty if not one.own_content)
    turning = {one.accused.label for one in guilty if by_pattern(one).holds(len(examination.findings))}
    if foreign.keys() - turning:
        upheld = appeal(foreign, examination, witnesses)
        foreign = {label: rows for label, rows in foreign.items() if label in upheld | turning}
    probability, reference = np.zeros(len(train)), examination.reference
    if foreign:
        posteriors, reference = refine(whitened, foreign, examination, witnesses)
        for label, values in posteriors.items():
            probability[train.labels == label] = values
    # Where the content is the label's own no reference can tell; what the groups carry can.
    own = _suspects(one.accused for one in guilty if one.own_content and one.accused.label not in foreign)
    if own:
        judge = Judge(train, whitened, examination.reference, ~examination.excluded)
        for label, rows in own.items():
            mine = np.flatnonzero(train.labels == label)
            probability[mine] = judge.posterior(mine, np.isin(mine, rows))
    labels = label_verdicts(examination.findings, case, {*foreign, *own})
    ordinary = ~(examination.excluded | (probability > 0.5))
    patterns = {
        label: common(train, np.flatnonzero((probability > 0.5) & (train.labels == label)), reference, ordinary)
        for label in np.unique(train.labels[probability > 0.5]).tolist()
    }
    return Verdict(labels, examination, probability, reference.labels, votes, patterns)


def _accused(case: Case, whitened: Mapping[str, np.ndarray], disagreement: np.ndarray) -> Iterator[Accused]:
    for layer, values in whitened.items():
        for _, groups in find_groups(case, layer, values, disagreement, most=GROUPS):
            for group in groups:
                accused = Accused(group.label, f"mixture in {layer}", group.rows, expit(group.log_odds))
                if is_plausible(accused, disagreement):
                    yield accused
    for found in clusters(case):
        if found.suspicious:
            yield Accused(found.label, "activation clustering", found.rows, found.smaller.astype(np.float64))


def is_plausible(group: Accused, disagreement: np.ndarray) -> bool:
    """Whether a group is worth a trial: it is small, or its images look much more foreign than the rest of the label.

    To leave out half of a label on suspicion would take from the reference what it needs to know that label. disagreement: float [N], the
    share of a sample's neighbours in pixels that carry another label.
    """
    suspects = group.probability > 0.5
    if suspects.mean() <= SMALL_SHARE:
        return True
    looks = np.nan_to_num(disagreement[group.rows])
    return bool(looks[suspects].mean() >= looks[~suspects].mean() + MORE_FOREIGN) if not suspects.all() else False


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
        note = f"only {samples} samples: not examined" if samples < LEAST_PER_LABEL else ""
        z = float((evidence[label] - middle) / deviation)
        verdicts.append(LabelVerdict(label, samples, len(mine), float(evidence[label]), z, p_value, label in convicted, note))
    return verdicts


def _suspects(groups: Iterable[Accused]) -> dict[int, np.ndarray]:
    """The samples of these groups, int64 [n] by label."""
    found: dict[int, list[np.ndarray]] = {}
    for group in groups:
        found.setdefault(group.label, []).append(group.suspects)
    return {label: np.unique(np.concatenate(rows)) for label, rows in found.items()}
