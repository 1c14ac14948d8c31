"""CIFAR-10 from its home page, in the binary version: torchvision's loader unpickles, and this project never loads a pickle.

A record is one label byte and 3,072 pixel bytes: the red, green and blue plane, each row by row (https://www.cs.toronto.edu/~kriz/cifar.html).
"""

import re
from pathlib import Path

import numpy as np

from wellcheck.datasets.archives import read_tar
from wellcheck.datasets.decoding import source_of_arrays
from wellcheck.datasets.fetching import Archive, fetch
from wellcheck.datasets.source import Source, class_name
from wellcheck.errors import InputError
from wellcheck.params import Dataset

ARCHIVE = Archive(
    url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    size=170_052_171,
    algorithm="sha256",
    checksum="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9dddda3db29a59bca1dd",
)
MEMBERS = re.compile(r"cifar-10-batches-bin/(?P<name>(data_batch_[1-5]|test_batch)\.bin|batches\.meta\.txt)")
SHAPE = (3, 32, 32)
TRAINING_FILES = [f"data_batch_{number}.bin" for number in range(1, 6)]


def open_cifar10(dataset: Dataset) -> Source:
    """Ten kinds of animals and vehicles: 50,000 and 10,000 images of 3x32x32, in the original order."""
    path = fetch("cifar10", ARCHIVE)
    files = {match["name"]: content for match, content in read_tar(path, MEMBERS)}
    for name in (*TRAINING_FILES, "test_batch.bin", "batches.meta.txt"):
        if name not in files:
            raise InputError(f"{path}: '{name}' is missing")
    names = tuple(class_name(line) for line in files["batches.meta.txt"].decode("utf-8", "replace").split())
    train = parse_records(path, b"".join(files[name] for name in TRAINING_FILES))
    test = parse_records(path, files["test_batch.bin"])
    return source_of_arrays(names, "www.cs.toronto.edu", train=train, test=test, dataset=dataset)


def parse_records(path: Path, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, 3, 32, 32] and labels int64 [N]. Raises InputError if the bytes are not whole records."""
    record = 1 + int(np.prod(SHAPE))
    if len(content) % record:
        raise InputError(f"{path}: found {len(content):,} bytes of records, expected a multiple of {record:,}")
    records = np.frombuffer(content, np.uint8).reshape(-1, record)
    return records[:, 1:].reshape(-1, *SHAPE), records[:, 0].astype(np.int64)
