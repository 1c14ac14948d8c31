"""The map keeps what it should keep, says what it cannot do, and is the same every time."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from wellcheck import projections
from wellcheck.errors import InputError
from wellcheck.projections import neighbourhood_preservation, tsne

BLOBS = np.repeat(np.arange(3), 40)
THREADS = projections.THREADS


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Maps of so few points that threads would only wait for each other, and for the other tests."""
    monkeypatch.setattr(projections, "THREADS", 1)


def blobs(seed: int = 0, apart: float = 50.0) -> np.ndarray:
    """Three Gaussian clusters of 40 points in 20 dimensions."""
    generator = np.random.default_rng(seed)
    return np.asarray(apart * np.eye(3, 20)[BLOBS] + generator.standard_normal((120, 20)))


def project(features: np.ndarray, **changes: float | int | None) -> np.ndarray:
    settings = {"perplexity": 10, "components": None, "iterations": 150, "seed": 0}
    return tsne(features, **(settings | changes))  # type: ignore[arg-type]


def same_blob_share(projection: np.ndarray) -> float:
    distances = np.linalg.norm(projection[:, None] - projection[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    return float((BLOBS[distances.argsort(axis=1)[:, :10]] == BLOBS[:, None]).mean())


def test_separate_blobs_stay_separate() -> None:
    projection = project(blobs())
    assert projection.shape == (120, 2)
    assert projection.dtype == np.float32
    assert same_blob_share(projection) == 1


def test_blobs_that_are_one_do_not_come_apart() -> None:
    assert same_blob_share(project(blobs(apart=0))) < 0.5


def test_neighbours_are_kept_far_better_than_by_the_first_two_principal_components() -> None:
    features = np.random.default_rng(0).standard_normal((400, 5))
    centred = features - features.mean(axis=0)
    linear = centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T
    kept = neighbourhood_preservation(features, project(features), neighbours=10)
    assert kept > 1.5 * neighbourhood_preservation(features, linear, neighbours=10)


@pytest.mark.parametrize("kind", [np.uint8, np.float16, np.float32, np.float64, np.int64])
def test_any_number_type_gives_a_map(kind: type) -> None:
    features: np.ndarray = (blobs() * 2 + 120).clip(0, 255).astype(kind)
    projection = project(features)
    assert projection.dtype == np.float32
    assert same_blob_share(projection) == 1


def test_the_input_is_left_alone() -> None:
    features = blobs()
    project(features)
    assert np.array_equal(features, blobs())


def test_the_same_seed_gives_the_same_bytes_in_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projections, "THREADS", THREADS)
    code = (
        "import hashlib, numpy as np; from wellcheck.projections import tsne;"
        "features = np.random.default_rng(0).standard_normal((700, 64)).astype(np.float32);"
        "print(hashlib.sha256(tsne(features, perplexity=15, components=20, iterations=20, seed=3).tobytes()).hexdigest())"
    )
    features = np.random.default_rng(0).standard_normal((700, 64)).astype(np.float32)
    here = hashlib.sha256(tsne(features, perplexity=15, components=20, iterations=20, seed=3).tobytes()).hexdigest()
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert here == there


def test_another_seed_gives_another_map() -> None:
    assert not np.array_equal(project(blobs(), seed=0), project(blobs(), seed=1))


def test_scale_and_offset_change_nothing_that_matters() -> None:
    assert same_blob_share(project(blobs() * 1e-30)) == 1
    assert same_blob_share(project(blobs() * 1e300)) == 1
    assert same_blob_share(project(blobs() + 1e6)) == 1


def test_tight_clusters_far_apart_keep_their_inner_order() -> None:
    """Norms of 1 and inner distances of 1e-4: float32 norms cancel, differences do not."""
    features = blobs(apart=1e4).astype(np.float64)
    generator = np.random.default_rng(1)
    features = np.concatenate([features, 1e4 + generator.standard_normal((40, 20))])
    wanted = np.linalg.norm(features[:, None] - features[None], axis=2)
    np.fill_diagonal(wanted, np.inf)
    found, _ = projections._nearest(projections._standardised(features), 30)
    assert np.mean([len(set(one) & set(row.argsort()[:30])) for one, row in zip(found, wanted, strict=True)]) > 29


def test_components_forget_the_weak_directions() -> None:
    """Blobs along two strong axes, noise along the others: two components find the blobs that all 60 dimensions bury."""
    generator = np.random.default_rng(0)
    strong = 50 * np.array([[0, 0], [1, 0], [0, 1]])[BLOBS] + generator.standard_normal((120, 2))
    features = np.concatenate([strong, 12 * generator.standard_normal((120, 58))], axis=1)
    assert same_blob_share(project(features, components=2)) > same_blob_share(project(features))


@pytest.mark.parametrize("points", [4, 10, 46])
def test_fewer_points_than_the_perplexity_needs_lower_it(points: int) -> None:
    features = np.random.default_rng(0).standard_normal((points, 6))
    lowered = (points - 1) / projections.NEIGHBOURS_PER_PERPLEXITY
    projection = project(features, perplexity=40)
    assert np.isfinite(projection).all()
    assert np.array_equal(projection, project(features, perplexity=lowered))


def test_one_feature_is_enough() -> None:
    features = np.random.default_rng(0).standard_normal((60, 1))
    assert neighbourhood_preservation(features, project(features), neighbours=5) > 0.5


def test_identical_points_lie_at_the_origin() -> None:
    assert not project(np.full((50, 8), 0.1)).any()


def test_many_duplicates_and_an_outlier_give_finite_numbers() -> None:
    features = np.zeros((80, 4))
    features[-1] = 1e6
    assert np.isfinite(project(features)).all()


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_named(broken: float) -> None:
    features = blobs()
    features[17, 3] = broken
    with pytest.raises(InputError, match="row 17 holds NaN or infinity"):
        project(features)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.zeros((3, 2)), "found 3 points, expected at least 4"),
        (np.zeros((0, 2)), "found 0 points"),
        (np.zeros(9), r"float64 \[9\]"),
        (np.zeros((9, 0)), r"float64 \[9, 0\]"),
        (np.zeros((9, 2), complex), "complex128"),
        (np.array([["a"]] * 9), "expected numbers"),
    ],
)
def test_what_is_no_table_of_numbers_is_refused(features: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        project(features)


def test_a_perplexity_of_one_is_refused() -> None:
    with pytest.raises(InputError, match="perplexity: found 1"):
        project(blobs(), perplexity=1)


POSITIONS = (12 * np.random.default_rng(0).standard_normal((300, 2))).astype(np.float32)
DIFFERENCES = POSITIONS[:, None].astype(np.float64) - POSITIONS[None]
KERNEL = 1 / (1 + (DIFFERENCES**2).sum(axis=2))


def test_the_identity_keeps_every_neighbour() -> None:
    points = np.random.default_rng(0).standard_normal((300, 2))
    assert neighbourhood_preservation(points, points, neighbours=10) == 1
    assert neighbourhood_preservation(points, 3 - 7 * points[:, ::-1], neighbours=10) == 1


def test_a_random_map_keeps_what_chance_keeps() -> None:
    generator = np.random.default_rng(0)
    kept = neighbourhood_preservation(generator.standard_normal((600, 30)), generator.standard_normal((600, 2)), neighbours=60)
    # 36,000 draws that hit with probability 60 / 599; five standard deviations, doubled because draws within a point are dependent.
    assert kept == pytest.approx(60 / 599, abs=0.016)


def test_preservation_counts_by_hand() -> None:
    """On a line 0, 1, 3, 7 the nearest are 1, 0, 1, 3; after moving the first point to 6 they are 7, 3, 1, 0's."""
    before = np.array([[0.0], [1.0], [3.0], [7.0]])
    after = np.array([[6.0, 0.0], [1.0, 0.0], [3.0, 0.0], [7.0, 0.0]])
    assert neighbourhood_preservation(before, after, neighbours=1) == 0.25


@pytest.mark.parametrize("neighbours", [0, 20])
def test_too_many_or_no_neighbours_are_refused(neighbours: int) -> None:
    points = np.random.default_rng(0).standard_normal((20, 2))
    with pytest.raises(InputError, match="expected 1 to 19"):
        neighbourhood_preservation(points, points, neighbours=neighbours)


def test_a_map_of_other_points_is_refused() -> None:
    with pytest.raises(InputError, match="found 19 points, expected 20"):
        neighbourhood_preservation(np.zeros((20, 3)), np.zeros((19, 2)), neighbours=3)
