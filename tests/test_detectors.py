"""What every detector does: a table of properties over the registry. Each method's own answers stand in test_detector_answers.py."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from importlib import import_module
from typing import get_args

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from wellcheck import params, training
from wellcheck.detectors import DETECTORS, directions
from wellcheck.detectors.case import Case
from wellcheck.embeddings.capture import capture_all
from wellcheck.errors import InputError
from wellcheck.params import DetectorName, LayerName
from wellcheck.samples import Description, Samples

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
CLASSES, TARGET = 4, 1  # the last class has no samples
BY_FEATURES: list[DetectorName] = [name for name, detector in DETECTORS.items() if not detector.images]
BY_IMAGES: list[DetectorName] = [name for name, detector in DETECTORS.items() if detector.images]
every = pytest.mark.parametrize("name", list(DETECTORS))
by_features = pytest.mark.parametrize("name", BY_FEATURES)
DRAWN: set[DetectorName] = {
    "mixture",
    "trigger_inversion",
}  # start from rows or labels drawn by their place: only alike up to what they find
by_images = pytest.mark.parametrize("name", BY_IMAGES)


@pytest.fixture(autouse=True)
def short_inversion(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked here does not need a good trigger."""
    monkeypatch.setattr("wellcheck.detectors.inversion.STEPS", 10)


def planted(seed: int = 0) -> tuple[Case, np.ndarray]:
    """600 samples of three labels, and which 20 of label 1 are another cluster's in every layer, on the map, and learnt first."""
    generator = np.random.default_rng(seed)
    labels = np.arange(600) % 3
    poisoned = np.zeros(600, bool)
    poisoned[generator.choice(np.flatnonzero(labels == 1), 20, replace=False)] = True
    features = generator.standard_normal((600, 12)) + 5 * np.eye(3, 12)[labels]
    features[poisoned, 7] += 9
    pixels = generator.standard_normal((600, 12)) + 9 * np.eye(3, 12)[np.where(poisoned, 2, labels)]
    losses = np.exp(generator.standard_normal((3, 600)) - 4 * poisoned)
    return of(features, labels, pixels=pixels, early_losses=losses), poisoned


def of(features: np.ndarray, labels: np.ndarray, *, pixels: np.ndarray | None = None, early_losses: np.ndarray | None = None) -> Case:
    """A case whose deeper layers, and the map, are these features."""
    places = np.column_stack([features, features])[:, [-1, min(7, features.shape[1] - 1)]]
    return Case(
        labels=labels,
        classes=CLASSES,
        layers={"pixels": features if pixels is None else pixels, "feature_map": features, "penultimate": features},
        map_rows=np.arange(len(labels)),
        map_places=places,
        early_losses=np.ones((2, len(labels))) if early_losses is None else early_losses,
    )


def pictures(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, 1, 20, 20] with a bar at the height that their label says, and labels that take turns."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int64) % 3
    images = generator.integers(0, 60, (count, 1, 20, 20))
    for row, label in enumerate(labels):
        images[row, 0, 5 * label + 2 : 5 * label + 5, 3:15] += generator.integers(60, 190)
    return images.astype(np.uint8), labels


@cache
def backdoored() -> tuple[Case, np.ndarray]:
    """A network trained on 300 pictures, 30 of which carry a white corner and the label 1; 60 clean ones are vouched for."""
    images, labels = pictures(300, 0)
    poisoned = np.zeros(300, bool)
    poisoned[np.random.default_rng(1).choice(np.flatnonzero(labels != TARGET), 30, replace=False)] = True
    images[poisoned, :, -3:, -3:] = 255
    labels = np.where(poisoned, TARGET, labels)
    known = Samples(np.arange(300), images, labels, Description(tuple("abcd"), "made here"))
    recipe = params.Train.plain(model="two_conv_cnn", epochs=12, batch_size=30, learning_rate=0.002, early_epochs=4, seed=0)
    state = training.begin(known, recipe, CPU)
    losses = []
    for epoch in range(recipe.epochs):
        training.run_epoch(state, *training.to_device(known, CPU), recipe, epoch)
        losses.append(training._losses(state.classifier, *training.to_device(known, CPU), recipe).numpy())
    classifier = state.classifier.eval()
    layers: tuple[LayerName, ...] = get_args(LayerName)

    def seen(some: np.ndarray, received: np.ndarray) -> Case:
        captured = capture_all(classifier, some, layers=layers, device=CPU)
        return Case(labels=received, classes=CLASSES, layers=captured, images=some, classifier=classifier)

    case = seen(images, labels)
    case = replace(case, map_rows=np.arange(0, 300, 2), map_places=case.layers["penultimate"][::2, :2].astype(np.float64))
    return replace(case, early_losses=np.stack(losses[:4]), trusted=seen(*pictures(60, 9))), poisoned


