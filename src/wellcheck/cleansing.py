"""Take out of a training set what the verdict flagged, or give it the label that its content suggests. The truth is not known here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from wellcheck import samples
from wellcheck.artifacts import read_columns, write_csv
from wellcheck.errors import InputError
from wellcheck.samples import Labels

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet takes for the beginning of a formula
DECIMALS = 6  # of a probability that a person reads


@dataclass(frozen=True)
class Judged:
    """What the verdict says of every sample of a set of N, in the order of the set."""

    probability: np.ndarray  # float64 [N], of being poison
    flagged: np.ndarray  # bool [N]
    suspected_label: np.ndarray  # int64 [N], the class that the image shows


@dataclass(frozen=True)
class Plan:
    """What becomes of N samples."""

    kept: np.ndarray  # bool [N]
    labels: np.ndarray  # int64 [N], those after cleansing; of removed samples as received

    def figures(self, received: np.ndarray) -> tuple[int, int]:
        """How many are removed, and how many of the others have another label than the received one, int64 [N]."""
        return int((~self.kept).sum()), int((self.kept & (self.labels != received)).sum())


def read_judged(path: Path, known: Labels) -> Judged:
    """Read judged.parquet for a known set. Raises InputError naming the file if it lacks a column, or is of other samples or classes."""
    columns = read_columns(path)
    missing = {"sample_id", "probability", "flagged", "suspected_label"} - set(columns)
    if missing:
        raise InputError(f"{path}: found no column {', '.join(sorted(missing))}, expected what the stage verdict writes")
    match_ids(path, columns["sample_id"], known)
    suspected, classes = columns["suspected_label"], len(known.description.class_names)
    wrong = np.flatnonzero((suspected < 0) | (suspected >= classes))
    if len(wrong):
        raise InputError(f"{path}, row {wrong[0]}: suspected_label: found {suspected[wrong[0]]}, expected a class: 0 to {classes - 1}")
    return Judged(columns["probability"], columns["flagged"], suspected)


def match_ids(path: Path, sample_id: np.ndarray, known: Labels) -> None:
    """Raises InputError naming the file unless its sample_ids int64 [N] are those of the known set, in its order."""
    if len(sample_id) != len(known):
        raise InputError(f"{path}: found {len(sample_id):,} samples, but the training set has {len(known):,}")
    differing = np.flatnonzero(sample_id != known.sample_id)
    if len(differing):
        row = differing[0]
        raise InputError(f"{path}, row {row}: found sample_id {sample_id[row]}, but the training set has {known.sample_id[row]} there")


def plan(labels: np.ndarray, judged: Judged, action: Literal["remove", "relabel"]) -> Plan:
    """Remove the flagged samples, or give them their suspected label; labels int64 [N] are as received.

    A flagged sample whose image shows its own class has no better label: it is removed in any case (clean-label poison).
    """
    if action == "remove":
        return Plan(~judged.flagged, labels)
    moved = judged.flagged & (judged.suspected_label != labels)
    return Plan(~judged.flagged | moved, np.where(moved, judged.suspected_label, labels))


def check(path: Path, labels: np.ndarray, after: Plan, names: Sequence[str]) -> None:
    """Raises InputError naming judged.parquet if a class that was there, labels int64 [N], would be left without samples."""
    before, left = (np.bincount(some, minlength=len(names)) for some in (labels, after.labels[after.kept]))
    gone = np.flatnonzero((before > 0) & (left == 0))
    if not after.kept.any():
        raise InputError(f"{path}: of {len(labels):,} samples none would be left to train on: all are flagged")
    if len(gone):
        told = ", ".join(f"{names[label]} ({before[label]:,})" for label in gone.tolist())
        raise InputError(f"{path}: every sample is flagged of {told}: nothing of it would be left, so the set cannot be cleansed like this")


def rewrite(source: Path, target: Path, known: Labels, after: Plan) -> None:
    """Write the samples that are kept, with their labels afterwards, one row group at a time."""
    with samples.writing(target, known.description, known.image_shape) as writer:
        start = 0
        for batch in samples.batches(source):
            here = slice(start, start + len(batch))
            batch.labels[:] = after.labels[here]
            writer.append(batch.take(after.kept[here]))
            start += len(batch)


def read_files(path: Path) -> dict[int, str]:
    """Where the user's own images stand, by sample_id; nothing of other sets. Raises InputError naming the file."""
    columns = read_columns(path, ["sample_id", "file"])
    return dict(zip(columns["sample_id"].tolist(), columns["file"].tolist(), strict=True))


def write_flagged(flagged: Path, listed: Path, names: Sequence[str], files: Mapping[int, str]) -> None:
    """The flagged samples without their images, as a CSV for people who clean data by hand. Raises InputError naming the file."""
    table = read_columns(flagged, ["sample_id", "label", "suspected_label", "probability", "reasons"])
    rows = [
        (
            sample_id,
            as_text(files.get(sample_id, "")),
            as_text(names[label]),
            as_text(names[suspected]),
            round(probability, DECIMALS),
            as_text("; ".join(reasons)),
        )
        for sample_id, label, suspected, probability, reasons in zip(*(table[name].tolist() for name in table), strict=True)
    ]
    write_csv(listed, ["sample_id", "file", "label", "suspected_label", "probability", "reasons"], rows)


def as_text(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula: where it begins like one, an apostrophe stands before it."""
    return f"'{cell}" if cell.startswith(FORMULA) or cell.lstrip().startswith(FORMULA) else cell
