"""Tiny ImageNet from its home page: 200 classes of 500 training images, 3x64x64; its labelled validation part serves as the test split."""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from wellcheck.datasets.archives import list_zip, read_zip
from wellcheck.datasets.decoding import Encoded, Named, source_of_encoded
from wellcheck.datasets.fetching import Archive, fetch
from wellcheck.datasets.source import Source, class_name
from wellcheck.errors import InputError
from wellcheck.params import Dataset

ARCHIVE = Archive(
    url="http://cs231n.stanford.edu/tiny-imagenet-200.zip",
    size=248_100_043,
    algorithm="md5",
    checksum="90528d7ca1a48142e341f4ef8d21d0de",
)
ROOT = "tiny-imagenet-200"
TRAINING_IMAGES = re.compile(ROOT + r"/train/(?P<wnid>n\d{8})/images/[^/]+\.JPEG")


def open_tiny_imagenet(dataset: Dataset) -> Source:
    """All 200 classes: 100,000 and 10,000 images."""
    return open_every(1, dataset)


def open_tiny_imagenet50(dataset: Dataset) -> Source:
    """Every fourth class in the order of their WordNet identifiers: 25,000 and 2,500 images."""
    return open_every(4, dataset)


def open_every(step: int, dataset: Dataset) -> Source:
    """Every `step`-th class, named "<WordNet identifier> <first synonym>". Raises InputError naming the archive and the member."""
    path = fetch(dataset.name, ARCHIVE)
    matches = list_zip(path, TRAINING_IMAGES)
    wnids = sorted({match["wnid"] for match in matches})[::step]
    label_of = {wnid: label for label, wnid in enumerate(wnids)}
    train = {match[0]: label_of[match["wnid"]] for match in matches if match["wnid"] in label_of}
    words = dict(_read_table(path, "words.txt"))
    test = {
        f"{ROOT}/val/images/{image}": label_of[wnid.split("\t")[0]]
        for image, wnid in _read_table(path, "val/val_annotations.txt")
        if wnid.split("\t")[0] in label_of
    }
    return source_of_encoded(
        tuple(class_name(f"{wnid} {words.get(wnid, '').split(',')[0]}".strip()) for wnid in wnids),
        "cs231n.stanford.edu",
        train=_encoded(path, train),
        test=_encoded(path, test),
        dataset=dataset,
    )


def _encoded(path: Path, label_of: dict[str, int]) -> Encoded:
    return Encoded(np.fromiter(label_of.values(), np.int64), partial(_read, path, list(label_of)))


def _read(path: Path, names: list[str]) -> Iterator[Named]:
    for name, content in read_zip(path, names):
        yield f"{path}: {name}", content


def _read_table(path: Path, name: str) -> list[tuple[str, str]]:
    """The first column of a tab-separated member, and the rest of the line."""
    ((_, content),) = read_zip(path, [f"{ROOT}/{name}"])
    rows = []
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), start=1):
        first, tab, rest = line.partition("\t")
        if not tab:
            raise InputError(f"{path}: {name}: line {number} has one column, expected at least two")
        rows.append((first, rest))
    return rows
