"""Disparity between classes, by hand and by the level that its p-value states."""

import numpy as np
import pytest
from scipy.stats import chi2

from wellcheck.disparity import ClassRate, Confusion, confused_pairs, correlation, disparity, rates


def counted(*pairs: tuple[int, int]) -> list[ClassRate]:
    return [ClassRate(events, samples, None) for events, samples in pairs]


def test_rates_by_hand() -> None:
    found = rates(np.array([True, False, True, True]), np.array([0, 0, 2, 2]), 3, confidence=0.95)
    assert [(one.events, one.samples, one.rate) for one in found] == [(1, 2, 0.5), (0, 0, None), (2, 2, 1.0)]
    assert found[1].interval is None
    interval = found[0].interval
    assert interval is not None and 0 < interval[0] < 0.5 < interval[1] < 1


def test_disparity_by_hand() -> None:
    found = disparity(counted((10, 100), (0, 0), (30, 100)))
    assert (found.highest, found.lowest) == (2, 0)
    assert found.parity_difference == pytest.approx(0.2)
    # Expected 20 of 100 in both: (10² / 20 + 10² / 80) · 2.
    assert found.chi_square == pytest.approx(12.5)
    assert found.p_value == pytest.approx(chi2.sf(12.5, 1))


def test_with_equal_rates_its_p_value_keeps_its_level() -> None:
    rng = np.random.default_rng(0)
    p_values = [disparity([ClassRate(hits, 200, None) for hits in rng.binomial(200, 0.3, 10).tolist()]).p_value for _ in range(1000)]
    below = sum(value is not None and value < 0.05 for value in p_values)
    assert 30 <= below <= 70  # 50 ± 2.9 standard deviations


@pytest.mark.parametrize("events", [0, 100])
def test_where_all_classes_fare_alike_there_is_nothing_to_test(events: int) -> None:
    found = disparity(counted((events, 100), (events, 100)))
    assert (found.parity_difference, found.p_value) == (0.0, None)


def test_one_class_is_not_enough() -> None:
    assert disparity(counted((1, 2), (0, 0))).parity_difference is None


def test_correlation_by_hand() -> None:
    rising, falling = counted((1, 10), (2, 10), (3, 10), (9, 10), (0, 0)), counted((8, 10), (6, 10), (4, 10), (0, 10), (5, 10))
    assert correlation(rising, rising).rho == pytest.approx(1)
    found = correlation(rising, falling)
    assert found.rho == pytest.approx(-1) and found.classes == 4


@pytest.mark.parametrize("one", [[(1, 10), (2, 10), (3, 10)], [(1, 10)] * 5])
def test_no_correlation_of_few_or_equal_rates(one: list[tuple[int, int]]) -> None:
    found = correlation(counted(*one), counted(*[(place, 10) for place in range(len(one))]))
    assert (found.rho, found.p_value) == (None, None)


def test_the_most_confused_come_first() -> None:
    confusion = np.array([[8, 2, 0], [30, 60, 10], [0, 0, 5]])
    assert confused_pairs(confusion, 2) == [Confusion(1, 0, 30, 0.3), Confusion(0, 1, 2, 0.2)]
    assert len(confused_pairs(confusion, 9)) == 3  # none that never happened


@pytest.mark.parametrize(("classes", "order", "p_value"), [(4, [0, 1, 2, 3], 2 / 24), (5, [0, 1, 2, 4, 3], 10 / 120)])
def test_the_p_value_of_a_correlation_over_few_classes_is_exact(classes: int, order: list[int], p_value: float) -> None:
    first = counted(*((label + 1, 20) for label in range(classes)))
    found = correlation(first, [first[place] for place in order])
    assert found.p_value == pytest.approx(p_value)


def test_the_p_value_of_few_events_is_by_dealing_them() -> None:
    # 2 of 2 against 0 of 2: of the six ways to deal two events to four samples, two are as uneven.
    assert disparity(counted((2, 2), (0, 2))).p_value == pytest.approx(2 / 6, abs=0.015)
    rng = np.random.default_rng(0)
    drawn = [disparity([ClassRate(hits, 10, None) for hits in rng.binomial(10, 0.1, 8).tolist()]).p_value for _ in range(300)]
    p_values = np.array([1.0 if value is None else value for value in drawn])
    assert 0.01 <= (p_values < 0.05).mean() <= 0.085  # at most 5 %, and of so few events a little less


def test_few_events_can_be_telling() -> None:
    found = disparity(counted((1, 30), (0, 30), (8, 30)))  # three expected in each
    assert found.p_value is not None and found.p_value < 0.01
