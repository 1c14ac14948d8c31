"""Parquet in the Hugging Face image layout: `image` struct{bytes, path}, `label` integer; the user's own, or a mirror's.

Class names: the `huggingface` entry of the schema's metadata (info.features.label.names), else its `class_names` entry (a JSON list),
else the numbers 0, 1, 2, …
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wellcheck.artifacts import first_line
from wellcheck.datasets.decoding import Encoded, Named, source_of_encoded
from wellcheck.datasets.folder import check_link
from wellcheck.datasets.source import Source, class_name, printable
from wellcheck.errors import InputError
from wellcheck.params import Dataset

TEST_NAMES = ("test", "validation", "val", "valid")  # the first that is there
SHARD = re.compile(r".+-(?P<number>\d{5})-of-(?P<count>\d{5})(-[0-9a-f]+)?\.parquet")
EXPECTED_IMAGE = "struct<bytes: binary, path: string>"
ROWS_AT_ONCE = 64


def open_parquet(dataset: Dataset) -> Source:
    """Open `dataset.path`: a .parquet file, or a folder with train and perhaps test files. Raises InputError naming file and row."""
    path = Path(dataset.path)
    if path.is_file():
        return open_files([path], [], dataset.path, dataset)
    if not path.is_dir():
        raise InputError(f"dataset.path: {path} is neither a .parquet file nor a folder with train.parquet")
    folder = path if find_files(path, "train") or not (path / "data").is_dir() else path / "data"
    train = find_files(folder, "train")
    if not train:
        raise InputError(f"dataset.path: {path} has neither train.parquet nor train-00000-of-….parquet")
    test = next((files for name in TEST_NAMES if (files := find_files(folder, name))), [])
    for file in (*train, *test):
        if file.is_symlink():
            check_link(file, path)
    return open_files(train, test, dataset.path, dataset)


def find_files(folder: Path, split: str) -> list[Path]:
    """The files of a split: `<split>.parquet`, or all of `<split>-00000-of-00002.parquet`. Raises InputError if one is missing."""
    single = folder / f"{split}.parquet"
    if single.exists():
        return [single]
    files = sorted(folder.glob(f"{split}-*.parquet"))
    shards = [match for file in files if (match := SHARD.fullmatch(file.name))]
    if shards and [int(shard["number"]) for shard in shards] != list(range(int(shards[0]["count"]))):
        found = ", ".join(shard[0] for shard in shards)
        raise InputError(f"{folder}: found {found}, expected {int(shards[0]['count'])} files, each once")
    return files


def open_files(train: list[Path], test: list[Path], origin: str, dataset: Dataset) -> Source:
    """A source of these files. Raises InputError naming the file, the row and what was expected."""
    named = {path: read_class_names(path) for path in (*train, *test)}
    first, names = next(((path, names) for path, names in named.items() if names), (train[0], None))
    for path, others in named.items():
        if others and others != names:
            raise InputError(f"{path}: other class names than in {first}: {_difference(names or [], others)}")
    train_labels = _read_labels(train, len(names) if names else None)
    if names is None:
        names = number_classes(train[0], train_labels)
    return source_of_encoded(
        tuple(map(class_name, names)),
        origin,
        train=Encoded(train_labels, partial(_read_images, train), partial(_names, train)),
        test=Encoded(_read_labels(test, len(names)), partial(_read_images, test), partial(_names, test)) if test else None,
        dataset=dataset,
    )


def read_class_names(path: Path) -> list[str] | None:
    """Class names from the schema's metadata, or None. Raises InputError naming the file if columns are wrong or names no text."""
    with _opened(path) as file:
        schema = file.schema_arrow
    _check_columns(path, schema)
    metadata = schema.metadata or {}
    for key, keys in ((b"huggingface", ("info", "features", "label", "names")), (b"class_names", ())):
        if key not in metadata:
            continue
        try:
            value = json.loads(metadata[key])
        except ValueError:
            raise InputError(f"{path}: metadata '{key.decode()}' is not JSON") from None
        for inner in keys:
            value = value.get(inner) if isinstance(value, dict) else None
        if value is None:
            continue
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise InputError(f"{path}: metadata '{key.decode()}' has no list of class names, each a text")
        return value
    return None


