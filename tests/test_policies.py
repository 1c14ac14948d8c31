"""Policies: who is poisoned, which label they get and what the attacker wants; and label-consistent poison, which moves images."""

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from scipy.stats import binom, chi2_contingency

from wellcheck import params, poisons, training
from wellcheck.errors import InputError
from wellcheck.params import Poison, PolicyName, TriggerName
from wellcheck.poisons import perturbation
from wellcheck.samples import Description, Samples

ROOT = Path(__file__).parents[1]
COMMITTED = params.read_yaml(ROOT / "params.yaml")["poison"]
NEEDED: dict[PolicyName, dict[str, Any]] = {"source_specific": {"source_label": 5}, "label_noise": {"trigger": "none"}}
CLASSES = 10
LABELS = np.random.default_rng(9).integers(0, CLASSES, 20_000)

policies = pytest.mark.parametrize("policy", list(get_args(PolicyName)))


def poison(policy: PolicyName = "all_to_one", **changes: Any) -> Poison:
    needed = NEEDED.get(policy, {})
    return Poison.model_validate({**COMMITTED, "seed": 0, "policy": policy, **needed, **changes})


def plan(settings: Poison, labels: np.ndarray = LABELS) -> poisons.Plan:
    return poisons.plan(labels, CLASSES, settings)


def chance(count: int, rate: float) -> tuple[int, int]:
    """Between these lies the number of `count` samples that are chosen, but for once in a thousand."""
    low, high = binom.ppf([0.0005, 0.9995], count, rate)
    return int(low), int(high)


# who


def test_the_docs_tell_of_every_trigger_and_policy() -> None:
    text = (ROOT / "docs/poisons.md").read_text(encoding="utf-8")
    rows = {line.split("`")[1] for line in text.splitlines() if line.startswith("| `") and not line.startswith("| `poison.")}
    assert rows == {*get_args(TriggerName), *get_args(PolicyName)}


# Who can be chosen, and with which probability; and what their label becomes.
TABLE: dict[PolicyName, tuple[np.ndarray, float, np.ndarray]] = {
    "all_to_one": (LABELS >= 0, 0.05, np.full_like(LABELS, 3)),
    "others_to_one": (LABELS != 3, 0.05 * len(LABELS) / np.count_nonzero(LABELS != 3), np.full_like(LABELS, 3)),
    "adaptive": (LABELS >= 0, 0.05, np.full_like(LABELS, 3)),
    "all_to_all": (LABELS >= 0, 0.05, (LABELS + 1) % CLASSES),
    "clean_label": (LABELS == 3, 0.05, LABELS),
    "label_consistent": (LABELS == 3, 0.05, LABELS),
    "source_specific": (LABELS == 5, 0.05 * len(LABELS) / np.count_nonzero(LABELS == 5), np.full_like(LABELS, 3)),
}


@pytest.mark.parametrize("policy", list(TABLE))
@pytest.mark.parametrize("seed", range(3))
def test_a_policy_chooses_its_share_of_its_candidates_and_labels_them(policy: PolicyName, seed: int) -> None:
    candidates, rate, labels = TABLE[policy]
    made = plan(poison(policy, rate=0.05, seed=seed))
    assert made.poisoned.dtype == bool and not (made.poisoned & ~candidates).any()
    low, high = chance(int(candidates.sum()), rate)
    assert low <= made.poisoned.sum() <= high
    np.testing.assert_array_equal(made.labels, np.where(made.poisoned, labels, LABELS))
    assert made.labels.dtype == np.int64 and not made.cover.any()


def test_noise_gives_every_other_label_with_equal_chance_and_never_the_right_one() -> None:
    made = plan(poison("label_noise", rate=0.5))
    low, high = chance(len(LABELS), 0.5)
    assert low <= made.poisoned.sum() <= high
    steps = np.bincount((made.labels - LABELS) % CLASSES, minlength=CLASSES)
    assert steps[0] == (~made.poisoned).sum()
    expected = made.poisoned.sum() / 9
    assert np.abs(steps[1:] - expected).max() < 4.5 * expected**0.5
    assert not made.cover.any()


def test_all_to_one_is_the_draw_of_the_published_runs() -> None:
    for seed, rate in ((0, 0.01), (7, 0.3)):
        chosen = plan(poison(rate=rate, seed=seed)).poisoned
        np.testing.assert_array_equal(chosen, np.random.default_rng(seed).random(len(LABELS)) < rate)


def test_the_number_chosen_varies() -> None:
    # Each sample by itself, as in the article: not a fixed number of them.
    numbers = [int(plan(poison(rate=0.05, seed=seed), LABELS[:10_000]).poisoned.sum()) for seed in range(100)]
    assert 0.5 < np.var(numbers) / (10_000 * 0.05 * 0.95) < 1.7


@pytest.mark.parametrize("labels", [np.arange(20_000) % 10, np.repeat(np.arange(10), 2000)], ids=["in turns", "in blocks"])
def test_all_to_one_is_blind_to_labels(labels: np.ndarray) -> None:
    levels = []
    for seed in range(20):
        chosen = plan(poison(rate=0.05, seed=seed), labels).poisoned
        levels.append(chi2_contingency([np.bincount(labels[chosen], minlength=10), np.bincount(labels[~chosen], minlength=10)]).pvalue)
    assert min(levels) > 0.001 / 20


