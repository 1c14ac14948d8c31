"""The embeddings file: layer → float16 [N, D] in the row order of its samples file, memory-mapped, shared by all detectors."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from wellcheck.artifacts import first_line, replacing
from wellcheck.errors import InputError


@contextmanager
def creating(path: Path, shapes: Mapping[str, tuple[int, int]]) -> Iterator[dict[str, np.ndarray]]:
    """Memory-mapped float16 arrays of a new safetensors file, so that it can be filled piece by piece whatever its size."""
    header: dict[str, object] = {}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)  # the format wants the data aligned
    data_start = 8 + len(encoded)
    with replacing(path) as temporary:
        with temporary.open("wb") as file:
            file.write(len(encoded).to_bytes(8, "little") + encoded)
            # Space is taken now: a disk that fills up under a memory map kills the process without a word.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, data_start + end)
            else:  # macOS
                file.truncate(data_start + end)
        mapped = np.memmap(temporary, np.float16, "r+", data_start, (end // 2,)) if end else np.empty(0, np.float16)
        bounds = np.cumsum([0, *(int(np.prod(shape)) for shape in shapes.values())])
        yield {name: mapped[bounds[i] : bounds[i + 1]].reshape(shape) for i, (name, shape) in enumerate(shapes.items())}
        if isinstance(mapped, np.memmap):
            mapped.flush()


def read(path: Path, layer: str) -> np.ndarray:
    """One layer, float16 [N, D], memory-mapped and read-only: a layer may be larger than memory.

    Raises InputError naming the file, and the layers it has if this is none of them.
    """
    with _opened(path) as file:
        if layer not in file.keys():  # noqa: SIM118 (not a dict)
            raise InputError(f"{path}: no layer '{layer}'; it has {', '.join(file.keys())}: see embed.layers")
        kind, shape = file.get_slice(layer).get_dtype(), tuple(file.get_slice(layer).get_shape())
    if kind != "F16" or len(shape) != 2:
        raise InputError(f"{path}: layer '{layer}' is {kind} {list(shape)}, expected F16 [N, D]")
    if 0 in shape:
        return np.empty(shape, np.float16)
    with path.open("rb") as raw:
        size = int.from_bytes(raw.read(8), "little")
        start: int = json.loads(raw.read(size))[layer]["data_offsets"][0]
    return np.asarray(np.memmap(path, np.float16, "r", 8 + size + start, shape))


def layers(path: Path) -> list[str]:
    """The layers of an embeddings file. Raises InputError naming the file."""
    with _opened(path) as file:
        return sorted(file.keys())


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="np") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: not a readable embeddings file ({first_line(error)})") from None
