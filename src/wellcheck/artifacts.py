"""Files that are whole or absent: every artifact is written under a temporary name and renamed when it is complete."""

import csv
import glob
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError
from safetensors.numpy import load_file
from safetensors.numpy import save as serialize

from wellcheck.errors import InputError

Columns = dict[str, np.ndarray]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; a file or folder written there takes the place of `path` if the body succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, aside = (path.with_name(f".{path.name}.{os.getpid()}.{end}") for end in ("part", "old"))
    for stale in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        if not _is_alive(int(stale.suffixes[-2][1:])):  # its writer was killed
            remove(stale)
    try:
        yield temporary
        if path.is_dir():
            # A folder cannot be renamed over another: the old one steps aside first, and is there until the new one is.
            path.rename(aside)
        temporary.replace(path)
    finally:
        if aside.exists() and not path.exists():
            aside.rename(path)
        remove(temporary)
        remove(aside)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def remove(path: Path) -> None:
    """Delete a file or a folder; absent is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON with sorted keys, so that the same value gives the same bytes. Raises ValueError on NaN or infinity."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON. Raises InputError naming the file if it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: not found") from None
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error})") from None


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write a small CSV for `dvc plots`."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def read_csv(path: Path) -> list[dict[str, str]]:
    """Read a CSV with a header row. Raises InputError naming the file if it is missing."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        raise InputError(f"{path}: not found") from None


def write_columns(path: Path, columns: Mapping[str, np.ndarray]) -> None:
    """Write equally long arrays as a Parquet table."""
    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    with replacing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read_columns(path: Path, names: Sequence[str] | None = None) -> Columns:
    """Read a Parquet table (or the named columns of it) as NumPy arrays. Raises InputError naming the file."""
    try:
        table = pq.read_table(path, columns=None if names is None else list(names))
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: not a readable Parquet table ({first_line(error)})") from None
    # Copies, for Arrow's own arrays are read-only: a reader may write into what it gets.
    return {name: np.array(table.column(name).to_numpy()) for name in table.column_names}


def read_tensors(path: Path) -> Columns:
    """Read safetensors as NumPy arrays. Raises InputError naming the file."""
    try:
        tensors: Columns = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: not readable ({first_line(error)})") from None
    return tensors


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write arrays as safetensors: to read them no code is run."""
    with replacing(path) as temporary:
        temporary.write_bytes(serialize({name: np.asarray(values, order="C") for name, values in tensors.items()}))


def first_line(error: BaseException) -> str:
    """The first line of an exception's text: libraries append pages of context."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def digest(path: Path) -> str | None:
    """A hash of a file's bytes, or of all files' in a folder; None if it is not there."""
    if path.is_dir():
        return hashlib.blake2b("".join(f"{one.name}{digest(one)}" for one in sorted(path.iterdir())).encode()).hexdigest()
    if not path.exists():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


def cache_folder() -> Path:
    """Where downloads and checkpoints live, outside every project: `WELLCHECK_CACHE`, or the user's cache folder."""
    folder = Path(os.environ.get("WELLCHECK_CACHE") or platformdirs.user_cache_path("wellcheck"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder
