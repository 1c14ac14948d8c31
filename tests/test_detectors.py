"""Detectors by hand, against the papers' own formulas, and the properties that every one of them must have."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wellcheck.detectors import DETECTORS
from wellcheck.detectors.centroid import centroid_distance
from wellcheck.detectors.spectral import spectral_signatures
from wellcheck.params import DetectorName

every = pytest.mark.parametrize("name", list(DETECTORS))


def planted(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features [600, 12] of three labels, and which 20 of label 1 are another cluster's."""
    generator = np.random.default_rng(seed)
    labels = np.arange(600) % 3
    features = generator.standard_normal((600, 12)) + 5 * np.eye(3, 12)[labels]
    poisoned = np.zeros(600, bool)
    poisoned[generator.choice(np.flatnonzero(labels == 1), 20, replace=False)] = True
    features[poisoned, 7] += 9
    return features, labels, poisoned


# by hand


def test_centroid_distance_by_hand() -> None:
    features = np.array([[0.0, 0], [0, 0], [3, 0], [5, 5], [0, 2], [0, 4]])
    labels = np.array([0, 0, 0, 7, 2, 2])
    # Label 0: centroid (1, 0), squared distances 1, 1, 4, their mean 2. Label 7: alone. Label 2: 1 and 1.
    assert centroid_distance(features, labels).tolist() == [0.5, 0.5, 2.0, 0.0, 1.0, 1.0]


def test_spectral_signatures_by_hand() -> None:
    features = np.array([[0.0, 0], [0, 0], [3, 4], [5, 5], [0, 2], [0, 4]])
    labels = np.array([0, 0, 0, 7, 2, 2])
    # Label 0 lies on the direction (3, 4)/5, at 0, 0 and 5: centred −5/3, −5/3, 10/3.
    np.testing.assert_allclose(spectral_signatures(features, labels), [25 / 9, 25 / 9, 100 / 9, 0, 1, 1], atol=1e-12)


def test_spectral_signatures_see_the_top_direction_alone() -> None:
    # Spread 2 along the first axis, spread 1 along the second: only the first counts.
    features = np.array([[2.0, 0], [-2, 0], [0, 1], [0, -1]])
    np.testing.assert_allclose(spectral_signatures(features, np.zeros(4, np.int64)), [4, 4, 0, 0], atol=1e-12)


# against the formulas