@policies
def test_the_choice_follows_the_seed_alone_and_a_higher_rate_only_adds(policy: PolicyName) -> None:
    made, again, other = (plan(poison(policy, rate=0.05, seed=seed)) for seed in (7, 7, 8))
    np.testing.assert_array_equal(made.poisoned, again.poisoned)
    np.testing.assert_array_equal(made.labels, again.labels)
    assert (made.poisoned != other.poisoned).any()
    more = plan(poison(policy, rate=0.1, seed=7)).poisoned
    assert (more >= made.poisoned).all() and more.sum() > made.poisoned.sum()


@policies
@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_none_and_all(policy: PolicyName, rate: float) -> None:
    candidates = TABLE[policy][0] if policy in TABLE else LABELS >= 0
    np.testing.assert_array_equal(plan(poison(policy, rate=rate)).poisoned, candidates & (rate == 1))


@pytest.mark.parametrize("policy", list(TABLE))
def test_without_a_trigger_nothing_is_planted(policy: PolicyName) -> None:
    cover = 0.0 if "label" in policy else 1.0
    made = plan(poison(policy, trigger="none", rate=1.0, cover_rate=cover))
    assert not made.poisoned.any() and not made.cover.any()
    np.testing.assert_array_equal(made.labels, LABELS)


@policies
def test_a_class_that_is_absent_and_a_set_that_is_empty(policy: PolicyName) -> None:
    for labels in (np.full(50, 9), np.empty(0, np.int64)):
        made = plan(poison(policy, rate=1.0), labels)
        assert len(made.poisoned) == len(made.cover) == len(made.labels) == len(labels)
        if policy in ("clean_label", "label_consistent", "source_specific"):
            assert not made.poisoned.any()


# cover


@pytest.mark.parametrize("policy", ["all_to_one", "others_to_one", "all_to_all", "adaptive", "source_specific"])
def test_cover_keeps_its_label_and_is_never_poisoned(policy: PolicyName) -> None:
    plain, made = (plan(poison(policy, rate=0.05, cover_rate=cover)) for cover in (0.0, 0.1))
    np.testing.assert_array_equal(made.poisoned, plain.poisoned)
    np.testing.assert_array_equal(made.labels, plain.labels)
    assert not (made.cover & made.poisoned).any()
    candidates = ~np.isin(LABELS, (3, 5)) if policy == "source_specific" else ~made.poisoned
    assert not (made.cover & ~candidates).any()
    low, high = chance(int(candidates.sum()), 0.1 * len(LABELS) / candidates.sum())
    assert low <= made.cover.sum() <= high
    assert plan(poison(policy, rate=0.05, cover_rate=1.0)).cover.sum() == candidates.sum()


# what the attacker wants


def test_what_is_wanted() -> None:
    labels = np.array([0, 3, 5, 9])
    for policy, expected in {
        "all_to_one": [3, 3, 3, 3],
        "others_to_one": [3, 3, 3, 3],
        "adaptive": [3, 3, 3, 3],
        "clean_label": [3, 3, 3, 3],
        "label_consistent": [3, 3, 3, 3],
        "all_to_all": [1, 4, 6, 0],
        "source_specific": [poisons.NOT_ATTACKED, poisons.NOT_ATTACKED, 3, poisons.NOT_ATTACKED],
    }.items():
        assert poisons.wanted(labels, CLASSES, poison(policy)).tolist() == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("policy", "changes", "told"),
    [
        ("all_to_one", {"target_label": 4}, r"poison\.target_label: found 4, expected a class: 0 to 3"),
        ("source_specific", {"source_label": 4}, r"poison\.source_label: found 4, expected a class: 0 to 3"),
    ],
)
def test_labels_must_be_classes(policy: PolicyName, changes: dict[str, Any], told: str) -> None:
    names = ("a", "b", "c", "d")
    poisons.check(poison(policy, source_label=0), names)
    with pytest.raises(InputError, match=told):
        poisons.check(poison(policy, **changes), names)
    poisons.check(poison(policy, trigger="none", **changes), names)


# what is planted and what is shown at test time


@pytest.mark.parametrize("policy", [name for name in TABLE if name != "adaptive"])
def test_training_images_get_what_test_images_get(policy: PolicyName) -> None:
    images, ids = np.random.default_rng(0).integers(0, 256, (6, 3, 9, 8), np.uint8), np.arange(6)
    settings = poison(policy, trigger="blend")
    np.testing.assert_array_equal(poisons.plant(images, settings, ids), poisons.stamp(images, settings, ids))


