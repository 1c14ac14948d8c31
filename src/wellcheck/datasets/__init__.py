"""Data sets: every source, from scikit-learn's digits to the user's own folder, opened as one `Source`.

Adding a data set: one file with a function `Dataset -> Source`, its name in `params.DatasetName`, one line in `SOURCES`.
"""

from collections.abc import Callable

from wellcheck.datasets import mirror
from wellcheck.datasets.cifar10 import open_cifar10
from wellcheck.datasets.digits import open_digits
from wellcheck.datasets.flower_photos import open_flower_photos
from wellcheck.datasets.folder import open_folder
from wellcheck.datasets.mnist import open_fashion_mnist, open_mnist
from wellcheck.datasets.parquet import open_files, open_parquet
from wellcheck.datasets.source import Source, Split
from wellcheck.datasets.tiny_imagenet import open_tiny_imagenet, open_tiny_imagenet50
from wellcheck.params import Dataset, DatasetName

__all__ = ["SOURCES", "Source", "Split", "open_source"]

SOURCES: dict[DatasetName, Callable[[Dataset], Source]] = {
    "digits": open_digits,
    "mnist": open_mnist,
    "fashion_mnist": open_fashion_mnist,
    "cifar10": open_cifar10,
    "tiny_imagenet": open_tiny_imagenet,
    "tiny_imagenet50": open_tiny_imagenet50,
    "flower_photos": open_flower_photos,
    "folder": open_folder,
    "parquet": open_parquet,
}
NEVER_MIRRORED: set[DatasetName] = {"digits", "folder", "parquet"}


def open_source(dataset: Dataset) -> Source:
    """Open a data set: from the mirror if there is one and it has it, from its own source otherwise.

    Raises InputError that names the file, row, class or variable, what was found and what was expected.
    """
    files = None if dataset.name in NEVER_MIRRORED else mirror.find(dataset.name)
    if files is not None:
        return open_files(files[:1], files[1:], "mirror", dataset)
    return SOURCES[dataset.name](dataset)