@given(count=st.integers(2, 30), width=st.integers(1, 40), labels=st.integers(1, 3), seed=st.integers(0, 1000))
def test_spectral_signatures_are_the_papers_projection(count: int, width: int, labels: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    features, label = generator.standard_normal((count, width)) * generator.uniform(0.5, 3, width), generator.integers(0, labels, count)
    found = spectral_signatures(features, label)
    for one in np.unique(label):
        centred = features[label == one] - features[label == one].mean(0)
        top = np.linalg.svd(centred, full_matrices=False)[2][0]
        np.testing.assert_allclose(found[label == one], (centred @ top) ** 2, rtol=1e-6, atol=1e-9)


@given(count=st.integers(1, 30), width=st.integers(1, 10), seed=st.integers(0, 1000))
def test_centroid_distance_has_mean_one_in_every_label(count: int, width: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    features, labels = generator.standard_normal((count, width)), generator.integers(0, 3, count)
    scores = centroid_distance(features, labels)
    for label, members in zip(*np.unique(labels, return_counts=True), strict=True):
        assert scores[labels == label].mean() == pytest.approx(1 if members > 1 else 0)


# what every detector does


@every
@pytest.mark.parametrize("seed", range(3))
def test_a_shifted_cluster_gets_the_top_ranks(name: DetectorName, seed: int) -> None:
    features, labels, poisoned = planted(seed)
    scores = DETECTORS[name].score(features, labels)
    suspects = np.argsort(np.where(labels == 1, scores, -np.inf))[::-1][:20]
    assert poisoned[suspects].sum() >= 18


@every
def test_scores_are_float64_one_a_sample_and_inputs_stay(name: DetectorName) -> None:
    features, labels, _ = planted()
    before = features.copy(), labels.copy()
    scores = DETECTORS[name].score(features, labels)
    assert scores.dtype == np.float64 and scores.shape == (600,)
    assert np.isfinite(scores).all()
    assert (features == before[0]).all() and (labels == before[1]).all()
    assert (DETECTORS[name].score(features, labels) == scores).all()


@every
def test_the_order_of_samples_plays_no_part(name: DetectorName) -> None:
    features, labels, _ = planted()
    order = np.random.default_rng(1).permutation(600)
    np.testing.assert_allclose(
        DETECTORS[name].score(features[order], labels[order]), DETECTORS[name].score(features, labels)[order], rtol=1e-6
    )


@every
def test_the_names_of_labels_play_no_part(name: DetectorName) -> None:
    features, labels, _ = planted()
    renamed = np.array([199, 0, 5])[labels]
    np.testing.assert_allclose(DETECTORS[name].score(features, renamed), DETECTORS[name].score(features, labels), rtol=1e-6)


@every
def test_other_labels_play_no_part(name: DetectorName) -> None:
    features, labels, _ = planted()
    whole, alone = DETECTORS[name].score(features, labels), DETECTORS[name].score(features[labels == 1], labels[labels == 1])
    np.testing.assert_allclose(alone, whole[labels == 1], rtol=1e-6)


@every
def test_moving_everything_plays_no_part(name: DetectorName) -> None:
    features, labels, _ = planted()
    np.testing.assert_allclose(DETECTORS[name].score(features + 100, labels), DETECTORS[name].score(features, labels), rtol=1e-6, atol=1e-9)


@every
@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_half_precision_is_only_a_way_of_storing(name: DetectorName, kind: type) -> None:
    features, labels, _ = planted()
    stored: np.ndarray = features.astype(kind)
    np.testing.assert_array_equal(DETECTORS[name].score(stored, labels), DETECTORS[name].score(stored.astype(np.float64), labels))
    large: np.ndarray = np.array([[60000.0, 0], [-60000, 0], [60000, 1]]).astype(kind)  # squares beyond the half range
    assert np.isfinite(DETECTORS[name].score(large, np.zeros(3, np.int64))).all()


@every
@pytest.mark.parametrize("value", [0.0, 1.0, -2.5, 1000.0])
@pytest.mark.parametrize("kind", [np.float16, np.float64])
def test_features_without_spread_are_not_suspicious(name: DetectorName, value: float, kind: type) -> None:
    scores = DETECTORS[name].score(np.full((7, 3), value, kind), np.array([0, 0, 0, 1, 1, 1, 2]))
    assert scores.tolist() == [0] * 7


def test_rounding_is_no_spread() -> None:
    assert centroid_distance(np.full((3, 2), 0.1), np.zeros(3, np.int64)).tolist() == [0, 0, 0]


@every
def test_a_label_of_one_sample_is_not_suspicious(name: DetectorName) -> None:
    features, labels, _ = planted()
    scores = DETECTORS[name].score(np.vstack([features, [50] * 12]), np.append(labels, 3))
    assert scores[-1] == 0 and np.isfinite(scores).all()


@every
def test_no_samples_no_scores(name: DetectorName) -> None:
    assert DETECTORS[name].score(np.empty((0, 4)), np.empty(0, np.int64)).shape == (0,)


@every
def test_what_lies_farther_out_is_more_suspicious(name: DetectorName) -> None:
    features = np.array([[-1.0], [0], [1], [2], [9]])
    scores = DETECTORS[name].score(features, np.zeros(5, np.int64))
    assert scores.argmax() == 4


def test_features_may_be_wider_than_the_set() -> None:
    features = np.random.default_rng(0).standard_normal((6, 50_000))
    top = np.linalg.svd(features - features.mean(0), full_matrices=False)[2][0]
    np.testing.assert_allclose(spectral_signatures(features, np.zeros(6, np.int64)), ((features - features.mean(0)) @ top) ** 2, rtol=1e-6)
