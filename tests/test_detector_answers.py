"""Each detector's answers: worked out by hand, by the paper's formula written out, or by scikit-learn and SciPy."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import expm
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score, silhouette_score
from sklearn.neighbors import NearestNeighbors
from torch import nn

from wellcheck.detectors.agpd import agpd
from wellcheck.detectors.beatrix import ORDERS, beatrix
from wellcheck.detectors.case import Case
from wellcheck.detectors.centroid import centroid_distance, centroid_tsne
from wellcheck.detectors.clustering import activation_clustering, clusters
from wellcheck.detectors.directions import Axes, principal
from wellcheck.detectors.knn import knn_disagreement, neighbour_votes
from wellcheck.detectors.loss_ranking import loss_ranking
from wellcheck.detectors.mixture import find_groups
from wellcheck.detectors.scan import common_variation, identities, label_anomaly, scan
from wellcheck.detectors.spectral import spectral_signatures
from wellcheck.detectors.spectre import quantum_entropy, robust_whitening, spectre
from wellcheck.detectors.strip import strip
from wellcheck.detectors.two_means import margins, silhouette, two_means
from wellcheck.errors import InputError
from wellcheck.models import Classifier, ModelDescription, build

pytestmark = pytest.mark.usefixtures("one_thread")


def of(features: np.ndarray, labels: np.ndarray, **parts: Any) -> Case:
    """A case whose layers are all these features."""
    layers = {"pixels": features, "feature_map": features, "penultimate": features}
    return Case(labels=labels, classes=max(int(labels.max(initial=0)) + 1, 2), layers=layers, **parts)


# directions


@given(count=st.integers(2, 30), width=st.integers(1, 40), seed=st.integers(0, 1000))
def test_principal_directions_are_those_of_scikit_learn(count: int, width: int, seed: int) -> None:
    features = np.random.default_rng(seed).standard_normal((count, width)) * np.linspace(3, 1, width) + 7
    found = principal(features, np.arange(count), count=3, seed=0)
    wanted = PCA(min(3, count, width)).fit(features)
    np.testing.assert_allclose(found.mean, wanted.mean_)
    kept = len(found.variances)
    assert kept == min(3, count - 1, width)
    np.testing.assert_allclose(found.variances * count / (count - 1), wanted.explained_variance_[:kept], rtol=1e-6)
    np.testing.assert_allclose(np.abs((found.directions.T * wanted.components_[:kept]).sum(1)), 1, rtol=1e-5)
    np.testing.assert_allclose(found.places, (features - found.mean) @ found.directions, atol=1e-9)


@pytest.mark.parametrize("kind", [np.float64, np.float16])
def test_many_rows_and_columns_give_the_same_directions(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    features = (np.random.default_rng(0).standard_normal((200, 90)) * np.append([9, 7, 5], np.ones(87))).astype(kind)
    read_once = principal(features, np.arange(200), count=3, seed=0)
    monkeypatch.setattr("wellcheck.detectors.directions.CHUNK_VALUES", 90 * 70)
    in_pieces = principal(features, np.arange(200), count=3, seed=0)
    monkeypatch.setattr("wellcheck.detectors.directions.FEW", 10)
    exact = principal(features, np.arange(200), count=3, seed=0)
    for one in (read_once, in_pieces):
        for name, wanted in vars(exact).items():
            np.testing.assert_allclose(getattr(one, name), wanted, rtol=1e-4, atol=1e-3, err_msg=name)


@pytest.mark.parametrize("count", [1, 10])
@pytest.mark.parametrize("kept", [2**22, 400 * 120])
def test_directions_of_very_many_rows_hold_as_much_variance_as_any(count: int, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # Most passes read a quarter of the rows only. A fiftieth of the rows varies in a direction of its own.
    generator = np.random.default_rng(0)
    features = generator.standard_normal((3000, 120)) / np.arange(1, 121)
    features[:60, 50] += generator.choice([-4, 4], 60)
    features = (features + 5).astype(np.float16)
    monkeypatch.setattr("wellcheck.detectors.directions.CHUNK_VALUES", kept)
    found = principal(features, np.arange(3000), count=count, seed=0)
    exact = PCA(count, svd_solver="full").fit(features.astype(np.float64))
    np.testing.assert_allclose(found.variances * 3000 / 2999, exact.explained_variance_, rtol=2e-3)
    assert (np.linalg.svd(exact.components_ @ found.directions)[1] > 0.99).all()


@pytest.mark.parametrize("few", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("seed", range(4))
def test_a_direction_may_hang_on_a_few_of_very_many_rows(few: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    features = np.maximum(generator.standard_normal((2000, 200)), 0) * (np.arange(200) < 100)
    rows = generator.permutation(2000)[:few]
    features[rows, 150] = np.sqrt(4 * features.var(0).max() * 2000 / few)
    found = principal(features.astype(np.float16), np.arange(2000), count=1, seed=seed)
    assert abs(found.directions[150, 0]) > 0.9


def test_the_order_of_very_many_rows_plays_no_part() -> None:
    generator = np.random.default_rng(0)
    features = (generator.standard_normal((3000, 120)) / np.arange(1, 121)).astype(np.float16)
    order = generator.permutation(3000)
    one, other = (principal(values, np.arange(3000), count=10, seed=0) for values in (features, features[order]))
    np.testing.assert_allclose(one.variances, other.variances, rtol=1e-4)
    np.testing.assert_allclose(one.places[order], other.places, atol=5e-3)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("value", [0.1, 1e3])
def test_constant_rows_have_no_direction(kind: type, value: float) -> None:
    for shape in ((30, 100), (300, 7), (700, 90)):
        assert principal(np.full(shape, value, kind), np.arange(shape[0]), count=1, seed=0).places.shape[1] == 0


@pytest.mark.parametrize("kind", [">f2", ">f4", ">f8"])
def test_bytes_may_come_in_another_order(kind: str) -> None:
    features = np.random.default_rng(0).standard_normal((50, 8)).astype(kind)
    native = features.astype(features.dtype.newbyteorder("="))
    one, other = (principal(values, np.arange(50), count=3, seed=0) for values in (features, native))
    np.testing.assert_allclose(one.places, other.places, atol=1e-4)


# centroid


def test_centroid_distance_by_hand() -> None:
    features = np.array([[0.0, 0], [0, 0], [3, 0], [5, 5], [0, 2], [0, 4]])
    labels = np.array([0, 0, 0, 7, 2, 2])
    # Label 0: centroid (1, 0), squared distances 1, 1, 4, their mean 2. Label 7: alone. Label 2: 1 and 1.
    np.testing.assert_array_equal(centroid_distance(features, labels), [0.5, 0.5, 2.0, np.nan, 1.0, 1.0])


def test_rounding_is_no_spread() -> None:
    assert centroid_distance(np.full((3, 2), 0.1), np.zeros(3, np.int64)).tolist() == [0, 0, 0]


def test_what_is_not_on_the_map_has_no_score() -> None:
    case = Case(labels=np.array([0, 0, 1, 0]), classes=2, map_rows=np.array([3, 0]), map_places=np.array([[0.0, 0], [2, 0]]))
    np.testing.assert_array_equal(centroid_tsne(case), [1, np.nan, np.nan, 1])


@given(count=st.integers(1, 30), width=st.integers(1, 10), seed=st.integers(0, 1000))
def test_centroid_distance_has_mean_one_in_every_label(count: int, width: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    features, labels = generator.standard_normal((count, width)), generator.integers(0, 3, count)
    scores = centroid_distance(features, labels)
    for label, members in zip(*np.unique(labels, return_counts=True), strict=True):
        inside = scores[labels == label]
        assert inside.mean() == pytest.approx(1) if members > 1 else np.isnan(inside).all()


# spectral


def test_spectral_signatures_by_hand() -> None:
    features = np.array([[0.0, 0], [0, 0], [3, 4], [5, 5], [0, 2], [0, 4]])
    labels = np.array([0, 0, 0, 7, 2, 2])
    # Label 0 lies on the direction (3, 4)/5, at 0, 0 and 5: centred −5/3, −5/3, 10/3.
    np.testing.assert_allclose(spectral_signatures(of(features, labels)), [25 / 9, 25 / 9, 100 / 9, np.nan, 1, 1], atol=1e-12)


def test_spectral_signatures_see_the_top_direction_alone() -> None:
    # Spread 2 along the first axis, spread 1 along the second: only the first counts.
    features = np.array([[2.0, 0], [-2, 0], [0, 1], [0, -1]])
    np.testing.assert_allclose(spectral_signatures(of(features, np.zeros(4, np.int64))), [4, 4, 0, 0], atol=1e-12)


@given(count=st.integers(2, 30), width=st.integers(1, 40), labels=st.integers(1, 3), seed=st.integers(0, 1000))
def test_spectral_signatures_are_the_papers_projection(count: int, width: int, labels: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    features, label = generator.standard_normal((count, width)) * generator.uniform(0.5, 3, width), generator.integers(0, labels, count)
    found = spectral_signatures(of(features, label))
    for one in np.unique(label):
        if (label == one).sum() > 1:
            centred = features[label == one] - features[label == one].mean(0)
            top = np.linalg.svd(centred, full_matrices=False)[2][0]
            np.testing.assert_allclose(found[label == one], (centred @ top) ** 2, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("labels", [[2, 0, 5], [0], [1, 1]])
def test_a_labels_directions_are_found_once_for_all_detectors(labels: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def counted(layer: np.ndarray, rows: np.ndarray, **how: Any) -> Axes:
        asked.append(len(rows))
        return principal(layer, rows, **how)

    monkeypatch.setattr("wellcheck.detectors.case.principal", counted)
    of_each = [10 * (1 + place) for place in range(len(labels))]
    label = np.repeat(np.array(labels, np.int64), of_each)
    features = np.random.default_rng(0).standard_normal((len(label), 7))
    detectors = (spectral_signatures, activation_clustering, spectral_signatures)
    alone = [detector(of(features, label)) for detector in detectors]
    asked.clear()
    together = of(features, label)
    for detector, wanted in zip(detectors, alone, strict=True):
        np.testing.assert_array_equal(detector(together), wanted)
    assert asked == sorted((int((label == one).sum()) for one in set(labels)), reverse=True)  # the largest is begun first


def test_labels_come_in_their_order_whatever_their_size() -> None:
    labels = np.array([3] * 2 + [0] * 5 + [9] * 5 + [4])
    found = of(np.zeros((len(labels), 1)), labels).by_label(lambda label, rows: (label, rows.tolist()), at_least=2)
    assert found == [(0, [2, 3, 4, 5, 6]), (3, [0, 1]), (9, [7, 8, 9, 10, 11])]


def test_features_may_be_wider_than_the_set() -> None:
    features = np.random.default_rng(0).standard_normal((6, 50_000))
    top = np.linalg.svd(features - features.mean(0), full_matrices=False)[2][0]
    wanted = ((features - features.mean(0)) @ top) ** 2
    np.testing.assert_allclose(spectral_signatures(of(features, np.zeros(6, np.int64))), wanted, rtol=1e-6)


# neighbours


def test_neighbours_by_hand() -> None:
    # Twelve samples of label 0 on the left, twelve of label 1 on the right, and one of label 0 among these.
    places = np.concatenate([np.arange(12.0), 100 + np.arange(12.0), [105.5]])[:, None]
    labels = np.array([0] * 12 + [1] * 12 + [0])
    share, votes = neighbour_votes(of(places, labels))
    assert share[24] == 1 and votes[24].tolist() == [0, 10]
    assert not share[:12].any() and (votes[:12] == [10, 0]).all()
    assert share[17] == pytest.approx(0.1) and votes[17].tolist() == [1, 9]
    assert knn_disagreement(of(places, labels)).tolist() == share.tolist()


@given(count=st.integers(40, 120), width=st.integers(1, 70), seed=st.integers(0, 100))
def test_neighbours_are_those_of_scikit_learn(count: int, width: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    features, labels = generator.standard_normal((count, width)), generator.integers(0, 3, count)
    places = PCA(min(60, count, width)).fit_transform(features) if width > 60 else features
    nearest = NearestNeighbors(n_neighbors=10).fit(places).kneighbors(return_distance=False)
    wanted = (labels[nearest] != labels[:, None]).mean(1)
    few = np.bincount(labels, minlength=3)[labels] <= 10
    np.testing.assert_allclose(knn_disagreement(of(features, labels)), np.where(few, np.nan, wanted), atol=1e-6)


def test_references_are_drawn_by_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wellcheck.detectors.knn.REFERENCES", 50)
    generator = np.random.default_rng(0)
    labels = np.arange(400) % 2
    features = generator.standard_normal((400, 5)) + 9 * labels[:, None]
    labels[:20] = 1 - labels[:20]
    first, again, other = (knn_disagreement(of(features, labels, seed=seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first[:20].min() > 0.5 > first[20:].max()


# two means


@given(count=st.integers(12, 60), width=st.integers(1, 10), seed=st.integers(0, 1000))
def test_two_means_are_as_good_as_scikit_learns(count: int, width: int, seed: int) -> None:
    points = np.random.default_rng(seed).standard_normal((count, width))
    before = points.copy()
    smaller = two_means(points, seed=0)
    np.testing.assert_array_equal(two_means(np.asfortranarray(points), seed=0), smaller)
    np.testing.assert_array_equal(points, before)
    inertia = sum(((points[side] - points[side].mean(0)) ** 2).sum() for side in (smaller, ~smaller))
    assert 0 < smaller.sum() <= count / 2
    assert inertia <= 1.05 * KMeans(2, n_init=10, random_state=0).fit(points).inertia_
    assert silhouette(points, smaller, seed=0) == pytest.approx(silhouette_score(points, smaller), abs=1e-9)
    places = margins(points, smaller)
    assert places[smaller].mean() == pytest.approx(1) and places[~smaller].mean() == pytest.approx(-1)


def test_a_silhouette_of_many_points_is_taken_from_some() -> None:
    generator = np.random.default_rng(0)
    points = generator.standard_normal((5000, 3)) + 2 * (np.arange(5000) < 1000)[:, None]
    smaller = np.arange(5000) < 1000
    assert silhouette(points, smaller, seed=0) == pytest.approx(silhouette_score(points, smaller), abs=0.02)


# activation clustering


def test_activation_clustering_by_hand() -> None:
    places = np.array([0.0] * 8 + [10.0] * 3 + [0.0] * 6 + [10.0] * 5)[:, None]
    labels = np.array([0] * 11 + [1] * 11)
    # Label 0: 3 of 11 apart. Label 1: 5 of 11, too many.
    assert activation_clustering(of(places, labels)).tolist() == [-1] * 8 + [1] * 3 + [0] * 11
    first, second = clusters(of(places, labels))
    assert first.suspects.tolist() == [8, 9, 10] and first.share == pytest.approx(3 / 11) and first.silhouette == 1
    assert second.label == 1 and second.share == pytest.approx(5 / 11) and second.suspects.tolist() == list(range(17, 22))
    assert first.suspicious and not second.suspicious and second.silhouette is None


def test_clusters_are_those_of_the_papers_recipe() -> None:
    generator = np.random.default_rng(0)
    features = generator.standard_normal((300, 40)) + 3 * (np.arange(300) < 40)[:, None]
    (found,) = clusters(of(features, np.zeros(300, np.int64)))
    sides = KMeans(2, n_init=10, random_state=0).fit_predict(PCA(10).fit_transform(features)).astype(bool)
    assert (found.smaller == (sides if sides.sum() < 150 else ~sides)).all()
    assert found.suspicious and found.suspects.tolist() == list(range(40))


def test_a_round_cloud_is_not_suspicious() -> None:
    features = np.random.default_rng(0).standard_normal((2000, 40))
    (found,) = clusters(of(features, np.zeros(2000, np.int64)))
    assert not found.suspicious and not activation_clustering(of(features, np.zeros(2000, np.int64))).any()


# SPECTRE


def test_quantum_entropy_is_the_papers_formula() -> None:
    generator = np.random.default_rng(0)
    places = generator.standard_normal((300, 4)) * [3, 1, 1, 0.5]
    places[:30] += [0, 6, 0, 0]
    mean, whitening = robust_whitening(places)
    white = (places - mean) @ whitening
    covariance = np.cov(white.T, bias=True)
    density = expm(4 * (covariance - np.eye(4)) / (np.linalg.norm(covariance, 2) - 1))
    wanted = np.einsum("ni,ij,nj->n", white, density, white) / np.trace(density)
    np.testing.assert_allclose(quantum_entropy(places, places), wanted, rtol=1e-8)


def test_the_filter_forgets_the_poison() -> None:
    generator = np.random.default_rng(0)
    clean = generator.standard_normal((2000, 6)) @ generator.standard_normal((6, 6)) + 4
    points = np.concatenate([clean, clean[:200] + 30 * generator.standard_normal(6)])
    mean, whitening = robust_whitening(points)
    true = np.cov(((clean - mean) @ whitening).T)
    assert np.abs(np.linalg.eigvalsh(true) - 1).max() < 0.35  # with the poison in it the least is far below
    naive = np.linalg.cholesky(np.linalg.inv(np.cov(points.T)))
    assert np.linalg.eigvalsh(np.cov((clean @ naive).T)).min() < 0.3


def test_spectre_finds_what_hides_under_natural_variation() -> None:
    generator = np.random.default_rng(0)
    features = generator.standard_normal((1000, 30)) * np.append([20, 15, 10], np.ones(27))
    poisoned = np.arange(1000) < 60
    features[poisoned, 10] += 8
    labels = np.zeros(1000, np.int64)
    assert roc_auc_score(poisoned, spectral_signatures(of(features, labels))) < 0.65
    assert roc_auc_score(poisoned, spectre(of(features, labels))) > 0.98


def test_a_clean_label_has_quantum_entropy_near_one() -> None:
    features = np.random.default_rng(0).standard_normal((4000, 20)) * np.linspace(5, 1, 20)
    assert spectre(of(features, np.zeros(4000, np.int64))).mean() == pytest.approx(1, abs=0.1)


# SCAn


def test_the_anomaly_of_labels_by_hand() -> None:
    # Median 3, absolute deviations 2, 1, 0, 1, 97: their median is 1.
    np.testing.assert_allclose(label_anomaly(np.array([1.0, 2, 3, 4, 100])), np.array([-2, -1, 0, 1, 97]) / 1.4826)
    assert label_anomaly(np.array([1.0, 50.0])).tolist() == [1, 1]
    assert label_anomaly(np.zeros(5)).tolist() == [0] * 5


def test_the_common_variation_is_learnt() -> None:
    generator = np.random.default_rng(0)
    truth = np.diag([4.0, 1, 0.25])
    identity = 3 * generator.standard_normal((60, 3))
    labels = np.repeat(np.arange(60), 200)
    features = identity[labels] + generator.multivariate_normal(np.zeros(3), truth, len(labels))
    found = common_variation(features, [np.flatnonzero(labels == label) for label in range(60)])
    # A hundredth of it is a sphere of the same trace.
    np.testing.assert_allclose(found, 0.99 * truth + 0.01 * np.eye(3) * 5.25 / 3, atol=0.15)


def infected(share: float) -> tuple[Case, np.ndarray]:
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(6), 200)
    features = generator.standard_normal((1200, 8)) * np.linspace(4, 1, 8) + 10 * np.eye(6, 8)[labels]
    poisoned = (labels == 2) & (np.arange(1200) % 200 < 200 * share)
    features[poisoned, 7] += 7
    return of(features, labels), poisoned


def test_an_infected_label_stands_out() -> None:
    case, poisoned = infected(0.2)
    found = identities(case)
    anomaly = label_anomaly(np.array([one.likelihood_ratio for one in found]))
    assert anomaly.argmax() == 2 and anomaly[2] > np.exp(2)
    assert (found[2].rows[found[2].foreign] == np.flatnonzero(poisoned)).all()
    scores = scan(case)
    assert scores[poisoned].min() > scores[~poisoned].max()


def test_trusted_samples_tell_which_side_is_foreign() -> None:
    case, poisoned = infected(0.7)
    rows = np.flatnonzero(~poisoned & (np.arange(1200) % 4 == 0))
    trusted = of(case.layers["penultimate"][rows], case.labels[rows])
    alone, told = identities(case)[2], identities(Case(case.labels, 6, case.layers, trusted=trusted))[2]
    assert (alone.foreign == ~poisoned[case.labels == 2]).mean() > 0.95  # without them the smaller side is taken
    assert (told.foreign == poisoned[case.labels == 2]).mean() > 0.95
    narrow = of(np.zeros((6, 3)), np.arange(6))
    with pytest.raises(InputError, match="trusted samples have 3 values in 'penultimate', the others 8"):
        scan(Case(case.labels, 6, case.layers, trusted=narrow))


# what is learnt first


def test_loss_ranking_by_hand() -> None:
    labels = np.array([0] * 5 + [1] * 4 + [2] * 3)
    logs = np.array([0, 1, 2, 3, -10, 7, 7, 7, 7, 1, 2, 3.0])
    # Means over two epochs. Label 0: median of the logs 1, deviations 1, 0, 1, 2, 11, their median 1. Label 1: alike. Label 2: too few.
    losses = np.stack([1.5 * np.exp(logs), 0.5 * np.exp(logs)])
    wanted = [*(np.array([1, 0, -1, -2, 11]) / 1.4826), 0, 0, 0, 0, np.nan, np.nan, np.nan]
    np.testing.assert_allclose(loss_ranking(Case(labels, 3, early_losses=losses)), wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("losses", "told"),
    [
        (None, "set train.early_epochs"),
        (np.zeros((0, 4), np.float16), "set train.early_epochs"),
        (np.zeros((2, 5), np.float16), "early losses of 5 samples, but the set has 4"),
        (np.full((2, 4), np.nan, np.float16), "early losses: 4 samples have one that is not finite"),
    ],
)
def test_losses_that_are_no_use_are_named(losses: np.ndarray | None, told: str) -> None:
    with pytest.raises(InputError, match=told):
        loss_ranking(Case(np.zeros(4, np.int64), 2, early_losses=losses))


# those that ask the model


class Corners(Classifier):
    """Two logits by hand: ten times the brightness of the upper left pixel against that of the lower right one."""

    def __init__(self) -> None:
        nn.Module.__init__(self)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pixels = images.float() / (255 if images.dtype == torch.uint8 else 1)
        return 10 * torch.stack([pixels[:, 0, 0, 0], pixels[:, 0, -1, -1]], 1)


def test_strip_by_hand() -> None:
    images = np.zeros((2, 1, 2, 2), np.uint8)
    images[0, 0, 0, 0] = 255  # holds on to its label whatever is laid over the rest
    trusted = np.zeros((2, 1, 2, 2), np.uint8)
    trusted[0, 0, 0, 0] = trusted[1, 0, 1, 1] = 255
    case = Case(np.zeros(2, np.int64), 2, images=images, classifier=Corners())
    found = strip(
        Case(case.labels, 2, images=images, classifier=Corners(), trusted=Case(case.labels, 2, images=trusted, classifier=Corners()))
    )
    share = 1 / (1 + np.exp(-10.0))
    sure = -(share * np.log(share) + (1 - share) * np.log(1 - share))
    # Sample 0: logits (10, 0) as white cannot get whiter, and (10, 10). Sample 1: (10, 0) and (0, 10).
    np.testing.assert_allclose(found, [-(sure + np.log(2)) / 2, -sure], rtol=1e-4)
    with pytest.raises(InputError, match="needs trusted images"):
        strip(
            Case(
                case.labels,
                2,
                images=images,
                classifier=Corners(),
                trusted=Case(case.labels[:0], 2, images=trusted[:0], classifier=Corners()),
            )
        )


@pytest.fixture
def seen() -> Case:
    """Forty random images in two labels, twelve of them vouched for, and an untrained network."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (52, 1, 20, 20), np.uint8)
    labels = np.arange(52) % 2
    classifier = build(ModelDescription("two_conv_cnn", ("a", "b"), (1, 20, 20)), seed=0).eval()
    trusted = Case(labels[40:], 2, images=images[40:], classifier=classifier)
    return Case(labels[:40], 2, images=images[:40], classifier=classifier, trusted=trusted)


