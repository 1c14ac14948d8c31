"""The table that flows from download to report: sample_id, image, label, and what describes them.

A Parquet file: `sample_id` int64, `image` Arrow fixed_shape_tensor<uint8>[C, H, W], `label` int64 (as received). Class names, source
and content hash stand in one JSON metadata entry. Files are written and read in row groups, so no set is ever in memory twice.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ValidationError

from wellcheck.artifacts import first_line, replacing
from wellcheck.errors import InputError

METADATA_KEY = b"wellcheck"
ROW_GROUP_BYTES = 32 * 2**20


@dataclass(frozen=True)
class Description:
    """What is true of a whole set of samples."""

    class_names: tuple[str, ...]
    source: str


@dataclass(frozen=True)
class Samples:
    """Some samples: sample_id int64 [N], images uint8 [N, C, H, W], labels int64 [N]."""

    sample_id: np.ndarray
    images: np.ndarray
    labels: np.ndarray
    description: Description

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray) -> "Samples":
        """The samples at these positions, or where a boolean mask is true."""
        return Samples(self.sample_id[rows], self.images[rows], self.labels[rows], self.description)

    def digest(self) -> str:
        """A hash of the images, the labels and their order: whatever training sees of them."""
        seen = hashlib.sha256(np.ascontiguousarray(self.images).data)
        seen.update(np.ascontiguousarray(self.labels).data)
        return seen.hexdigest()


@dataclass(frozen=True)
class Labels:
    """What can be known of a set of samples without reading its images."""

    sample_id: np.ndarray
    labels: np.ndarray
    description: Description
    image_shape: tuple[int, int, int]  # C, H, W
    content_hash: str

    def __len__(self) -> int:
        return len(self.labels)


class _Metadata(BaseModel):
    """The JSON entry in a file's metadata."""

    class_names: tuple[str, ...]
    source: str
    content_hash: str


