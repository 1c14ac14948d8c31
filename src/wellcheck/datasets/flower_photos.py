"""TensorFlow's flower photos from their home page: 3,670 photographs of five flowers, in many sizes; there is no test split."""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from wellcheck.datasets.archives import read_tar
from wellcheck.datasets.decoding import Encoded, Named, source_of_encoded
from wellcheck.datasets.fetching import Archive, fetch
from wellcheck.datasets.source import Source, class_name
from wellcheck.params import Dataset

ARCHIVE = Archive(
    url="https://storage.googleapis.com/download.tensorflow.org/example_images/flower_photos.tgz",
    size=228_813_984,
    algorithm="sha256",
    checksum="4c54ace7911aaffe13a365c34f650e71dd5bf1be0a58b464e5a7183e3e595d9c",
)
PHOTOS = re.compile(r"(?:\./)?flower_photos/(?P<flower>[^/.][^/]*)/[^/.][^/]*\.jpg")


def open_flower_photos(dataset: Dataset) -> Source:
    """All photographs in the order of the archive; a class is a folder in it."""
    path = fetch("flower_photos", ARCHIVE)
    flowers = [match["flower"] for match, _ in read_tar(path, PHOTOS)]
    names = sorted(set(flowers))
    labels = np.array([names.index(flower) for flower in flowers], np.int64)
    train = Encoded(labels, partial(_read, path))
    return source_of_encoded(tuple(map(class_name, names)), "storage.googleapis.com", train=train, test=None, dataset=dataset)


def _read(path: Path) -> Iterator[Named]:
    for match, content in read_tar(path, PHOTOS):
        yield f"{path}: {match[0]}", content