def gradients(case: Case) -> np.ndarray:
    """Each sample's own, one at a time, from the weights: the head's row through the mask of the last ReLU."""
    classifier, images = case.model()
    directions = []
    body: Any = classifier.network.body
    head: Any = classifier.network.head
    for image, label in zip(images, case.labels, strict=True):
        flat = body[:7](torch.from_numpy(image[None]).float() / 255)
        mask = (body[7](flat) > 0).float()
        gradient = ((head.weight[label] * mask) @ body[7].weight).view(32, 2, 2).mean((1, 2))
        directions.append((gradient / gradient.norm()).detach().numpy())
    return np.stack(directions).astype(np.float64)


def test_agpd_is_the_papers_formula(seen: Case) -> None:
    assert seen.trusted is not None
    own, vouched = gradients(seen), gradients(seen.trusted)
    wanted = np.empty(40)
    for label in (0, 1):
        mine = seen.labels == label
        anchor = vouched[seen.trusted.labels == label].sum(0)
        near = own[mine] @ anchor / np.linalg.norm(anchor)
        far = own[mine] @ own[mine][near.argmin()]
        wanted[mine] = (1 - near) / (1 - near + 1 - far)
    np.testing.assert_allclose(agpd(seen), wanted, rtol=1e-3)


def test_agpd_asks_a_frozen_model_too(seen: Case) -> None:
    assert seen.classifier is not None
    before = agpd(seen)
    seen.classifier.requires_grad_(False)
    np.testing.assert_array_equal(agpd(seen), before)


