"""Cutting: sizes, no sample in two parts, the class mix of every prefix, and what cannot be cut."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from wellcheck import splits
from wellcheck.errors import InputError
from wellcheck.params import Split
from wellcheck.samples import Description, Labels
from wellcheck.splits import Parts, cut


def known(labels: np.ndarray | list[int], classes: int | None = None) -> Labels:
    array = np.asarray(labels, np.int64)
    names = tuple(f"class {label}" for label in range(classes or int(array.max(initial=0)) + 1))
    return Labels(np.arange(len(array)), array, Description(names, "x"), (1, 4, 4), "hash")


NO_TEST = known([], classes=2)


def settings(**changes: object) -> Split:
    return Split.model_validate({"seed": 0, "stratify": True, "valid": 0.15, "test": "auto", "limit": None, **changes})


def sizes(parts: Parts) -> tuple[int, int, int, int]:
    return int(parts.train.sum()), int(parts.valid.sum()), int(parts.test.sum()), int(parts.own_test.sum())


both_ways = pytest.mark.parametrize("stratify", [True, False])


@both_ways
@pytest.mark.parametrize(
    ("changes", "own_test", "wanted"),
    [
        ({}, 0, (65, 15, 20, 0)),  # auto without a test split of its own: 20 %
        ({}, 30, (85, 15, 0, 30)),  # auto with one: all of it
        ({"test": 0.3}, 30, (55, 15, 30, 0)),  # a share is cut from the training set, whatever else there is
        ({"test": 7}, 0, (78, 15, 7, 0)),
        ({"valid": 0}, 0, (80, 0, 20, 0)),
        ({"valid": 0}, 30, (100, 0, 0, 30)),
        ({"valid": 12, "test": 0.01}, 0, (87, 12, 1, 0)),
        ({"limit": 10}, 0, (10, 10, 10, 0)),
        ({"limit": 12, "valid": 3}, 30, (12, 3, 0, 12)),
        ({"limit": 1000}, 30, (85, 15, 0, 30)),
    ],
)
def test_sizes(stratify: bool, changes: dict[str, object], own_test: int, wanted: tuple[int, ...]) -> None:
    train, test = known(np.arange(100) % 2), known(np.arange(own_test) % 2, classes=2)
    parts = cut(train, test, settings(stratify=stratify, **changes))
    assert sizes(parts) == wanted
    assert (parts.train.astype(int) + parts.valid + parts.test).max() == 1  # no sample in two parts
    if "limit" not in changes:
        assert (parts.train | parts.valid | parts.test).all()
    assert len(parts.own_test) == own_test and len(parts.train) == 100


@both_ways
def test_the_same_seed_cuts_the_same(stratify: bool) -> None:
    labels = known(np.random.default_rng(0).integers(0, 3, 200))
    first, again, other = (cut(labels, NO_TEST, settings(stratify=stratify, seed=seed)) for seed in (5, 5, 6))
    for name in ("train", "valid", "test"):
        assert (getattr(first, name) == getattr(again, name)).all()
        assert (getattr(first, name) != getattr(other, name)).any()


@both_ways
def test_the_own_test_split_is_drawn_from_at_random_when_limited(stratify: bool) -> None:
    test = known(np.repeat([0, 1], 500))  # in file order the first are all of one class
    parts = cut(known(np.arange(100) % 2), test, settings(stratify=stratify, limit=200))
    zeros = int((test.labels[parts.own_test] == 0).sum())
    assert binom.ppf(0.0005, 200, 0.5) <= zeros <= binom.ppf(0.9995, 200, 0.5)


@both_ways
def test_every_sample_is_as_likely_to_be_chosen(stratify: bool) -> None:
    train, draws = known(np.arange(20) % 2), 400
    times = np.zeros(20)
    for seed in range(draws):
        times += cut(train, NO_TEST, settings(stratify=stratify, seed=seed, valid=0.3)).valid
    # 20 samples at a level of 0.1 % together.
    low, high = binom.ppf([0.0005 / 20, 1 - 0.0005 / 20], draws, 0.3)
    assert low <= times.min() and times.max() <= high
    assert times.sum() == 6 * draws


def test_plain_random_does_not_keep_the_class_mix() -> None:
    train = known(np.arange(1000) % 2)
    counts = {int(train.labels[cut(train, NO_TEST, settings(stratify=False, seed=seed)).valid].sum()) for seed in range(10)}
    assert len(counts) > 3
    stratified = {int(train.labels[cut(train, NO_TEST, settings(seed=seed)).valid].sum()) for seed in range(10)}
    assert stratified <= {74, 75, 76}


@given(counts=st.lists(st.integers(1, 60), min_size=1, max_size=8), seed=st.integers(0, 2**32 - 1))
def test_every_prefix_has_the_class_mix(counts: list[int], seed: int) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    order = splits._stratified_order(labels, np.random.default_rng(seed))
    assert sorted(order) == list(range(len(labels)))
    share = np.array(counts) / len(labels)
    taken = (labels[order][:, None] == np.arange(len(counts))).cumsum(0)
    wanted = np.arange(1, len(labels) + 1)[:, None] * share
    # At any moment each class is less than one sample off its own clock; what the others are off together shifts a class by its share.
    assert (np.abs(taken - wanted) < (1 - share) + share * (len(counts) - 1) + 1e-9).all()


@pytest.mark.parametrize(("classes", "each"), [(2, 50), (10, 100), (200, 20)])
def test_every_prefix_of_equal_classes_is_within_one_sample_or_so(classes: int, each: int) -> None:
    labels = np.repeat(np.arange(classes), each)
    for seed in range(5):
        order = splits._stratified_order(labels, np.random.default_rng(seed))
        taken = (labels[order][:, None] == np.arange(classes)).cumsum(0)
        assert np.abs(taken - np.arange(1, len(labels) + 1)[:, None] / classes).max() < 1.5


def test_small_classes_do_not_all_come_first_or_last() -> None:
    labels = np.r_[np.zeros(900, np.int64), np.arange(1, 101)]  # a hundred classes of one sample each
    places = np.argsort(splits._stratified_order(labels, np.random.default_rng(0)))[900:]
    assert binom.ppf(0.0005, 100, 0.5) <= (places < 500).sum() <= binom.ppf(0.9995, 100, 0.5)


def test_the_order_within_a_class_is_random() -> None:
    train = known(np.arange(100) % 2)
    chosen = np.flatnonzero(cut(train, NO_TEST, settings(valid=20)).valid)
    assert chosen.max() > 50 and chosen.min() < 50


@both_ways
def test_a_class_without_training_sample_is_named(stratify: bool) -> None:
    train = replace(known([0] * 50 + [1] * 50), description=Description(("shirt", "dress", "coat"), "x"))
    with pytest.raises(InputError, match=r"^split: no training sample is left of class coat; raise split\.limit, lower split\.valid"):
        cut(train, NO_TEST, settings(stratify=stratify))


def test_a_limit_that_loses_classes_is_told() -> None:
    with pytest.raises(InputError, match=r"no training sample is left of class class \d+, class \d+, .*raise split\.limit"):
        cut(known(np.repeat(np.arange(100), 10)), NO_TEST, settings(limit=10))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"valid": 101}, r"split\.valid: found 101, but the training set has only 100 samples"),
        ({"test": 101}, r"split\.test: found 101, but the training set has only 100 samples"),
        ({"valid": 80, "test": 20}, r"split: 80 valid and 20 test samples leave no training sample of 100"),
        ({"valid": 0.9, "test": 0.2}, r"split: 90 valid and 20 test samples leave no training sample of 100"),
        ({"test": 0.001}, r"split\.test: found 0\.001, which leaves no test sample"),
    ],
)
@both_ways
def test_what_cannot_be_cut(stratify: bool, changes: dict[str, object], told: str) -> None:
    with pytest.raises(InputError, match=told):
        cut(known(np.arange(100) % 2), NO_TEST, settings(stratify=stratify, **changes))


def test_shares_are_of_the_whole_training_set() -> None:
    # Not of what is left after the test part: 15 % of 1,797, as the committed settings say.
    parts = cut(known(np.arange(1797) % 10), NO_TEST, settings())
    assert sizes(parts) == (1797 - 270 - 359, 270, 359, 0)