class Writer:
    """Appends samples to one Parquet file, in row groups of at most 32 MiB whatever the size of the pieces."""

    def __init__(self, path: Path, description: Description, image_shape: tuple[int, int, int]) -> None:
        self._description = description
        self._shape = image_shape
        self._schema = pa.schema(
            [("sample_id", pa.int64()), ("image", pa.fixed_shape_tensor(pa.uint8(), image_shape)), ("label", pa.int64())]
        )
        self._file = pq.ParquetWriter(path, self._schema, compression="zstd", write_page_checksum=True)
        self._rows = max(1, ROW_GROUP_BYTES // int(np.prod(image_shape)))
        self._waiting: list[Samples] = []
        self._hashes = {name: hashlib.sha256() for name in ("sample_id", "image", "label")}

    def append(self, samples: Samples) -> None:
        """Add samples behind those already there. Raises ValueError on another image shape."""
        if samples.images.shape[1:] != self._shape:
            raise ValueError(f"images of shape {samples.images.shape[1:]} do not fit a file of {self._shape}")
        self._waiting.append(samples)
        while sum(map(len, self._waiting)) >= self._rows:
            together = _concatenate(self._waiting)
            self._write(together.take(np.arange(self._rows)))
            self._waiting = [together.take(np.arange(self._rows, len(together)))]

    def _write(self, samples: Samples) -> None:
        for name, values in (("sample_id", samples.sample_id), ("image", samples.images), ("label", samples.labels)):
            self._hashes[name].update(np.ascontiguousarray(values).data)
        columns = [pa.array(samples.sample_id), image_column(samples.images), pa.array(samples.labels)]
        self._file.write_table(pa.Table.from_arrays(columns, schema=self._schema), row_group_size=self._rows)

    def close(self) -> None:
        """Write what waits and the metadata."""
        if any(map(len, self._waiting)):
            self._write(_concatenate(self._waiting))
        about = json.dumps([self._description.class_names, self._shape])
        content_hash = hashlib.sha256("".join([about, *(h.hexdigest() for h in self._hashes.values())]).encode()).hexdigest()
        metadata = {"class_names": self._description.class_names, "source": self._description.source, "content_hash": content_hash}
        self._file.add_key_value_metadata({METADATA_KEY.decode(): json.dumps(metadata, sort_keys=True)})
        self._file.close()

    def abandon(self) -> None:
        """Close the file without finishing it."""
        self._file.close()


def in_turns(labels: np.ndarray, seed: int) -> np.ndarray:
    """All rows of labels int64 [N], at random but one of each class after another: any first so many have the classes evenly, int64 [N]."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    classes = rng.permutation(int(labels.max(initial=-1)) + 1)  # of many classes not the first ones alone
    turn = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        mine = labels[order] == label
        turn[mine] = np.arange(mine.sum())
    rows: np.ndarray = order[np.lexsort((classes[labels[order]], turn))]
    return rows


def image_column(images: np.ndarray) -> pa.ExtensionArray:
    """Images uint8 [N, C, H, W] as a column of a Parquet file."""
    shape = images.shape[1:]
    flat = pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(images).reshape(-1)), int(np.prod(shape)))
    return pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.uint8(), shape), flat)


@contextmanager
def writing(path: Path, description: Description, image_shape: tuple[int, int, int]) -> Iterator[Writer]:
    """A Writer whose file appears at `path` when the body succeeds, and not at all when it fails."""
    with replacing(path) as temporary:
        writer = Writer(temporary, description, image_shape)
        try:
            yield writer
        except BaseException:
            writer.abandon()
            raise
        writer.close()


def write(path: Path, samples: Samples) -> None:
    """Write samples that are in memory."""
    with writing(path, samples.description, _shape(samples.images)) as writer:
        writer.append(samples)


def read_labels(path: Path) -> Labels:
    """Read everything but the images. Raises InputError naming the file."""
    with _opened(path) as file:
        metadata = _metadata(path, file)
        table = file.read(columns=["sample_id", "label"])
        shape = file.schema_arrow.field("image").type.shape
        return Labels(
            table.column("sample_id").to_numpy().copy(),
            table.column("label").to_numpy().copy(),
            Description(metadata.class_names, metadata.source),
            (int(shape[0]), int(shape[1]), int(shape[2])),
            metadata.content_hash,
        )


def batches(path: Path) -> Iterator[Samples]:
    """Read a file one row group at a time. Raises InputError naming the file."""
    with _opened(path) as file:
        metadata = _metadata(path, file)
        description = Description(metadata.class_names, metadata.source)
        for group in range(file.num_row_groups):
            table = file.read_row_group(group).combine_chunks()
            images = table.column("image").chunk(0).to_numpy_ndarray()
            # Copies, for Arrow's own arrays are read-only: a reader may write into what it gets.
            yield Samples(table.column("sample_id").to_numpy().copy(), images.copy(), table.column("label").to_numpy().copy(), description)


def read(path: Path) -> Samples:
    """Read a whole file into one array of images. Raises InputError naming the file."""
    known = read_labels(path)
    images = np.empty((len(known), *known.image_shape), np.uint8)
    start = 0
    for batch in batches(path):
        images[start : start + len(batch)] = batch.images
        start += len(batch)
    return Samples(known.sample_id, images, known.labels, known.description)


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
    except FileNotFoundError:
        raise InputError(f"{path}: not found") from None
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: not a readable Parquet file ({first_line(error)})") from None
    with file:
        try:
            yield file
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{path}: damaged ({first_line(error)})") from None


def _metadata(path: Path, file: pq.ParquetFile) -> _Metadata:
    """What stands in the file's metadata. Raises InputError if it is not one of ours."""
    columns = {field.name: field.type for field in file.schema_arrow}
    image = columns.get("image")
    if columns.get("sample_id") != pa.int64() or columns.get("label") != pa.int64() or not isinstance(image, pa.FixedShapeTensorType):
        found = ", ".join(f"{name}: {kind}" for name, kind in columns.items())
        raise InputError(f"{path}: not a samples file: found columns {found}; for your own, set dataset.name: parquet")
    try:
        return _Metadata.model_validate_json((file.metadata.metadata or {}).get(METADATA_KEY, b""))
    except ValidationError:
        raise InputError(
            f"{path}: not a samples file: its metadata lack class names, source or hash under '{METADATA_KEY.decode()}'"
        ) from None


def _concatenate(pieces: list[Samples]) -> Samples:
    if len(pieces) == 1:
        return pieces[0]
    return Samples(
        np.concatenate([piece.sample_id for piece in pieces]),
        np.concatenate([piece.images for piece in pieces]),
        np.concatenate([piece.labels for piece in pieces]),
        pieces[0].description,
    )


def _shape(images: np.ndarray) -> tuple[int, int, int]:
    _, channels, height, width = images.shape
    return channels, height, width


def evenly(rows: np.ndarray, most: int) -> np.ndarray:
    """At most so many of the rows, from all parts of them."""
    return rows[:: -(-len(rows) // most)] if len(rows) else rows