def grams(case: Case) -> np.ndarray:
    """Gram features, one image and one pair of channels at a time."""
    classifier, images = case.model()
    rows = []
    for image in images:
        maps = classifier.activations(torch.from_numpy(image[None])).feature_map[0].flatten(1).detach().numpy().astype(np.float64)
        row = []
        for order in ORDERS:
            for one in range(len(maps)):
                for two in range(one, len(maps)):
                    product = float((maps[one] ** order * maps[two] ** order).sum())
                    row.append(np.sign(product) * abs(product) ** (1 / order))
        rows.append(row)
    return np.array(rows)


def test_beatrix_is_the_papers_formula(seen: Case) -> None:
    assert seen.trusted is not None
    some = Case(
        seen.labels[:6], 2, images=None if seen.images is None else seen.images[:6], classifier=seen.classifier, trusted=seen.trusted
    )
    usual, mine = grams(seen.trusted), grams(some)
    wanted = np.empty(6)
    for row, label in enumerate(some.labels):
        known = usual[seen.trusted.labels == label]
        middle = np.sort(known, 0)[(len(known) - 1) // 2]
        deviation = np.sort(np.abs(known - middle), 0)[(len(known) - 1) // 2]
        low, high, typical = middle - 10 * deviation, middle + 10 * deviation, np.abs(known).mean()
        over = np.maximum(mine[row] - high, 0) / (np.abs(high) + typical) + np.maximum(low - mine[row], 0) / (np.abs(low) + typical)
        wanted[row] = over.mean()
    np.testing.assert_allclose(beatrix(some), wanted, rtol=1e-3, atol=1e-6)


def test_beatrix_leaves_out_a_label_nobody_vouches_for(seen: Case) -> None:
    assert seen.trusted is not None and seen.trusted.images is not None
    mine = seen.trusted.labels == 0
    only = Case(seen.trusted.labels[mine], 2, images=seen.trusted.images[mine], classifier=seen.classifier)
    for detector in (beatrix, agpd):
        scores = detector(Case(seen.labels, 2, images=seen.images, classifier=seen.classifier, trusted=only))
        assert np.isfinite(scores[seen.labels == 0]).all() and np.isnan(scores[seen.labels == 1]).all()


# mixture


@pytest.mark.parametrize("seed", range(4))
def test_poison_may_be_half_of_its_label_and_show_many_things(seed: int) -> None:
    """Nine kinds on either side of a gap: the group that explains most is the half, and not some of its kinds."""
    rng, count, width, kinds = np.random.default_rng(seed), 800, 30, 9
    poisoned = np.arange(count) % 2 == 0
    kind = rng.integers(0, kinds, count) + kinds * poisoned
    middles = 0.8 * rng.standard_normal((2 * kinds, width))
    middles[:, 0] = 0.4 * rng.standard_normal(2 * kinds) + np.repeat([-2.5, 2.5], kinds)
    values = (middles[kind] + 0.2 * rng.standard_normal((count, width))).astype(np.float32)
    case = Case(labels=np.zeros(count, np.int64), classes=1)
    ((_, groups),) = find_groups(case, "penultimate", values - values.mean(0), np.zeros(count), most=3)
    best = np.isin(np.arange(count), max(groups, key=lambda one: one.gain).suspects)
    assert np.array_equal(best, poisoned) or np.array_equal(best, ~poisoned)