@pytest.mark.parametrize("side", [3, 8, 30])
def test_the_adaptive_poison_plants_pieces_and_shows_the_whole(side: int) -> None:
    settings, ids = poison("adaptive", trigger="blend", strength=1.0), np.arange(400)
    pattern = poisons.stamp(np.zeros((1, 2, side, side), np.uint8), settings, ids[:1])
    images = np.repeat(~pattern, 400, axis=0)  # so that every pixel tells whether it was changed
    np.testing.assert_array_equal(poisons.stamp(images, settings, ids), np.broadcast_to(pattern, images.shape))
    planted = poisons.plant(images, settings, ids)
    changed = planted != images
    np.testing.assert_array_equal(planted, np.where(changed, pattern, images))
    _, first, piece = np.unique(np.arange(side) * 4 // side, return_index=True, return_inverse=True)
    pieces = changed[:, 0][:, first][:, :, first]
    np.testing.assert_array_equal(changed, np.repeat(pieces[:, piece][:, :, piece][:, None], 2, axis=1))
    assert pieces.mean() == pytest.approx(0.5, abs=4 * 0.5 / pieces.size**0.5)
    assert len(np.unique(pieces, axis=0)) > 200  # pieces of its own for every image
    chosen = np.array([17, 3])
    np.testing.assert_array_equal(poisons.plant(images[chosen], settings, chosen), planted[chosen])


def test_without_a_trigger_planting_copies() -> None:
    images = np.zeros((2, 1, 4, 4), np.uint8)
    planted = poisons.plant(images, poison(trigger="none"), np.arange(2))
    assert (planted == images).all() and not np.shares_memory(planted, images)


# label-consistent


@pytest.fixture(scope="module")
def stripes() -> Samples:
    """200 images of two classes, bright above or bright below, and so faint that a small change turns them over."""
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 2
    images = rng.integers(90, 130, (200, 1, 16, 16))
    images[labels == 0, :, :8] += 20
    images[labels == 1, :, 8:] += 20
    return Samples(np.arange(200), images.astype(np.uint8), labels, Description(("above", "below"), "made here"))


def losses(train: Samples, images: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The loss of a model that is not the surrogate, but was trained on the same data."""
    recipe = perturbation.SURROGATE.model_copy(update={"seed": 5, "epochs": 12})
    state = training.begin(train, recipe, torch.device("cpu"))
    everything = training.to_device(train, torch.device("cpu"))
    for epoch in range(recipe.epochs):
        training.run_epoch(state, *everything, recipe, epoch)
    with torch.inference_mode():
        logits = state.classifier.eval()(torch.from_numpy(images))
    found: np.ndarray = torch.nn.functional.cross_entropy(logits, torch.from_numpy(train.labels[rows]), reduction="none").numpy()
    return found


@pytest.mark.usefixtures("one_thread")
def test_perturbed_images_stay_near_and_are_harder_to_recognise(stripes: Samples) -> None:
    rows = np.flatnonzero(stripes.labels == 1)[:30]
    clean = stripes.images[rows]
    settings = poison("label_consistent", epsilon=0.1)
    moved = perturbation.perturb(stripes, rows, settings, torch.device("cpu"))
    assert moved.dtype == np.uint8 and moved.shape == clean.shape
    apart = np.abs(moved.astype(int) - clean)
    assert 20 <= apart.max() <= 25  # 0.1 of 255 is 25.5, and pixels are whole
    before, after = losses(stripes, clean, rows), losses(stripes, moved, rows)
    assert np.median(after) > 1.5 * np.median(before)
    assert (after > before).mean() > 0.9


@pytest.mark.usefixtures("one_thread")
def test_perturbing_is_the_seeds_own_and_leaves_the_samples_alone(stripes: Samples) -> None:
    before, rows = stripes.images.copy(), np.array([3, 1, 5])
    made, again, other = (perturbation.perturb(stripes, rows, poison(seed=seed), torch.device("cpu")) for seed in (0, 0, 1))
    np.testing.assert_array_equal(made, again)
    assert (made != other).any()
    np.testing.assert_array_equal(stripes.images, before)
    reordered = perturbation.perturb(stripes, rows[::-1].copy(), poison(seed=0), torch.device("cpu"))
    assert np.abs(reordered[::-1].astype(int) - made).mean() < 1  # row for row, but for the order of sums
    assert perturbation.perturb(stripes, rows[:0], poison(), torch.device("cpu")).shape == (0, 1, 16, 16)


@pytest.mark.parametrize(("epsilon", "levels"), [(8 / 255, 8), (0.001, 0), (1.0, 255)])
@pytest.mark.usefixtures("one_thread")
def test_epsilon_is_never_left_by_rounding(epsilon: float, levels: int, stripes: Samples) -> None:
    rows = np.arange(4)
    moved = perturbation.perturb(stripes, rows, poison(epsilon=epsilon), torch.device("cpu"))
    apart = np.abs(moved.astype(int) - stripes.images[rows]).max()
    assert levels / 3 <= apart <= levels


def test_images_that_the_surrogate_cannot_take_are_told(stripes: Samples) -> None:
    small = Samples(stripes.sample_id, stripes.images[:, :, :8, :8], stripes.labels, stripes.description)
    with pytest.raises(
        InputError, match=r"poison\.policy: label_consistent needs a surrogate: .*two_conv_cnn cannot take images of \(1, 8, 8\)"
    ):
        perturbation.perturb(small, np.arange(3), poison(), torch.device("cpu"))