def number_classes(path: Path, labels: np.ndarray) -> list[str]:
    """The numbers 0..max as class names. Raises InputError if the labels leave one out."""
    known = np.unique(labels)
    gaps = np.flatnonzero(known != np.arange(len(known)))
    if len(gaps):
        raise InputError(
            f"{path}: no training image has label {gaps[0]}, though labels go up to {known[-1]};"
            " without class names in the metadata, labels must be 0, 1, 2, … without a gap"
        )
    return [str(label) for label in known]


def _check_columns(path: Path, schema: Any) -> None:
    for column in ("image", "label"):
        if schema.get_field_index(column) < 0:
            found = ", ".join(printable(name, longest=40) for name in schema.names[:20])
            raise InputError(
                f"{path}: no column '{column}'; found {found or 'none'}, expected 'image' ({EXPECTED_IMAGE}) and 'label' (int64)"
            )
    image, label = schema.field("image").type, schema.field("label").type
    is_image = pa.types.is_struct(image) and image.get_field_index("bytes") >= 0
    if not is_image or not (pa.types.is_binary(image.field("bytes").type) or pa.types.is_large_binary(image.field("bytes").type)):
        raise InputError(f"{path}: column 'image' is {printable(str(image), longest=80)}, expected {EXPECTED_IMAGE}")
    if not pa.types.is_integer(label):
        raise InputError(f"{path}: column 'label' is {printable(str(label), longest=80)}, expected int64")


def _read_labels(paths: list[Path], classes: int | None) -> np.ndarray:
    """Labels int64 [N] of all files. Raises InputError naming the file and row of a label that is null, negative or too large."""
    parts = []
    highest = np.iinfo(np.int64).max if classes is None else classes - 1
    expected = "at least 0" if classes is None else f"0 to {highest}"
    for path in paths:
        with _opened(path) as file:
            column = file.read(columns=["label"]).column("label")
        if column.null_count:
            row = int(np.flatnonzero(column.is_null().to_numpy())[0])
            raise InputError(f"{path}: row {row}: label is null, expected {expected}")
        values = column.to_numpy()
        wrong = np.flatnonzero((values < 0) | (values > highest))
        if len(wrong):
            raise InputError(f"{path}: row {wrong[0]}: label is {values[wrong[0]]}, expected {expected}")
        parts.append(values.astype(np.int64))
    return np.concatenate(parts)


def _names(paths: list[Path]) -> Iterator[str]:
    for path in paths:
        with _opened(path) as file:
            yield from (f"{printable(path.name)}: row {row}" for row in range(file.metadata.num_rows))


def _read_images(paths: list[Path]) -> Iterator[Named]:
    for path in paths:
        row = 0
        with _opened(path) as file:
            for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=["image"]):
                for image in batch.column(0).to_pylist():
                    name = (image or {}).get("path")
                    where = f"{path}: row {row}" + (f" ({printable(name)})" if isinstance(name, str) else "")
                    if image is None or image["bytes"] is None:
                        raise InputError(f"{where}: no image bytes; the images must be in the file itself")
                    yield where, image["bytes"]
                    row += 1


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except FileNotFoundError:
        raise InputError(f"{path}: not found") from None
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: not a readable Parquet file: {first_line(error)}") from None


def _difference(names: list[str], others: list[str]) -> str:
    if len(names) != len(others):
        return f"found {len(others)}, expected {len(names)}"
    label = next(label for label, (name, other) in enumerate(zip(names, others, strict=True)) if name != other)
    return f"label {label} is '{class_name(others[label])}', expected '{class_name(names[label])}'"
