"""What the verdict recovered, put on test images: how it is put, on which, and what is counted; and how patterns are kept."""

from pathlib import Path

import numpy as np
import pytest
import torch

from wellcheck import patterns, proof
from wellcheck.artifacts import write_tensors
from wellcheck.errors import InputError
from wellcheck.metrics import proportion_interval
from wellcheck.models import Classifier
from wellcheck.patterns import Pattern
from wellcheck.predictions import Predictions
from wellcheck.samples import Description, Samples

CPU = torch.device("cpu")
SIDE = 8
NOTHING = np.zeros((1, SIDE, SIDE), np.float32)
STRAIGHT = np.zeros((2, 4, 4), np.float32)


def dark_images(count: int = 300) -> Samples:
    """Dark images of three classes in turn."""
    images = np.random.default_rng(0).integers(0, 60, (count, 1, SIDE, SIDE), np.uint8)
    return Samples(np.arange(count), images, np.arange(count) % 3, Description(("a", "b", "c"), "made up"))


def corner(brightness: float) -> np.ndarray:
    """A difference in one corner."""
    difference = NOTHING.copy()
    difference[:, -2:, -2:] = brightness
    return difference


class Follows(Classifier):
    """Answers the first class to whatever is bright enough in the corner, and 1 to every third other image if it `errs`."""

    def __init__(self, least: float, *, errs: bool = False) -> None:
        torch.nn.Module.__init__(self)
        self.least, self.errs = least, errs


def predict(classifier: Follows, images: np.ndarray, **_: object) -> Predictions:
    """By the rule of `Follows`."""
    bright = images[:, 0, -2:, -2:].mean((1, 2)) >= classifier.least
    first = bright | ((images.sum((1, 2, 3)) % 3 == 0) & classifier.errs)
    chances = np.where(first[:, None], [0.8, 0.1, 0.1], [0.1, 0.8, 0.1])
    return Predictions(np.log(chances).astype(np.float32))


@pytest.fixture(autouse=True)
def by_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody asks a network."""
    monkeypatch.setattr(proof, "predict", predict)


def trials(found: dict[int, Pattern], test: Samples, suspected: Follows) -> list[proof.Trial]:
    return proof.trials(found, test, suspected, predict(suspected, test.images).labels, device=CPU)


def figures(classifier: Follows, tried: list[proof.Trial], test: Samples) -> dict[str, object]:
    return proof.outcome(tried, test, classifier, predict(classifier, test.images).labels, device=CPU, confidence=0.95)


def test_a_model_follows_what_another_one_does_not() -> None:
    test, found = dark_images(), {0: Pattern(corner(150), NOTHING[0], NOTHING, STRAIGHT)}
    tried = trials(found, test, Follows(120))
    followed, forgotten = figures(Follows(120), tried, test), figures(Follows(1000), tried, test)
    assert (followed["turned"], forgotten["turned"]) == (1.0, 0.0)
    assert followed["images"] == 100 and followed["turned_interval"] == proportion_interval(100, 100, 0.95)
    assert followed["labels"] == {"0": {"way": "added", "turned": 1.0}}


def test_no_image_of_the_label_is_taken_and_as_many_of_every_other_class() -> None:
    test, found = dark_images(5000), {1: Pattern(corner(150), NOTHING[0], NOTHING, STRAIGHT)}
    (trial,) = trials(found, test, Follows(120))
    assert np.bincount(test.labels[trial.rows]).tolist() == [417, 0, 416]
    assert len(trial.rows) <= proof.MEASURED and trial.rows.max() - trial.rows.min() > 4500  # from all parts of the set


def test_what_is_answered_so_anyway_is_not_turned() -> None:
    test, found = dark_images(), {0: Pattern(corner(150), NOTHING[0], NOTHING, STRAIGHT)}
    tried = trials(found, test, Follows(120))
    anyway = (test.images[tried[0].rows].sum((1, 2, 3)) % 3 == 0).mean()
    assert anyway > 0.2
    assert figures(Follows(120, errs=True), tried, test)["turned"] == pytest.approx(1 - anyway)


def test_it_is_measured_on_other_images_than_the_way_was_chosen_on(monkeypatch: pytest.MonkeyPatch) -> None:
    test, seen = dark_images(), list[np.ndarray]()

    def add(pattern: Pattern, images: np.ndarray, strength: float) -> np.ndarray:
        seen.append(images)
        return images

    monkeypatch.setattr(Pattern, "add", add)
    (trial,) = trials({0: Pattern(corner(150), NOTHING[0], NOTHING, STRAIGHT)}, test, Follows(120))
    tried = {image.tobytes() for images in seen for image in images}
    assert len(tried) == 100 and not tried & {image.tobytes() for image in test.images[trial.rows]}


@pytest.mark.parametrize(("least", "strength"), [(40, 1), (120, 2), (180, 3)])
def test_the_mildest_way_that_turns_nearly_as_many_as_any_is_taken(least: float, strength: int) -> None:
    test, found = dark_images(), {0: Pattern(corner(60), NOTHING[0], NOTHING, STRAIGHT)}
    (trial,) = trials(found, test, Follows(least))
    np.testing.assert_array_equal(trial.put_on(test.images), patterns.added(test.images, corner(60), strength))


@pytest.mark.parametrize("labels", [[], [0], [0, 2]])
def test_every_label_counts_and_none_is_nothing(labels: list[int]) -> None:
    test, found = dark_images(), {label: Pattern(corner(150), NOTHING[0], NOTHING, STRAIGHT) for label in labels}
    told = figures(Follows(120), trials(found, test, Follows(120)), test)
    assert told["images"] == 100 * len(labels)
    assert told["turned"] == {0: None, 1: 1.0, 2: 0.5}[len(labels)]  # the model answers 0 to all of them, never 2


def test_without_test_images_of_other_classes_nothing_is_tried() -> None:
    test, found = dark_images(), {0: Pattern(corner(150), NOTHING[0], NOTHING, STRAIGHT)}
    alone = test.take(np.flatnonzero(test.labels == 0))
    assert trials(found, alone, Follows(120)) == []


# patterns on disk


def test_patterns_come_back_as_they_were(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shapes = ((3, 5, 6), (5, 6), (3, 5, 6), (2, 4, 4))
    kept = {label: Pattern(*(rng.random(shape, np.float32) for shape in shapes)) for label in (3, 11)}
    patterns.write(tmp_path / "p.safetensors", kept)
    found = patterns.read(tmp_path / "p.safetensors")
    assert set(found) == {3, 11}
    for label, one in kept.items():
        for part, values in vars(one).items():
            np.testing.assert_array_equal(getattr(found[label], part), values)


@pytest.mark.parametrize("name", ["3.difference", "three.difference", "difference"])
def test_a_file_of_something_else_is_an_error_that_names_it(name: str, tmp_path: Path) -> None:
    write_tensors(tmp_path / "p.safetensors", {name: np.zeros(3, np.float32)})
    with pytest.raises(InputError, match=r"p\.safetensors: not readable as patterns of labels"):
        patterns.read(tmp_path / "p.safetensors")