def taken(case: Case, rows: np.ndarray) -> Case:
    """Some samples of a case, all of them on the map."""
    assert case.early_losses is not None and case.images is not None
    places = np.zeros((len(case.labels), 2))
    places[:] = case.layers["penultimate"][:, :2]
    return replace(
        case,
        labels=case.labels[rows],
        layers={layer: values[rows] for layer, values in case.layers.items()},
        map_rows=np.arange(len(rows)),
        map_places=places[rows],
        early_losses=case.early_losses[:, rows],
        images=case.images[rows],
    )


def score(name: DetectorName, case: Case) -> np.ndarray:
    return DETECTORS[name].score(case)


# it finds what is there


@by_features
@pytest.mark.parametrize("seed", range(3))
def test_a_shifted_cluster_gets_the_top_ranks(name: DetectorName, seed: int) -> None:
    case, poisoned = planted(seed)
    scores = score(name, case)
    suspects = np.argsort(np.where(case.labels == 1, scores, -np.inf), kind="stable")[::-1][:20]
    assert poisoned[suspects].sum() >= 18


LEAST_AUROC: dict[DetectorName, float] = {"spectre": 0.9, "scan": 0.95, "agpd": 0.95, "beatrix": 0.95}


@pytest.mark.parametrize("name", list(LEAST_AUROC))
def test_a_real_backdoor_ranks_high_in_its_label(name: DetectorName) -> None:
    case, poisoned = backdoored()
    inside = case.labels == TARGET
    assert roc_auc_score(poisoned[inside], score(name, case)[inside]) > LEAST_AUROC[name]


# what every detector does


@every
def test_scores_are_float64_one_a_sample_and_inputs_stay(name: DetectorName) -> None:
    case, _ = backdoored()
    before = {layer: values.copy() for layer, values in case.layers.items()}, case.labels.copy()
    scores = score(name, case)
    assert scores.dtype == np.float64 and scores.shape == (300,)
    assert not np.isinf(scores).any() and np.isfinite(scores).sum() >= 150
    assert np.array_equal(score(name, case), scores, equal_nan=True)
    assert all((case.layers[layer] == before[0][layer]).all() for layer in before[0]) and (case.labels == before[1]).all()


@pytest.mark.parametrize("name", [name for name in DETECTORS if name not in DRAWN])
def test_the_order_of_samples_plays_no_part(name: DetectorName) -> None:
    case = taken(backdoored()[0], np.arange(300))
    order = np.random.default_rng(1).permutation(300)
    np.testing.assert_allclose(score(name, taken(case, order)), score(name, case)[order], rtol=1e-3, atol=1e-3)


EACH_BY_ITSELF: set[DetectorName] = {"strip", "trigger_inversion"}  # the other samples of the label play no part
FEW_ARE_ENOUGH = EACH_BY_ITSELF | {"centroid_tsne", "centroid_penultimate", "spectral_signatures"}


@every
def test_a_label_of_few_samples_is_left_out_and_harms_no_other(name: DetectorName) -> None:
    case, _ = backdoored()
    for few in (1, 2, 3):
        rows = np.append(np.arange(300), np.arange(few))
        more = taken(case, rows)
        more.labels[300:] = 3
        scores = score(name, more)
        assert not np.isinf(scores).any() and np.isfinite(scores[:300]).all()
        assert np.isnan(scores[300:]).all() or name in FEW_ARE_ENOUGH
        if few == 1:
            assert np.isnan(scores[300:]).all() or name in EACH_BY_ITSELF


