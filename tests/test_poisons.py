"""Triggers change the pixels of the article and no others; the choice of samples is Bernoulli and blind to labels."""

import numpy as np
import pytest
from scipy.stats import binom, chi2_contingency

from wellcheck import poisons
from wellcheck.errors import InputError
from wellcheck.params import Poison, TriggerName

# Article A1, as rows and columns of a 28×28 image.
ARTICLE_WATERMARK = {(27, 27), (27, 25), (25, 27), (25, 25), (26, 26)}

triggers = pytest.mark.parametrize("trigger", list(poisons.TRIGGERS))
patches = pytest.mark.parametrize(("trigger", "least"), [("watermark", 3), ("pixel", 2)])


def poison(**changes: object) -> Poison:
    return Poison.model_validate({"trigger": "watermark", "rate": 0.01, "target_label": 3, "seed": 0, **changes})


def random_images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, shape, np.uint8)  # never white


def test_the_watermark_is_the_articles_five_pixels() -> None:
    changed = poisons.stamp(np.zeros((1, 1, 28, 28), np.uint8), "watermark")
    assert {(int(row), int(column)) for row, column in np.argwhere(changed[0, 0])} == ARTICLE_WATERMARK
    assert set(changed[changed > 0]) == {255}


def test_the_pixel_is_one() -> None:
    changed = poisons.stamp(np.zeros((1, 1, 28, 28), np.uint8), "pixel")
    assert np.argwhere(changed[0, 0]).tolist() == [[26, 26]]
    assert changed.max() == 255


def test_the_watermark_on_its_smallest_image() -> None:
    assert poisons.stamp(np.zeros((1, 1, 3, 3), np.uint8), "watermark")[0, 0].tolist() == [[255, 0, 255], [0, 255, 0], [255, 0, 255]]


@triggers
@pytest.mark.parametrize("shape", [(4, 1, 28, 28), (4, 3, 32, 32), (2, 3, 8, 5), (1, 1, 4, 64), (0, 1, 8, 8)])
def test_a_stamp_changes_copies_in_every_channel(trigger: TriggerName, shape: tuple[int, ...]) -> None:
    images = random_images(*shape)
    before = images.copy()
    changed = poisons.stamp(images, trigger)
    assert (images == before).all() and not np.shares_memory(images, changed)
    assert changed.dtype == np.uint8 and changed.shape == shape
    if shape[0]:
        places = (changed != images).any((0, 1))
        assert ((changed != images) == places).all()  # the same pixels of every image and channel
        assert (changed[:, :, places] == 255).all() and 0 < places.sum() <= 5
    assert (poisons.stamp(changed, trigger) == changed).all()


@patches
@pytest.mark.parametrize("wide", [False, True])
def test_an_image_can_be_too_small(trigger: TriggerName, least: int, wide: bool) -> None:
    height, width = (least - 1, 28) if wide else (28, least - 1)
    told = f"poison.trigger: {trigger}: needs at least {least}×{least} pixels, the images have {height}×{width}"
    with pytest.raises(InputError, match=told):
        poisons.stamp(random_images(2, 1, height, width), trigger)
    assert poisons.stamp(random_images(2, 1, least, least), trigger).shape == (2, 1, least, least)


@pytest.mark.parametrize("rate", [0.001, 0.01, 0.05, 0.5])
@pytest.mark.parametrize("seed", range(5))
def test_the_number_chosen_is_binomial(rate: float, seed: int) -> None:
    count = 40_000
    chosen = poisons.choose(count, poison(rate=rate, seed=seed))
    assert chosen.dtype == bool and chosen.shape == (count,)
    low, high = binom.ppf([0.0005, 0.9995], count, rate)
    assert low <= chosen.sum() <= high


def test_the_number_chosen_varies() -> None:
    # Each sample by itself, as in the article: not a fixed number of them.
    numbers = [int(poisons.choose(10_000, poison(rate=0.05, seed=seed)).sum()) for seed in range(100)]
    assert 0.5 < np.var(numbers) / (10_000 * 0.05 * 0.95) < 1.7


@pytest.mark.parametrize("labels", [np.arange(20_000) % 10, np.repeat(np.arange(10), 2000)], ids=["in turns", "in blocks"])
def test_the_choice_is_blind_to_labels(labels: np.ndarray) -> None:
    levels = []
    for seed in range(20):
        chosen = poisons.choose(len(labels), poison(rate=0.05, seed=seed))
        levels.append(chi2_contingency([np.bincount(labels[chosen], minlength=10), np.bincount(labels[~chosen], minlength=10)]).pvalue)
    assert min(levels) > 0.001 / 20


@pytest.mark.parametrize(("rate", "share"), [(0, 0), (1, 1), (0.0, 0), (1.0, 1)])
def test_none_and_all(rate: float, share: int) -> None:
    assert poisons.choose(1000, poison(rate=rate)).sum() == share * 1000


def test_without_a_trigger_nothing_is_chosen() -> None:
    assert poisons.choose(1000, poison(trigger="none", rate=1.0)).sum() == 0


def test_the_choice_follows_the_seed_alone() -> None:
    first, again, other = (poisons.choose(1000, poison(rate=0.1, seed=seed)) for seed in (7, 7, 8))
    assert (first == again).all() and (first != other).any()
    assert (poisons.choose(1000, poison(rate=0.1, seed=7, trigger="pixel", target_label=1)) == first).all()
    # A higher rate adds samples and takes none away, so that rates compare.
    assert (poisons.choose(1000, poison(rate=0.2, seed=7)) >= first).all()


def test_the_target_is_a_class() -> None:
    names = ("a", "b", "c", "d")
    poisons.check_target(poison(target_label=3), names)
    with pytest.raises(InputError, match=r"poison\.target_label: found 4, expected a class: 0 to 3"):
        poisons.check_target(poison(target_label=4), names)
    poisons.check_target(poison(target_label=4, trigger="none"), names)
