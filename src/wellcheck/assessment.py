"""Scores and verdicts held against what was planted: the figures of poison_detection.json and the curves beside them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wellcheck import metrics, truth
from wellcheck.cleansing import Judged, match_ids
from wellcheck.samples import Labels

Curve = list[tuple[str, float, float]]  # name and place


@dataclass(frozen=True)
class Known:
    """What is known of N delivered samples."""

    labels: np.ndarray  # int64 [N], as received
    poisoned: np.ndarray  # bool [N]
    cover: np.ndarray  # bool [N]: the trigger with the right label, about which nobody is right or wrong
    anything: bool  # whether there is a truth at all
    targets: np.ndarray  # int64, the labels that the backdoor leads to; none without a trigger


def read_known(path: Path, delivered: Labels, *, trigger: bool) -> Known:
    """What the truth says of a delivered set; without a trigger, wrong labels lead nowhere. Raises InputError naming the file."""
    planted = truth.read(path)
    nobody = np.zeros(len(delivered), bool)
    if not len(planted.sample_id):
        return Known(delivered.labels, nobody, nobody, False, np.empty(0, np.int64))
    match_ids(path, planted.sample_id, delivered)
    targets = np.unique(delivered.labels[planted.poisoned]) if trigger else np.empty(0, np.int64)
    return Known(delivered.labels, planted.poisoned, planted.cover, True, targets)


def detector_figures(scores: np.ndarray, known: Known) -> dict[str, Any]:
    """How one detector ranks, and how it flags by the rule for raw scores float [N]; over the samples that it scored, without cover.

    `flagged` counts cover too: who looks at what is flagged does not know it.
    """
    asked = ~np.isnan(scores) & ~known.cover
    inside = asked & np.isin(known.labels, known.labels[known.poisoned])
    flagged = metrics.suspicious(scores)
    return {
        "samples": int(asked.sum()),
        **metrics.ranking(scores[asked], known.poisoned[asked]),
        # The question within the poisoned labels alone (mostly one): there every method of the field is at home.
        "auroc_in_target_label": metrics.ranking(scores[inside], known.poisoned[inside])["auroc"],
        "flagged": int(flagged.sum()),
        **_flagging(flagged, asked, known),
    }


def verdict_figures(verdict: dict[str, Any], judged: Judged, known: Known) -> dict[str, Any]:
    """verdict.json in short, how right its flags are, and how far its probabilities in the labels it names are off on average.

    `target_label` is the one with the strongest evidence. `right_target`: whether all labels that the backdoor leads to are named,
    and no other; None where it leads to none.
    """
    named = verdict["target_labels"]
    asked = np.isin(known.labels, named) & ~known.cover
    off = metrics.calibration_error(judged.probability[asked], known.poisoned[asked])
    evidence = {one["label"]: (one["evidence"], one["z"], -one["p_value"]) for one in verdict["labels"]}
    return {
        "poisoned": verdict["poisoned"],
        "target_label": max(named, key=lambda label: evidence[label], default=None),
        "target_labels": named,
        "p_value": verdict["p_value"],
        "flagged": verdict["flagged"],
        "not_examined": verdict["not_examined"],
        **_flagging(judged.flagged, ~known.cover, known),
        "calibration_error": off if known.anything else None,
        "right_target": set(named) == set(known.targets.tolist()) if len(known.targets) else None,
    }


def _flagging(flagged: np.ndarray, asked: np.ndarray, known: Known) -> dict[str, float | None]:
    """How right flags bool [N] are about the samples asked for, bool [N]; all None where nobody knows."""
    figures = metrics.flagging(flagged[asked], known.poisoned[asked])
    return figures if known.anything else dict.fromkeys(figures)


def curves(name: str, scores: np.ndarray, known: Known) -> tuple[Curve, Curve]:
    """(name, FPR, TPR) and (name, recall, precision) of scores float [N], over the samples that were scored, without cover."""
    asked = ~np.isnan(scores) & ~known.cover
    values, positive = scores[asked], known.poisoned[asked]
    roc, precision_recall = metrics.roc_points(values, positive), metrics.precision_recall_points(values, positive)
    return [(name, *point) for point in roc], [(name, *point) for point in precision_recall]
