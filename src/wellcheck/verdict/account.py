"""A verdict as files: JSON for machines and the report, a table of all samples, the flagged images with reasons."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wellcheck.artifacts import replacing, write_columns
from wellcheck.samples import Samples, image_column
from wellcheck.verdict import Verdict
from wellcheck.verdict.charges import CONVICTS, Finding, evidence_of

LISTED = 3  # groups a label in the JSON


def as_json(verdict: Verdict) -> dict[str, Any]:
    """What the report and `assess` need, without arrays."""
    flagged = verdict.flagged
    return {
        "poisoned": bool(verdict.convicted),
        "target_labels": verdict.convicted,
        "p_value": verdict.p_value,
        "flagged": int(flagged.sum()),
        "threshold": CONVICTS,
        "not_examined": verdict.not_examined,
        "labels": [
            {
                "label": one.label,
                "samples": one.samples,
                "groups": one.groups,
                "evidence": one.evidence,
                "z": one.z,
                "p_value": one.p_value,
                "convicted": one.convicted,
                "bent": one.label in verdict.examination.bent,
                "note": one.note,
                "findings": [_finding(finding) for finding in _worst(verdict, one.label)],
            }
            for one in verdict.labels
        ],
    }


def _worst(verdict: Verdict, label: int) -> list[Finding]:
    mine = [finding for finding in verdict.examination.findings if finding.accused.label == label]
    return sorted(mine, key=lambda one: (-evidence_of(one), -one.foreign))[:LISTED]


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "source": finding.accused.source,
        "suspects": len(finding.accused.suspects),
        "own_content": finding.own_content,
        "apart": finding.apart,
        "foreign": finding.foreign,
        "p_foreign": finding.p_foreign,
        "bare": finding.bare,
        "held_out": finding.held_out,
        "generalises": finding.generalises,
        "p_generalises": finding.p_generalises,
        "turned": finding.transfer.turned,
        "stamped": finding.transfer.stamped,
        "legible": finding.transfer.legible,
        "p_turned": finding.p_turned,
        "way": finding.transfer.way,
        "everywhere": finding.transfer.everywhere,
        "p_everywhere": finding.p_everywhere,
        "searched": finding.searched,
        "marked": finding.marked,
        "p_marked": finding.p_marked,
    }


def write_judged(path: Path, train: Samples, verdict: Verdict) -> None:
    """Every sample: sample_id, probability of being poison, flagged, suspected_label (what the image shows)."""
    columns = {"sample_id": train.sample_id, "probability": verdict.probability, "flagged": verdict.flagged}
    write_columns(path, columns | {"suspected_label": verdict.shown})


def write_flagged(path: Path, train: Samples, verdict: Verdict) -> None:
    """The flagged samples, the surest first: sample_id, image, label, suspected_label, probability, reasons (a list of sentences)."""
    rows = np.flatnonzero(verdict.flagged)
    rows = rows[np.argsort(-verdict.probability[rows], kind="stable")]
    table = pa.table(
        {
            "sample_id": pa.array(train.sample_id[rows]),
            "image": image_column(train.images[rows]),
            "label": pa.array(train.labels[rows]),
            "suspected_label": pa.array(verdict.shown[rows]),
            "probability": pa.array(verdict.probability[rows]),
            "reasons": pa.array([_reasons(verdict, train, row) for row in rows.tolist()], pa.list_(pa.string())),
        }
    )
    with replacing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def _reasons(verdict: Verdict, train: Samples, row: int) -> list[str]:
    """Why one sample is flagged, each reason a clause that a person can check."""
    names, label = train.description.class_names, int(train.labels[row])
    mine = [one.accused for one in verdict.examination.findings if one.accused.label == label]
    sources = ", ".join(dict.fromkeys(one.source for one in mine if row in one.suspects))
    reasons = [f"lies apart from the rest of {names[label]} ({sources})" if sources else "resembles those that lie apart"]
    shown = int(verdict.shown[row])
    if shown != label and verdict.unseen[row]:
        reasons.append(f"a model that never saw it reads {names[shown]}")
    votes = verdict.votes[row]
    if votes.any() and votes[label] < votes.max():
        reasons.append(f"{votes.max()} of its {votes.sum()} nearest images are {names[int(votes.argmax())]}")
    return reasons