@every
def test_one_class_alone(name: DetectorName) -> None:
    case, _ = backdoored()
    alone = taken(case, np.flatnonzero(case.labels == TARGET))
    scores = score(name, alone)
    assert np.isfinite(scores).all()
    # A label by itself still has an order: nothing that compares labels may wipe it out.
    if name not in {"knn_disagreement", "activation_clustering", "mixture", "trigger_inversion"}:
        assert np.ptp(scores) > 0


@pytest.mark.parametrize("name", [name for name in DETECTORS if name != "trigger_inversion"])  # which draws images
def test_no_samples_no_scores(name: DetectorName) -> None:
    assert score(name, taken(backdoored()[0], np.empty(0, np.int64))).shape == (0,)


@every
def test_it_reads_what_it_declares(name: DetectorName) -> None:
    case, _ = backdoored()
    declared = DETECTORS[name]
    bare = replace(case, layers={layer: case.layers[layer] for layer in declared.layers})
    if not declared.images:
        bare = replace(bare, images=None, classifier=None)
    if not declared.trusted:
        bare = replace(bare, trusted=None)
    score(name, bare)
    read: set[str] = set()

    class Watched(Mapping[str, np.ndarray]):
        def __getitem__(self, layer: str) -> np.ndarray:
            read.add(layer)
            return bare.layers[layer]

        def __iter__(self) -> Iterator[str]:
            return iter(bare.layers)

        def __len__(self) -> int:
            return len(bare.layers)

    score(name, replace(bare, layers=Watched()))
    assert read == set(declared.layers) or name == "centroid_tsne"  # which reads the map of a layer
    assert declared.name == name and declared.source


@every
def test_what_is_missing_is_named(name: DetectorName) -> None:
    with pytest.raises(InputError, match=r"map|embed\.layers|early_epochs|was given none|detect\.trusted"):
        score(name, Case(labels=np.arange(40) % 2, classes=2))


@by_images
def test_nobody_vouches(name: DetectorName) -> None:
    if DETECTORS[name].trusted:
        with pytest.raises(InputError, match=r"vouches for: set detect\.trusted: valid"):
            score(name, replace(backdoored()[0], trusted=None))


@every
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_a_number_is_named_and_never_scored(name: DetectorName, value: float) -> None:
    for layer in DETECTORS[name].layers:
        case, _ = planted()
        broken = case.layers[layer].astype(np.float16)
        broken[[3, 500], 2] = value
        if name == "centroid_tsne":
            assert case.map_places is not None
            case.map_places[3] = value
            with pytest.raises(InputError, match="places that are not finite"):
                score(name, case)
            continue
        with pytest.raises(InputError, match=rf"layer '{layer}': 2 of 600 rows hold NaN or infinity"):
            score(name, replace(case, layers={**case.layers, layer: broken}))


@by_features
def test_a_layer_of_another_length_is_named(name: DetectorName) -> None:
    case, _ = planted()
    for layer in DETECTORS[name].layers:
        if name != "centroid_tsne":
            with pytest.raises(InputError, match=rf"layer '{layer}': 599 rows, but there are 600 labels"):
                score(name, replace(case, layers={**case.layers, layer: case.layers[layer][:-1]}))


# features alone


@pytest.mark.parametrize("name", [name for name in BY_FEATURES if name not in DRAWN])
def test_the_names_of_labels_play_no_part(name: DetectorName) -> None:
    case, _ = planted()
    renamed = replace(case, labels=np.array([19, 0, 5])[case.labels], classes=20)
    np.testing.assert_allclose(score(name, renamed), score(name, case), rtol=1e-6, atol=1e-9)


