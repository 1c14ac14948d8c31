"""Figures against hand counts, published intervals and brute force."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, norm

from wellcheck.metrics import (
    Backdoor,
    backdoor,
    calibration_error,
    confusion_matrix,
    flagging,
    precision,
    precision_recall_points,
    proportion_interval,
    ranking,
    recall,
    roc_points,
    suspicious,
)

NOTHING = {"auroc": None, "average_precision": None, "tpr_at_1pct_fpr": None}


# confusion


def test_confusion_by_hand() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2])
    predicted = np.array([0, 0, 1, 1, 0, 1])
    counts = confusion_matrix(labels, predicted, 4)
    assert counts.tolist() == [[2, 1, 0, 0], [1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    assert recall(counts) == [2 / 3, 1 / 2, 0.0, None]  # no sample of class 3
    assert precision(counts) == [2 / 3, 1 / 3, None, None]  # classes 2 and 3 are never predicted
    assert all(type(share) is float for share in recall(counts) if share is not None)


def test_confusion_of_nothing() -> None:
    counts = confusion_matrix(np.empty(0, np.int64), np.empty(0, np.int64), 3)
    assert counts.tolist() == [[0, 0, 0]] * 3
    assert recall(counts) == precision(counts) == [None] * 3


@given(pairs=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=40))
def test_confusion_counts_pairs(pairs: list[tuple[int, int]]) -> None:
    labels, predicted = np.array(pairs, np.int64).reshape(-1, 2).T
    counts = confusion_matrix(labels, predicted, 7)
    assert all(counts[actual, guess] == pairs.count((actual, guess)) for actual in range(7) for guess in range(7))


# intervals


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    # Newcombe 1998 (Statistics in Medicine 17, 857), table I, method 3: Wilson's score without correction, 95 %.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilsons_interval_is_the_published_one(successes: int, trials: int, low: float, high: float) -> None:
    assert proportion_interval(successes, trials, 0.95) == pytest.approx([low, high], abs=5e-5)
    mirrored = proportion_interval(trials - successes, trials, 0.95)
    assert mirrored == pytest.approx([1 - high, 1 - low], abs=5e-5)


@given(trials=st.integers(1, 500), share=st.floats(0, 1), confidence=st.sampled_from([0.5, 0.8, 0.95, 0.999]))
def test_wilsons_interval_is_the_formula(trials: int, share: float, confidence: float) -> None:
    successes = round(share * trials)
    z = norm.ppf((1 + confidence) / 2)
    p = successes / trials
    centre = (p + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z / (1 + z**2 / trials) * np.sqrt(p * (1 - p) / trials + z**2 / (4 * trials**2))
    found = proportion_interval(successes, trials, confidence)
    assert found == pytest.approx([centre - half, centre + half], abs=1e-9)
    assert found is not None and 0 <= found[0] <= p + 1e-12 and p - 1e-12 <= found[1] <= 1


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
@pytest.mark.parametrize("trials", [30, 200])
def test_wilsons_interval_covers_as_often_as_it_says(trials: int, confidence: float) -> None:
    # Exact coverage, averaged over proportions: within one point of what is claimed.
    intervals = np.array([proportion_interval(successes, trials, confidence) for successes in range(trials + 1)])
    proportions = np.linspace(0.02, 0.98, 97)
    covered = (intervals[:, 0] <= proportions[:, None]) & (proportions[:, None] <= intervals[:, 1])
    coverage = (binom.pmf(np.arange(trials + 1), trials, proportions[:, None]) * covered).sum(1).mean()
    assert coverage == pytest.approx(confidence, abs=0.01)


def test_no_trials_no_interval() -> None:
    assert proportion_interval(0, 0, 0.95) is None


# backdoors


def test_a_backdoor_is_counted_with_and_without_the_target_class() -> None:
    labels = np.array([3, 3, 0, 1, 2, 0, 1, 2, 0, 1])
    predicted = np.array([3, 0, 3, 3, 3, 0, 1, 2, 1, 3])
    counts = backdoor(labels, predicted, np.full(10, 3))
    assert counts == Backdoor(successes=4, others=8, target_predictions=5, samples=10)
    figures = counts.figures(0.95)
    assert (figures["attack_success_rate"], figures["predicted_target_rate"]) == (0.5, 0.5)
    assert figures["attack_success_rate_interval"] == proportion_interval(4, 8, 0.95)
    assert figures["predicted_target_rate_interval"] == proportion_interval(5, 10, 0.95)
    assert figures["attack_success_rate_interval"] != figures["predicted_target_rate_interval"]


@pytest.mark.parametrize(
    ("labels", "predicted", "success", "predicted_target"),
    [([3, 3], [3, 0], None, 0.5), ([0, 1], [3, 3], 1.0, 1.0), ([0, 1], [0, 1], 0.0, 0.0), ([], [], None, None)],
)
def test_backdoors_at_the_edges(labels: list[int], predicted: list[int], success: float | None, predicted_target: float | None) -> None:
    figures = backdoor(np.array(labels, np.int64), np.array(predicted, np.int64), np.full(len(labels), 3)).figures(0.95)
    assert (figures["attack_success_rate"], figures["predicted_target_rate"]) == (success, predicted_target)
    assert (figures["attack_success_rate_interval"] is None) == (success is None)
    assert (figures["predicted_target_rate_interval"] is None) == (predicted_target is None)


def test_a_backdoor_with_a_wish_of_its_own_for_every_label() -> None:
    labels, predicted = np.array([0, 1, 2, 2]), np.array([1, 1, 0, 2])
    assert backdoor(labels, predicted, (labels + 1) % 3) == Backdoor(successes=2, others=4, target_predictions=2, samples=4)


def test_images_that_are_not_attacked_count_nowhere() -> None:
    labels, predicted, wanted = np.array([5, 5, 3, 0, 0]), np.array([3, 0, 3, 3, -1]), np.array([3, 3, 3, -1, -1])
    assert backdoor(labels, predicted, wanted) == Backdoor(successes=1, others=2, target_predictions=2, samples=3)
    nobody = backdoor(labels, predicted, np.full(5, -1)).figures(0.95)
    assert set(nobody.values()) == {None}


# ranking


@pytest.mark.parametrize(
    ("scores", "positive", "auroc", "average_precision", "tpr"),
    [
        # Precision at the two positives: 1/1 and 2/3.
        ([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1], 3 / 4, (1 + 2 / 3) / 2, 1 / 2),
        ([1, 2, 3, 4], [0, 0, 1, 1], 1, 1, 1),
        ([4, 3, 2, 1], [0, 0, 1, 1], 0, (1 / 3 + 2 / 4) / 2, 0),
        ([5, 5, 5, 5], [0, 1, 0, 1], 1 / 2, 1 / 2, 0),  # no order at all
        # A tie of one positive and one negative behind one positive: 3/4 of two pairs each counted, a half for the tie.
        ([2, 1, 1, 0], [1, 1, 0, 0], (2 + 1.5) / 4, (1 + 2 / 3) / 2, 1 / 2),
    ],
)
def test_ranking_by_hand(scores: list[float], positive: list[int], auroc: float, average_precision: float, tpr: float) -> None:
    found = ranking(np.array(scores), np.array(positive, bool))
    assert found == pytest.approx({"auroc": auroc, "average_precision": average_precision, "tpr_at_1pct_fpr": tpr})


def brute_force(scores: np.ndarray, positive: np.ndarray) -> dict[str, float]:
    good, bad = scores[positive], scores[~positive]
    thresholds = np.unique(scores)[::-1]
    share = [(good >= threshold).mean() for threshold in thresholds]
    exact = [(good >= threshold).sum() / (scores >= threshold).sum() for threshold in thresholds]
    return {
        "auroc": float((good[:, None] > bad).mean() + (good[:, None] == bad).mean() / 2),
        "average_precision": float(np.dot(np.diff([0, *share]), exact)),
        "tpr_at_1pct_fpr": max([0.0, *(float(one) for one, t in zip(share, thresholds, strict=True) if (bad >= t).mean() <= 0.01)]),
    }


@given(points=st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=40))
def test_ranking_with_many_ties(points: list[tuple[int, bool]]) -> None:
    scores, positive = np.array([score for score, _ in points], float), np.array([flag for _, flag in points])
    wanted: dict[str, Any] = NOTHING if positive.all() or not positive.any() else brute_force(scores, positive)
    assert ranking(scores, positive) == pytest.approx(wanted)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("negatives", [99, 100, 101, 350])
def test_ranking_without_ties(negatives: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    positive = np.arange(negatives + 20) < 20
    scores = generator.standard_normal(negatives + 20) + 2 * positive
    assert ranking(scores, positive) == pytest.approx(brute_force(scores, positive))


def test_tpr_at_a_low_fpr_where_steps_repeat() -> None:
    # Five groups of equal scores with 20 positives and 1 negative each, and 245 negatives behind: two groups stay below 1 % of 250.
    scores = np.r_[np.repeat([9.0, 8, 7, 6, 5], 21), np.zeros(245)]
    positive = np.r_[np.tile([True] * 20 + [False], 5), np.zeros(245, bool)]
    assert brute_force(scores, positive)["tpr_at_1pct_fpr"] == 0.4
    assert ranking(scores, positive)["tpr_at_1pct_fpr"] == 0.4


@pytest.mark.parametrize("positive", [[True, True], [False, False], []])
def test_one_sided_truth_has_no_figure(positive: list[bool]) -> None:
    scores = np.arange(len(positive), dtype=float)
    assert ranking(scores, np.array(positive, bool)) == NOTHING
    assert roc_points(scores, np.array(positive, bool)) == []


def test_the_curve_of_a_perfect_and_of_an_inverted_score() -> None:
    assert roc_points(np.array([3.0, 2, 1, 0]), np.array([True, True, False, False])) == [(0, 0), (0, 0.5), (0, 1), (1, 1)]
    assert roc_points(np.array([1.0, 0]), np.array([False, True])) == [(0, 0), (1, 0), (1, 1)]


@pytest.mark.parametrize("points", [2, 10, 200])
def test_a_long_curve_is_thinned_and_keeps_its_ends(points: int) -> None:
    generator = np.random.default_rng(0)
    positive = generator.random(5000) < 0.3
    scores = generator.standard_normal(5000) + positive
    curve = np.array(roc_points(scores, positive, points))
    assert len(curve) == points
    assert curve[0].tolist() == [0, 0] and curve[-1].tolist() == [1, 1]
    assert (np.diff(curve, axis=0) >= 0).all()
    if points == 200:
        assert np.trapezoid(curve[:, 1], curve[:, 0]) == pytest.approx(ranking(scores, positive)["auroc"], abs=0.005)


@pytest.mark.parametrize(
    ("scores", "positive", "points"),
    [
        # Thresholds 0.8, 0.4, 0.35, 0.1: one of one, one of two, two of three, two of four.
        ([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1], [(0.5, 1), (1, 2 / 3)]),
        ([4, 3, 2, 1], [0, 0, 1, 1], [(0.5, 1 / 3), (1, 0.5)]),  # no pair for the thresholds that reach no positive
        ([5, 5, 5, 5], [0, 1, 0, 0], [(1, 0.25)]),
        ([2, 1, 1, 0], [1, 1, 0, 0], [(0.5, 1), (1, 2 / 3)]),
    ],
)
def test_precision_and_recall_by_hand(scores: list[float], positive: list[int], points: list[tuple[float, float]]) -> None:
    found = precision_recall_points(np.array(scores, float), np.array(positive, bool))
    assert [one for pair in found for one in pair] == pytest.approx([one for pair in points for one in pair])


@given(points=st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=40))
def test_average_precision_is_the_area_of_the_steps(points: list[tuple[int, bool]]) -> None:
    scores, positive = np.array([score for score, _ in points], float), np.array([flag for _, flag in points])
    curve = precision_recall_points(scores, positive)
    if positive.all() or not positive.any():
        assert curve == []
        return
    recalls, precisions = np.array(curve).T
    assert (np.diff(recalls) > 0).all() and recalls[-1] == 1
    assert float(np.dot(np.diff(recalls, prepend=0), precisions)) == pytest.approx(ranking(scores, positive)["average_precision"])


def test_a_long_precision_recall_curve_is_thinned_and_keeps_its_ends() -> None:
    generator = np.random.default_rng(0)
    positive = generator.random(5000) < 0.3
    scores = generator.standard_normal(5000) + positive
    whole, thinned = (np.array(precision_recall_points(scores, positive, points)) for points in (5000, 10))
    assert len(whole) == positive.sum() and len(thinned) == 10
    np.testing.assert_array_equal(thinned[[0, -1]], whole[[0, -1]])
    np.testing.assert_allclose(np.diff(thinned[:, 0]), 1 / 9, atol=0.001)  # spread along the recall


# flags


@pytest.mark.parametrize(
    ("scores", "flagged"),
    [
        # Median 3, median absolute deviation 1: flagged above 3 + 5 · 1.4826 = 10.413.
        ([1, 2, 3, 4, 10.41], [0, 0, 0, 0, 0]),
        ([1, 2, 3, 4, 10.42], [0, 0, 0, 0, 1]),
        ([1, 2, 3, 4, np.inf], [0, 0, 0, 0, 1]),
        ([5, 4, 3, 2, -100], [0, 0, 0, 0, 0]),  # suspicious is what is high
        ([1, np.nan, 2, 3, np.nan, 4, 11], [0, 0, 0, 0, 0, 0, 1]),  # without a score, without a say
        ([0, 0, 0, 0, 7], [0, 0, 0, 0, 0]),  # no deviation
        ([7], [0]),
        ([np.nan, np.nan], [0, 0]),
        ([np.inf, np.inf, np.inf, 1], [0, 0, 0, 0]),  # none that is a number
        ([], []),
    ],
)
def test_a_score_is_suspicious_far_above_the_median(scores: list[float], flagged: list[int]) -> None:
    assert suspicious(np.array(scores, float)).tolist() == [bool(one) for one in flagged]


def test_hardly_any_of_ordinary_scores_is_suspicious_whatever_their_scale() -> None:
    scores = np.random.default_rng(0).standard_normal(100_000)
    assert suspicious(scores).sum() == 0  # beyond five standard deviations of a normal distribution: one in 3.5 million
    scores[:10] += 10
    for scale, shift in ((1, 0), (1e-6, 3), (1e6, -1e7)):
        np.testing.assert_array_equal(suspicious(scale * scores + shift), np.arange(100_000) < 10)


@pytest.mark.parametrize(
    ("flagged", "positive", "tpr", "fpr", "precise", "f1"),
    [
        ([1, 1, 0, 0, 1, 0], [1, 1, 1, 0, 0, 0], 2 / 3, 1 / 3, 2 / 3, 4 / 6),
        ([1, 0, 0, 0], [1, 0, 0, 0], 1, 0, 1, 1),
        ([0, 0, 0, 0], [1, 1, 0, 0], 0, 0, None, 0),  # nothing flagged: both are missed
        ([0, 0], [0, 0], None, 0, None, None),  # nothing to find, nothing found
        ([1, 0], [0, 0], None, 0.5, 0, 0),
        ([1, 0], [1, 1], 0.5, None, 1, 2 / 3),
        ([], [], None, None, None, None),
    ],
)
def test_flags_by_hand(
    flagged: list[int], positive: list[int], tpr: float | None, fpr: float | None, precise: float | None, f1: float | None
) -> None:
    found = flagging(np.array(flagged, bool), np.array(positive, bool))
    assert found == {"tpr": tpr, "fpr": fpr, "precision": precise, "f1": f1}


# probabilities


def test_calibration_error_by_hand() -> None:
    # Bins [0, 0.1), [0.5, 0.6) and [0.9, 1]: sums of what is said 0, 1.0 and 1.9, of what is so 1, 1 and 2.
    said, so = np.array([0.0, 0.5, 0.5, 0.9, 1.0]), np.array([True, True, False, True, True])
    assert calibration_error(said, so) == pytest.approx((1 + 0 + 0.1) / 5)
    assert calibration_error(said, so, bins=1) == pytest.approx((4 - 2.9) / 5)
    assert calibration_error(np.empty(0), np.empty(0, bool)) is None


@pytest.mark.parametrize("seed", range(3))
def test_what_is_calibrated_has_next_to_no_error_and_what_boasts_has_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    said = rng.random(20_000)
    so = rng.random(20_000) < said
    honest, boasting = calibration_error(said, so), calibration_error((said > 0.5).astype(float), so)
    assert honest is not None and honest < 0.015
    assert boasting is not None and abs(boasting - 0.25) < 0.01
