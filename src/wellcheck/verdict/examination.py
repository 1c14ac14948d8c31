"""The trial of every suspicious group: would a model that never saw it read its content as its label, and does its label still generalise?

Three things set a backdoor with foreign content apart from what else makes a group of samples stand out in a label:
1. A model trained without any suspects confidently gives them other labels (a natural sub-class mostly stays in its class: exclusionary
   reclassification, Chen et al. 2018, arXiv 1811.03728).
2. The model under suspicion answers them as labelled (it does not with labels that are merely wrong, unless it learnt them by heart).
3. A model that saw some of the group, but not these, answers these as labelled too: they share something that it learnt. Labels learnt by
   heart, and hard samples, do not help each other like that.
Or what a group carries, put on other images, turns these too (transfer.py): that also tells where its content is its label's own, as in
clean-label poison, or where the second model has not learnt it from what it was left.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import binom

from wellcheck.samples import Samples
from wellcheck.verdict.charges import Accused, Finding, is_guilty
from wellcheck.verdict.transfer import TESTED, Transfer, common, try_on_others
from wellcheck.verdict.witness import UNSURE, Witness, Witnesses

HELD_OUT = 0.25  # of every group on trial
ON_TRIAL = 0.3  # share of a group that is foreign
INNOCENT = 0.05  # share of innocent groups that may be as telling as the null
INNOCENT_TURNS = 0.25, 0.5  # share of images that the pattern of an innocent group may turn: at least and at most


@dataclass(frozen=True)
class Examination:
    """All findings, and the witnesses they rest on."""

    findings: list[Finding]
    suspected: Witness  # the model under suspicion
    reference: Witness  # trained without any suspects
    excluded: np.ndarray  # bool [N]: the suspects


def examine(groups: Sequence[Accused], suspected: Witness, witnesses: Witnesses) -> Examination:
    """Try every group; trains one model, and a second one if what the groups carry does not settle it."""
    train, seed = witnesses.train, witnesses.recipe.seed
    excluded = witnesses.marked(group.suspects for group in groups)
    reference = witnesses.reference(excluded, "reference", turn=1)
    foreign = reference.contradicts(suspected, ~excluded)
    rng = np.random.default_rng([seed, *b"others"])
    findings = []
    for group in groups:
        own_content = bool((reference.labels[group.suspects] == group.label).mean() >= 0.5)
        transfer = _transfer(group, train, suspected, reference, ~excluded, rng)
        findings.append(Finding(group, own_content, float(foreign[group.suspects].mean()), transfer))
    findings = [replace(one, p_turned=_turns(one, findings)) for one in findings]
    settled = {one.accused.label for one in findings if is_guilty(one, len(findings))}
    on_trial = [one.accused.suspects for one in findings if one.foreign >= ON_TRIAL and one.accused.label not in settled]
    # A stream of its own: whoever poisoned may have drawn from the same seed.
    held_out = witnesses.marked(on_trial) & (np.random.default_rng([seed, *b"held out"]).random(len(train)) < HELD_OUT)
    if held_out.any():
        second = witnesses.without(held_out, "second witness", turn=2)
        findings = [_asked(one, held_out & foreign, train.labels, reference, second, ~excluded) for one in findings]
    return Examination(findings, suspected, reference, excluded)


def _asked(
    finding: Finding, held_out: np.ndarray, labels: np.ndarray, reference: Witness, second: Witness, ordinary: np.ndarray
) -> Finding:
    """The finding with the second witness's answers: how many of the group's samples that it never saw it surely answers as labelled.

    The null: samples of other labels that the reference reads alike are answered so at their own rate (with one success added).
    """
    label, suspects = finding.accused.label, finding.accused.suspects
    asked = suspects[held_out[suspects]]
    if not len(asked):
        return finding
    sure = (second.labels == label) & (second.margins > second.confident(ordinary, UNSURE))
    others = ordinary & np.isin(labels, np.unique(reference.labels[asked])) & (labels != label)
    rate = (int((second.labels[others] == label).sum()) + 1) / (int(others.sum()) + 1)
    hits = int(sure[asked].sum())
    p_value = float(binom.sf(hits - 1, len(asked), min(rate, 1.0)))
    return replace(finding, held_out=len(asked), generalises=hits / len(asked), p_generalises=p_value)


def _turns(finding: Finding, findings: Sequence[Finding]) -> float:
    """The binomial p-value of so many turned images, if the group's pattern were like the most telling ones of innocent labels.

    The null: the rate that one in twenty groups of other labels exceeds. At least a quarter, for what tells a class from others turns some
    images, and not more than half, for the others may be guilty too.
    """
    others = [one.transfer.turned for one in findings if one.accused.label != finding.accused.label]
    rate = np.clip(np.quantile(others, 1 - INNOCENT) if others else 1.0, *INNOCENT_TURNS)
    tested = finding.transfer.tested
    return float(binom.sf(round(finding.transfer.turned * tested) - 1, tested, rate))


def _transfer(
    group: Accused, train: Samples, suspected: Witness, reference: Witness, ordinary: np.ndarray, rng: np.random.Generator
) -> Transfer:
    suspects = group.suspects
    content = reference.labels[suspects]
    pattern = common(train, suspects, reference, ordinary)
    # A trigger may turn the images of some classes only: others show what the group shows, in the same proportions.
    shown = content[content != group.label]
    if len(shown) <= len(content) / 2:
        shown = train.labels[train.labels != group.label]
    candidates = np.flatnonzero(ordinary & np.isin(train.labels, shown))
    classes = len(train.description.class_names)
    chances = np.bincount(shown, minlength=classes) / np.maximum(np.bincount(train.labels[candidates], minlength=classes), 1)
    weights = chances[train.labels[candidates]]
    few = min(TESTED, len(candidates))
    chosen = rng.choice(candidates, few, replace=False, p=weights / weights.sum()) if few else candidates
    return try_on_others(pattern, group.label, train.images[np.sort(chosen)], suspected, reference)
