"""MNIST and Fashion-MNIST, downloaded and checked by torchvision."""

import errno
import http.client
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np

from wellcheck.artifacts import cache_folder
from wellcheck.datasets import mirror
from wellcheck.datasets.decoding import source_of_arrays
from wellcheck.datasets.fetching import TIMEOUT_SECONDS
from wellcheck.datasets.source import Source
from wellcheck.errors import InputError
from wellcheck.params import Dataset

DIGITS = tuple("0123456789")
CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")

Arrays = tuple[np.ndarray, np.ndarray]


def open_mnist(dataset: Dataset) -> Source:
    """Handwritten digits: 60,000 and 10,000 images of 1x28x28."""
    train, test = load_splits("MNIST", dataset.name)
    return source_of_arrays(DIGITS, "torchvision", train=train, test=test, dataset=dataset)


def open_fashion_mnist(dataset: Dataset) -> Source:
    """Articles of clothing: 60,000 and 10,000 images of 1x28x28."""
    train, test = load_splits("FashionMNIST", dataset.name)
    return source_of_arrays(CLOTHES, "torchvision", train=train, test=test, dataset=dataset)


def load_splits(kind: Literal["MNIST", "FashionMNIST"], name: str) -> tuple[Arrays, Arrays]:
    """Images uint8 [N, 1, 28, 28] and labels int64 [N] of both splits. Raises InputError if torchvision cannot download them.

    torchvision trusts what it once unpacked, and would load an old `.pt` file (a pickle) that lies there. So it works in an empty
    folder each time, into which only the archives come, and these it does check.
    """
    import torchvision  # takes seconds

    load = getattr(torchvision.datasets, kind)
    kept = cache_folder() / "torchvision" / kind
    kept.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent) as folder, _timeout(TIMEOUT_SECONDS):
        raw = Path(folder) / kind / "raw"
        raw.mkdir(parents=True)
        for archive in kept.glob("*.gz"):
            shutil.copy(archive, raw)
        try:
            splits = [load(folder, train=train, download=True) for train in (True, False)]
        except (RuntimeError, OSError, EOFError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise
            reason = " ".join(str(error).split())
            raise InputError(f"{name}: torchvision cannot download it: {reason}; {mirror.advice(name)}") from None
        for archive in raw.glob("*.gz"):
            archive.replace(kept / archive.name)
    train, test = ((split.data.numpy()[:, None], split.targets.numpy().astype(np.int64)) for split in splits)
    return train, test


@contextmanager
def _timeout(seconds: float) -> Iterator[None]:
    """torchvision sets no timeout of its own: a server that falls silent would be waited for without end."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
