"""What the stage `verdict` leaves, made up: for tests of those that read it."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wellcheck.artifacts import write_columns, write_json
from wellcheck.samples import Labels


def write_judged(path: Path, known: Labels, **changes: np.ndarray) -> Path:
    """judged.parquet in which nobody is flagged and everything shows its label, but for the columns that are given."""
    columns = {"sample_id": known.sample_id, "probability": np.zeros(len(known)), "flagged": np.zeros(len(known), bool)}
    write_columns(path, columns | {"suspected_label": known.labels} | changes)
    return path


def write_flagged(path: Path, rows: list[tuple[int, int, int, float, list[str]]]) -> None:
    """flagged.parquet: sample_id, label, suspected_label, probability and reasons, with images of one pixel."""
    ids, labels, suspected, probability, reasons = zip(*rows, strict=True) if rows else ([], [], [], [], [])
    kind = pa.fixed_shape_tensor(pa.uint8(), (1, 1, 1))
    flat = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(len(rows), np.uint8)), 1)
    columns = {
        "sample_id": pa.array(ids, pa.int64()),
        "image": pa.ExtensionArray.from_storage(kind, flat),
        "label": pa.array(labels, pa.int64()),
        "suspected_label": pa.array(suspected, pa.int64()),
        "probability": pa.array(probability, pa.float64()),
        "reasons": pa.array(reasons, pa.list_(pa.string())),
    }
    pq.write_table(pa.table(columns), path)


def verdict_of(evidence: dict[int, float], named: list[int], *, flagged: int, p_value: float = 0.001) -> dict[str, object]:
    """verdict.json with this evidence on every label, in which some are named."""
    labels = [
        {"label": label, "evidence": value, "z": value / 0.05, "p_value": p_value, "convicted": label in named}
        for label, value in evidence.items()
    ]
    return {"poisoned": bool(named), "target_labels": named, "p_value": p_value, "flagged": flagged, "not_examined": 0, "labels": labels}


def write_verdict(path: Path, evidence: dict[int, float], named: list[int], *, flagged: int) -> None:
    """Write verdict.json."""
    write_json(path, verdict_of(evidence, named, flagged=flagged))
