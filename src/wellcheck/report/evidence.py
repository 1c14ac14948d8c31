"""All that a report is made of, read from the artifacts of one run. Pictures are sampled here: no report needs a whole set in memory."""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wellcheck import patterns, samples
from wellcheck.artifacts import Columns, first_line, read_columns, read_csv, read_json
from wellcheck.errors import InputError
from wellcheck.metrics import confusion_matrix
from wellcheck.patterns import Pattern
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
    precision_recall: Path
    verdict: Path
    clean_verdict: Path
    judged: Path
    flagged: Path
    patterns: Path
    cleansed_train: Path
    perfect_filter_train: Path
    random_filter_train: Path
    label_errors: Path
    judged_labels: Path
    explanations: Path
    explained: Path
    explained_maps: Path
    film: Path
    evasion: Path
    evasion_outcomes: Path
    evasion_images: Path
    disparity: Path
    watched: Path
    watched_images: Path
    watched_maps: Path
    suspicious: Path


@dataclass(frozen=True)
class Flagged:
    """The first rows of the flagged samples, the surest first."""

    sample_id: np.ndarray  # int64 [n]
    images: np.ndarray  # uint8 [n, C, H, W]
    label: np.ndarray  # int64 [n], as received
    suspected_label: np.ndarray  # int64 [n], what the image shows
    probability: np.ndarray  # float64 [n]
    reasons: list[list[str]]


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
    planted: np.ndarray  # sample_id of what was poisoned; empty if unknown
    cover: np.ndarray  # sample_id of what carries the trigger and keeps its label
    roc: list[dict[str, str]]
    precision_recall: list[dict[str, str]]
    verdict: dict[str, Any]
    clean_verdict: dict[str, Any]  # of the set before anything was planted
    judged: Columns
    patterns: dict[int, Pattern]  # by convicted label
    trained_on: dict[str, int]  # training samples by variant

    @property
    def description(self) -> Description:
        """Class names and source."""
        return self.test.description

    @property
    def attacked(self) -> bool:
        """Whether this run has a trigger of ours."""
        return len(self.outcomes["sample_id"]) > 0

    @property
    def known(self) -> bool:
        """Whether this run planted anything, so that there is a truth to speak of: a trigger, or wrong labels alone."""
        return self.attacked or len(self.planted) > 0

    @property
    def models(self) -> dict[str, str]:
        """The variants that are worth showing, and what to call them: where nothing is planted both were trained on the same images."""
        return {"clean": "clean", "poisoned": "poisoned"} if self.known else {"poisoned": "as it came"}


def gather(files: Files) -> Evidence:
    """Read everything but images. Raises InputError naming the file."""
    test = samples.read_labels(files.test)
    models = {"clean": files.clean_model, "poisoned": files.poisoned_model}
    planted = read_columns(files.planted)
    train = {"clean": samples.read_labels(files.clean_train), "poisoned": samples.read_labels(files.poisoned_train)}
    filtered = {
        "cleansed": files.cleansed_train,
        "perfect_filter": files.perfect_filter_train,
        "random_filter": files.random_filter_train,
    }
    return Evidence(
        files=files,
        train=train,
        test=test,
        history={variant: _history(folder / "history.csv") for variant, folder in models.items()},
        classify=read_json(files.classify),
        detection=read_json(files.detection),
        confusion=_confusions(read_columns(files.predictions), len(test.description.class_names)),
        outcomes=read_columns(files.outcomes),
        maps={"clean": read_columns(files.clean_map), "poisoned": read_columns(files.poisoned_map)},
        scores=read_columns(files.scores),
        planted=planted["sample_id"][~planted["cover"]],
        cover=planted["sample_id"][planted["cover"]],
        roc=read_csv(files.roc),
        precision_recall=read_csv(files.precision_recall),
        verdict=read_json(files.verdict),
        clean_verdict=read_json(files.clean_verdict),
        judged=read_columns(files.judged),
        patterns=patterns.read(files.patterns),
        trained_on={name: len(known) for name, known in train.items()}
        | {name: len(samples.read_labels(path)) for name, path in filtered.items()},
    )


def images(path: Path, sample_id: np.ndarray, *, side: int | None) -> np.ndarray:
    """The images uint8 [n, C, h, w] of these samples, in the order asked for, made smaller to at most `side` pixels if that is given.

    The file is read one row group at a time, and only small images are kept: their number and size decide the memory, not the set's.
    """
    wanted = np.unique(sample_id)
    found: list[np.ndarray] = []
    ids: list[np.ndarray] = []
    for batch in samples.batches(path):
        here = np.isin(batch.sample_id, wanted)
        found.append(batch.images[here] if side is None else shrink(batch.images[here], side))
        ids.append(batch.sample_id[here])
    pictures, known = np.concatenate(found), np.concatenate(ids)
    order = np.argsort(known)
    result: np.ndarray = pictures[order[np.searchsorted(known, sample_id, sorter=order)]]
    return result


def flagged(path: Path, most: int) -> Flagged:
    """The first `most` flagged samples: the file may hold any number of them, and is read no further. Raises InputError naming it."""
    try:
        with pq.ParquetFile(path) as file:
            tables = [pa.Table.from_batches([batch]) for batch in itertools.islice(file.iter_batches(batch_size=most), 1)]
            table = (tables[0] if tables else file.schema_arrow.empty_table()).combine_chunks()
            pictures = table.column("image").combine_chunks().to_numpy_ndarray()
            columns = {name: np.array(table.column(name)) for name in ("sample_id", "label", "suspected_label", "probability")}
            return Flagged(images=pictures, reasons=table.column("reasons").to_pylist(), **columns)
    except (OSError, KeyError, pa.ArrowException) as error:
        raise InputError(f"{path}: not a readable table of flagged samples ({first_line(error)})") from None


def _history(path: Path) -> list[dict[str, float | None]]:
    return [{key: float(value) if value else None for key, value in row.items()} for row in read_csv(path)]


def _confusions(predictions: Columns, classes: int) -> dict[str, np.ndarray]:
    rows = {variant: predictions["variant"] == variant for variant in VARIANTS}
    return {
        variant: confusion_matrix(predictions["label"][mask], predictions["predicted"][mask], classes) for variant, mask in rows.items()
    }
