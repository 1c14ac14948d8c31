"""All that a report is made of, read from the artifacts of one run. Pictures are sampled here: no report needs a whole set in memory."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wellcheck import samples
from wellcheck.artifacts import Columns, read_columns, read_csv, read_json
from wellcheck.metrics import confusion_matrix
from wellcheck.report.pictures import shrink
from wellcheck.samples import Description, Labels

VARIANTS = ("clean", "poisoned")


@dataclass(frozen=True)
class Files:
    """Where the artifacts of one run are; each is an option of stages/report.py."""

    clean_train: Path
    poisoned_train: Path
    test: Path
    triggered: Path
    outcomes: Path
    clean_model: Path
    poisoned_model: Path
    clean_map: Path
    poisoned_map: Path
    scores: Path
    planted: Path
    classify: Path
    detection: Path
    predictions: Path
    roc: Path


@dataclass(frozen=True)
class Evidence:
    """The artifacts without their images; `images` fetches those that are shown."""

    files: Files
    train: dict[str, Labels]  # by variant
    test: Labels
    history: dict[str, list[dict[str, float | None]]]
    classify: dict[str, Any]
    detection: dict[str, Any]
    confusion: dict[str, np.ndarray]  # counts [K, K] by variant
    outcomes: Columns
    maps: dict[str, Columns]
    scores: Columns
    planted: np.ndarray  # sample_id of what was planted; empty if unknown
    roc: list[dict[str, str]]

    @property
    def description(self) -> Description:
        """Class names and source."""
        return self.test.description

    @property
    def attacked(self) -> bool:
        """Whether this run has a trigger of ours."""
        return len(self.outcomes["sample_id"]) > 0

    @property
    def models(self) -> dict[str, str]:
        """The variants that are worth showing, and what to call them: without a trigger both were trained on the same images."""
        return {"clean": "clean", "poisoned": "poisoned"} if self.attacked else {"poisoned": "as it came"}


def gather(files: Files) -> Evidence:
    """Read everything but images. Raises InputError naming the file."""
    test = samples.read_labels(files.test)
    models = {"clean": files.clean_model, "poisoned": files.poisoned_model}
    return Evidence(
        files=files,
        train={"clean": samples.read_labels(files.clean_train), "poisoned": samples.read_labels(files.poisoned_train)},
        test=test,
        history={variant: _history(folder / "history.csv") for variant, folder in models.items()},
        classify=read_json(files.classify),
        detection=read_json(files.detection),
        confusion=_confusions(read_columns(files.predictions), len(test.description.class_names)),
        outcomes=read_columns(files.outcomes),
        maps={"clean": read_columns(files.clean_map), "poisoned": read_columns(files.poisoned_map)},
        scores=read_columns(files.scores),
        planted=read_columns(files.planted)["sample_id"],
        roc=read_csv(files.roc),
    )


def images(path: Path, sample_id: np.ndarray, *, side: int) -> np.ndarray:
    """The images uint8 [n, C, h, w] of these samples, in the order asked for, made smaller to at most `side` pixels.

    The file is read one row group at a time, and only small images are kept: their number and size decide the memory, not the set's.
    """
    wanted = np.unique(sample_id)
    found: list[np.ndarray] = []
    ids: list[np.ndarray] = []
    for batch in samples.batches(path):
        here = np.isin(batch.sample_id, wanted)
        found.append(shrink(batch.images[here], side))
        ids.append(batch.sample_id[here])
    pictures, known = np.concatenate(found), np.concatenate(ids)
    order = np.argsort(known)
    result: np.ndarray = pictures[order[np.searchsorted(known, sample_id, sorter=order)]]
    return result


def _history(path: Path) -> list[dict[str, float | None]]:
    return [{key: float(value) if value else None for key, value in row.items()} for row in read_csv(path)]


def _confusions(predictions: Columns, classes: int) -> dict[str, np.ndarray]:
    rows = {variant: predictions["variant"] == variant for variant in VARIANTS}
    return {
        variant: confusion_matrix(predictions["label"][mask], predictions["predicted"][mask], classes) for variant, mask in rows.items()
    }
