"""What every data set becomes: class names and two splits that are read lazily, checked when they are put together."""

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from wellcheck.errors import InputError

Batch = tuple[np.ndarray, np.ndarray]
Shape = tuple[int, int, int]

LONGEST_CLASS_NAME = 80
# Categories and marks that would break a line, hide text or turn the reading direction in a log or a report.
UNSHOWABLE_CATEGORIES = {"Cc", "Cs", "Zl", "Zp"}
DIRECTION_MARKS = set("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@dataclass(frozen=True, eq=False)
class Split:
    """Labels int64 [N], and `images`, which starts a pass over uint8 [n, C, H, W] arrays in the order of the labels."""

    labels: np.ndarray
    images: Callable[[], Iterator[np.ndarray]]
    names: Callable[[], Iterable[str]] = tuple  # where each image stands, for people who look there; nothing where nobody could

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self) -> Iterator[Batch]:
        """Images uint8 [n, C, H, W] with their labels int64 [n]; each call starts anew. Raises InputError on an unreadable image."""
        start = 0
        for images in self.images():
            yield images, self.labels[start : start + len(images)]
            start += len(images)


@dataclass(frozen=True, eq=False)
class Source:
    """A data set that is ready to be read. Raises InputError if it has no images, fewer than two classes or a class without images."""

    class_names: tuple[str, ...]
    origin: str  # for people: "torchvision", "mirror", "scikit-learn", the user's path
    image_shape: Shape  # C, H, W of every image in both splits
    train: Split
    test: Split | None

    def __post_init__(self) -> None:
        if not len(self.train):
            raise InputError(f"{self.origin}: no training images")
        if len(self.class_names) < 2:
            raise InputError(f"{self.origin}: found {len(self.class_names)} class, expected at least 2")
        (name, times), *_ = Counter(self.class_names).most_common(1)
        if times > 1:
            raise InputError(f"{self.origin}: {times} classes have the same name '{name}'")
        for split in filter(None, (self.train, self.test)):
            if len(split) and not 0 <= split.labels.min() <= split.labels.max() < len(self.class_names):
                found = f"{split.labels.min()} to {split.labels.max()}"
                raise InputError(f"{self.origin}: found labels {found}, expected 0 to {len(self.class_names) - 1}")
        self._check_no_class_is_empty()

    def _check_no_class_is_empty(self) -> None:
        empty = np.flatnonzero(np.bincount(self.train.labels, minlength=len(self.class_names)) == 0)
        if len(empty):
            first = f"class '{self.class_names[empty[0]]}' (label {empty[0]}) has no training image"
            raise InputError(f"{self.origin}: {first}; {len(empty)} of {len(self.class_names)} classes are empty: add images or drop them")


def printable(text: str, *, longest: int = 400) -> str:
    """Text from outside, fit for a log line: unshowable characters become U+FFFD, and what is too long ends in an ellipsis."""
    shown = "".join("\ufffd" if unicodedata.category(c) in UNSHOWABLE_CATEGORIES or c in DIRECTION_MARKS else c for c in text)
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"


def class_name(text: str) -> str:
    """A class name from outside, kept as text: at most 80 characters, none of them unshowable."""
    return printable(text, longest=LONGEST_CLASS_NAME)
