"""Cutting a training set into train, valid and test: at random or with the class mix kept."""

from dataclasses import dataclass

import numpy as np

from wellcheck.errors import InputError
from wellcheck.params import Split
from wellcheck.samples import Labels

TEST_SHARE = 0.2  # where the data set has no test split of its own


@dataclass(frozen=True)
class Parts:
    """Which rows of the downloaded training and test file go where, as boolean masks."""

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray  # rows of the training file
    own_test: np.ndarray  # rows of the test file


def cut(train: Labels, test: Labels, split: Split) -> Parts:
    """Choose the rows of every part. Raises InputError if a part or a class of the training part would be empty."""
    rng = np.random.default_rng(split.seed)
    use_own_test = split.test == "auto" and len(test) > 0
    share = TEST_SHARE if split.test == "auto" else split.test
    tests = 0 if use_own_test else _count("split.test", share, len(train))
    valids = _count("split.valid", split.valid, len(train))
    if tests + valids >= len(train):
        raise InputError(f"split: {valids} valid and {tests} test samples leave no training sample of {len(train)}")
    order = _stratified_order(train.labels, rng) if split.stratify else rng.permutation(len(train))
    own_test = np.flatnonzero(np.full(len(test), use_own_test))
    parts = {"test": order[:tests], "valid": order[tests : tests + valids], "train": order[tests + valids :], "own_test": own_test}
    if split.limit is not None:
        # A prefix of a stratified order is itself stratified; a test split of its own is in file order and is drawn from at random.
        parts["own_test"] = rng.permutation(own_test)
        parts = {name: rows[: split.limit] for name, rows in parts.items()}
    _require_every_class(train, parts["train"])
    if len(parts["test"]) + len(parts["own_test"]) == 0:
        raise InputError(f"split.test: found {split.test!r}, which leaves no test sample")
    masks = {name: np.zeros(len(test) if name == "own_test" else len(train), bool) for name in parts}
    for name, rows in parts.items():
        masks[name][rows] = True
    return Parts(**masks)


def _count(name: str, amount: float | int, total: int) -> int:
    count = round(amount * total) if isinstance(amount, float) else int(amount)
    if count > total:
        raise InputError(f"{name}: found {amount}, but the training set has only {total} samples")
    return count


def _stratified_order(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random order in which every stretch has about the class mix of the whole: each class is spread evenly over it."""
    order = rng.permutation(len(labels))
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = order[labels[order] == label]
        # The i-th of n members stands at (i + u) / n of the way; one u a class keeps small classes from all coming first.
        place[members] = (np.arange(len(members)) + rng.random()) / len(members)
    return np.argsort(place, kind="stable")


def _require_every_class(train: Labels, rows: np.ndarray) -> None:
    names = train.description.class_names
    counts = np.bincount(train.labels[rows], minlength=len(names))
    if (counts == 0).any():
        empty = ", ".join(names[label] for label in np.flatnonzero(counts == 0)[:5])
        advice = "raise split.limit, lower split.valid or split.test, or set split.stratify: true"
        raise InputError(f"split: no training sample is left of class {empty}; {advice}")