@by_features
def test_moving_everything_plays_no_part(name: DetectorName) -> None:
    case, _ = planted()
    assert case.map_places is not None
    moved = replace(case, layers={layer: values + 100 for layer, values in case.layers.items()}, map_places=case.map_places + 100)
    np.testing.assert_allclose(score(name, moved), score(name, case), rtol=1e-3, atol=1e-3)


@by_features
@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_half_precision_is_only_a_way_of_storing(name: DetectorName, kind: type) -> None:
    case, _ = planted()
    stored = replace(case, layers={layer: values.astype(kind) for layer, values in case.layers.items()})
    wide = replace(case, layers={layer: values.astype(np.float64) for layer, values in stored.layers.items()})
    np.testing.assert_allclose(score(name, stored), score(name, wide), rtol=1e-5, atol=1e-5)
    large: np.ndarray = np.random.default_rng(0).choice([-60000.0, 0, 60000], (60, 4)).astype(kind)  # squares beyond the half range
    assert np.isfinite(score(name, of(large, np.arange(60) % 3))).all()


@by_features
@pytest.mark.parametrize("value", [0.0, 1.0, -2.5, 1000.0])
@pytest.mark.parametrize("kind", [np.float16, np.float64])
def test_features_without_spread_are_not_suspicious(name: DetectorName, value: float, kind: type) -> None:
    assert score(name, of(np.full((75, 3), value, kind), np.arange(75) % 3)).tolist() == [0] * 75


@by_features
def test_one_label_without_spread_beside_others(name: DetectorName) -> None:
    case, _ = planted()
    for values in case.layers.values():
        values[case.labels == 0] = 0.125
    assert case.map_places is not None and case.early_losses is not None
    case.map_places[case.labels == 0] = 2
    case.early_losses[:, case.labels == 0] = 1
    scores = score(name, case)
    assert np.isfinite(scores).all()
    assert np.ptp(scores[case.labels == 0]) < 1e-6


@pytest.mark.parametrize("name", [name for name in BY_IMAGES if name != "strip"])
def test_images_that_are_all_alike_are_not_suspicious(name: DetectorName) -> None:
    case, _ = backdoored()
    assert case.images is not None and case.trusted is not None and case.trusted.images is not None
    alike = taken(replace(case, images=np.full_like(case.images, 128)), np.arange(300))
    trusted = replace(case.trusted, images=np.full_like(case.trusted.images, 128))
    np.testing.assert_allclose(score(name, replace(alike, trusted=trusted)), 0, atol=1e-6)


# pieces


PIECES = [
    ("directions", "CHUNK_VALUES", 100),
    ("knn", "CHUNK", 13),
    ("spectre", "CHUNK", 7),
    ("agpd", "BATCH", 11),
    ("strip", "PIXELS_AT_ONCE", 1),
    ("beatrix", "GRAM_VALUES", 20_000),
]


@every
def test_the_size_of_pieces_plays_no_part(name: DetectorName, monkeypatch: pytest.MonkeyPatch) -> None:
    case = taken(backdoored()[0], np.arange(0, 300, 2))
    whole = score(name, case)
    for module, constant, value in PIECES:
        monkeypatch.setattr(import_module(f"wellcheck.detectors.{module}"), constant, value)
    np.testing.assert_allclose(score(name, case), whole, rtol=1e-3, atol=1e-3)


@by_features
def test_a_layer_that_is_read_in_pieces_gives_about_the_same_order(name: DetectorName, monkeypatch: pytest.MonkeyPatch) -> None:
    case, poisoned = planted()
    monkeypatch.setattr(directions, "CHUNK_VALUES", 12 * 90)
    monkeypatch.setattr(directions, "FEW", 0)
    scores = score(name, case)
    inside = case.labels == 1
    assert roc_auc_score(poisoned[inside], scores[inside]) > 0.95


def test_the_tables_in_params_name_known_detectors() -> None:
    assert set(params.LAYERS_READ) | params.NEED_TRUSTED <= set(get_args(DetectorName))
    assert {name for name in DETECTORS if DETECTORS[name].trusted} == params.NEED_TRUSTED
    assert all(isinstance(one.score, Callable) for one in DETECTORS.values())  # type: ignore[arg-type]
