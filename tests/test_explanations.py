"""What is explained, by hand; the film; and the stage on tiny images, with and without colours."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from workspace import run_stage

from wellcheck import explanations, film, params, samples, training
from wellcheck.artifacts import read_columns, read_json
from wellcheck.attributions import gradient_times_input, max_normed
from wellcheck.errors import InputError
from wellcheck.models import ModelDescription, build, storage
from wellcheck.predictions import Predictions
from wellcheck.samples import Samples

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")
MakeSamples = Callable[..., Samples]


def asking(**changes: Any) -> params.Explain:
    """The committed settings with others."""
    return params.load(params.Explain, ROOT / "params.yaml").model_copy(update=changes)


def recipe(**changes: Any) -> params.Train:
    return params.load(params.Train, ROOT / "params.yaml").model_copy(update=changes)


@pytest.mark.parametrize(
    ("side", "changes", "expected"),
    [
        (28, {}, (4, 2, 4)),
        (16, {}, (2, 1, 2)),
        (4, {}, (1, 1, 1)),
        (224, {}, (32, 16, 32)),
        (28, {"patch": 9, "border": 13}, (9, 4, 13)),
        (28, {"patch": 5, "stride": 5}, (5, 5, 4)),
    ],
)
def test_sizes_are_a_seventh_of_the_side(side: int, changes: dict[str, int], expected: tuple[int, int, int]) -> None:
    assert explanations.sizes(asking(**changes), side, side + 3) == explanations.Sizes(*expected)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"patch": 29}, "explain.patch: found 29, expected at most 28 for images of 28×30 pixels"),
        ({"patch": 4, "stride": 5}, "explain.stride: found 5, expected at most 4"),
        ({"border": 14}, "explain.border: found 14, expected at most 13"),
    ],
)
def test_sizes_that_do_not_fit_name_their_parameter(changes: dict[str, int], told: str) -> None:
    with pytest.raises(InputError, match=told):
        explanations.sizes(asking(**changes), 28, 30)


def answering(labels: list[int], sure: list[float], classes: int = 3) -> Predictions:
    """Predictions of these labels, so sure of them."""
    probabilities = np.repeat((1 - np.array(sure, np.float32))[:, None] / (classes - 1), classes, axis=1)
    probabilities[np.arange(len(labels)), labels] = sure
    return Predictions(np.log(probabilities))


def test_examples_take_turns_and_pairs_show_their_surest_mistakes() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1, 1, 2, 2])
    answers = answering([0, 0, 0, 2, 2, 2, 1, 0, 0], [0.9, 0.9, 0.9, 0.6, 0.8, 0.7, 0.9, 0.9, 0.5])
    chosen, pairs = explanations.choose(labels, answers, 3, asking(images=3, pairs=1))
    examples = chosen.pair < 0
    # Class 2 is never answered rightly.
    assert labels[chosen.rows[examples]].tolist() == [0, 0, 1]
    np.testing.assert_array_equal(chosen.explained[examples], labels[chosen.rows[examples]])
    assert [(pair.label, pair.taken_for, pair.count) for pair in pairs] == [(2, 0, 2)]
    assert chosen.rows[~examples].tolist() == [7, 7, 8, 8]
    assert chosen.explained[~examples].tolist() == [2, 0, 2, 0]
    second, _ = explanations.choose(labels, answers, 3, asking(images=3, pairs=2))
    assert second.rows[second.pair == 1].tolist() == [4, 4, 5, 5]


def test_without_mistakes_there_are_no_pairs() -> None:
    chosen, pairs = explanations.choose(np.array([0, 1, 2]), answering([0, 1, 2], [0.9] * 3), 3, asking(images=2, pairs=3))
    assert pairs == [] and (chosen.pair == -1).all() and len(chosen.rows) == 2


def test_border_shares_by_hand() -> None:
    maps = np.zeros((4, 1, 4, 4), np.float32)
    maps[0, 0, 0, 0] = maps[1, 0, 1, 1] = 1
    maps[2] = 1
    shares = explanations.border_shares({"x": maps}, np.array([0, 0, 1, 2]), 4, width=1, confidence=0.95)["x"]
    assert (shares["images"], shares["mean"]) == (3, pytest.approx(1.75 / 3))
    assert shares["per_class"] == [0.5, 0.75, None, None]
    # Student's t of two degrees of freedom, 4.3027, times the standard error.
    reach = 4.3027 * np.std([1, 0, 0.75], ddof=1) / 3**0.5
    assert shares["interval"] == pytest.approx([1.75 / 3 - reach, 1.75 / 3 + reach], rel=1e-4)
    assert explanations.border_area(4, 4, 1) == 0.75
    assert explanations.border_shares({"x": maps[3:]}, np.array([2]), 4, width=1, confidence=0.95)["x"]["interval"] is None


def test_grey_by_hand(make_samples: MakeSamples) -> None:
    colours = make_samples(3, shape=(3, 4, 4))
    colours.images[0, :, 0, 0] = [255, 0, 0]
    colours.images[1, :, 0, 0] = [10, 200, 30]
    grey = explanations.in_grey(colours)
    assert grey.images[:2, :, 0, 0].tolist() == [[76] * 3, [124] * 3]
    np.testing.assert_array_equal(grey.labels, colours.labels)
    with pytest.raises(InputError, match=r"explain\.grey: found true, but the images have 1 channel"):
        explanations.in_grey(make_samples(3))


def test_a_film_begins_before_training_and_shows_the_model_after_each_step(make_samples: MakeSamples) -> None:
    known = make_samples(40, shape=(1, 16, 16))
    images, labels = known.images[:2], known.labels[:2]
    seen = film.record(known, recipe(), images, labels, minibatches=5, device=CPU)
    assert (seen.maps.shape, seen.probability.shape, seen.losses.shape) == ((6, 2, 1, 16, 16), (6, 2), (5,))
    start = training.begin(known, recipe(), CPU).classifier.eval()
    first = max_normed(gradient_times_input(start, images, labels, CPU))
    np.testing.assert_array_equal(seen.maps[0], first.astype(np.float16))
    assert np.abs(seen.maps).max(axis=(2, 3, 4)) == pytest.approx(1)
    assert seen.losses[-1] < seen.losses[0]
    assert all((one != other).any() for one, other in zip(seen.maps, seen.maps[1:], strict=False))
    again = film.record(known, recipe(batch_size=7, augment=True), images, labels, minibatches=5, device=CPU)
    np.testing.assert_array_equal(again.maps, seen.maps)


def test_a_film_longer_than_an_epoch_takes_whole_minibatches(make_samples: MakeSamples) -> None:
    known = make_samples(20, shape=(1, 16, 16))
    seen = film.record(known, recipe(epochs=1, schedule="one_cycle"), known.images[:1], known.labels[:1], minibatches=4, device=CPU)
    assert len(seen.losses) == 4 and np.isfinite(seen.losses).all()
    none = film.record(known, recipe(), known.images[:1], known.labels[:1], minibatches=0, device=CPU)
    assert (none.maps.shape, none.losses.shape) == ((1, 1, 1, 16, 16), (0,))


OUTPUTS = ("--maps", "m.safetensors", "--shown", "s.parquet", "--filmed", "film.safetensors", "--figures", "f.json")
METHODS = {"gradient_times_input", "occlusion", "occlusion_times_gradient", "integrated_gradients", "integrated_gradients_mean"}
QUICK = {"measured": "6", "film": "3", "steps": "4", "images": "4"}


def made(folder: Path, make_samples: MakeSamples, channels: int, *, snapshots: bool = False) -> Path:
    """A folder with params, a training and a test set of three classes, and an untrained model."""
    for name, count, seed in (("train", 30, 0), ("test", 12, 1)):
        samples.write(folder / f"{name}.parquet", make_samples(count, shape=(channels, 16, 16), seed=seed))
    classifier = build(ModelDescription("two_conv_cnn", ("class 0", "class 1", "class 2"), (channels, 16, 16)), seed=5)
    kept = [(epoch, build(classifier.description, seed=epoch).state_dict()) for epoch in (0, 1)] if snapshots else []
    storage.save(folder / "model", classifier, [{"epoch": 0}], snapshots=kept)
    (folder / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    return folder


def explain(folder: Path, **changes: Any) -> str:
    return run_stage(folder, "explain", "train.parquet", "test.parquet", "model", *OUTPUTS, **changes)


def test_the_stage_in_colour_and_grey_gives_the_same_bytes_twice(make_samples: MakeSamples, tmp_path: Path) -> None:
    folder = made(tmp_path, make_samples, 3, snapshots=True)
    told = explain(folder, grey="true", **QUICK, **{"train.epochs": "1"})
    assert " test images by 6 methods; " in told
    shown, maps, figures = read_columns(folder / "s.parquet"), load_file(folder / "m.safetensors"), read_json(folder / "f.json")
    variants = {"trained": METHODS | {"loss_gradients"}, "untrained": METHODS | {"loss_gradients"}, "grey": METHODS}
    assert set(maps) == {f"{variant}/{method}" for variant, methods in variants.items() for method in methods}
    assert {values.shape for values in maps.values()} == {(len(shown["sample_id"]), 3, 16, 16)}
    assert set(shown) == {"sample_id", "label", "predicted", "confidence", "explained", "pair", "grey_predicted", "grey_confidence"}
    pairs = shown["pair"] >= 0
    assert pairs.any() and (shown["predicted"] != shown["label"])[pairs].all() and (shown["predicted"] == shown["label"])[~pairs].all()
    assert (figures["snapshots"], figures["measured"]) == (2, 6)
    assert set(figures["grey"]) == {"colour", "grey"}
    assert set(figures["border"]) == {"width", "area", "trained", "untrained"}
    assert all(0 <= one["mean"] <= 1 for one in figures["border"]["trained"].values())
    for one in figures["completeness"].values():
        assert one["largest_gap"] < 0.05
    filmed = load_file(folder / "film.safetensors")
    assert filmed["maps"].shape == (4, len(filmed["rows"]), 3, 16, 16)
    assert (shown["pair"][filmed["rows"]] < 0).all()
    before = [(folder / name).read_bytes() for name in OUTPUTS[1::2]]
    explain(folder)
    assert [(folder / name).read_bytes() for name in OUTPUTS[1::2]] == before


def test_the_stage_without_colours_snapshots_film_or_pairs(make_samples: MakeSamples, tmp_path: Path) -> None:
    folder = made(tmp_path, make_samples, 1)
    assert "by 5 methods" in explain(folder, **{**QUICK, "film": "0"}, pairs="0")
    assert not {name for name in load_file(folder / "m.safetensors") if "loss" in name or "grey" in name}
    figures = read_json(folder / "f.json")
    assert (figures["snapshots"], figures["grey"], figures["pairs"]) == (0, None, [])
    assert len(load_file(folder / "film.safetensors")["losses"]) == 0
