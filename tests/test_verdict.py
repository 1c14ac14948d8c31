"""The verdict: its trial rule by hand, and what it says of small made-up sets whose truth is known."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file
from scipy.stats import binom

from wellcheck import params, patterns, training, verdict
from wellcheck.artifacts import read_columns
from wellcheck.detectors.case import Case
from wellcheck.embeddings.capture import capture_all
from wellcheck.errors import InputError
from wellcheck.models import Classifier
from wellcheck.patterns import Pattern, bent
from wellcheck.samples import Description, Samples
from wellcheck.verdict import Verdict, account, label_verdicts, looks_foreign, put_on_trial, refinement
from wellcheck.verdict.charges import FOREIGN, KNOWN, Accused, Finding, evidence_of, is_guilty
from wellcheck.verdict.examination import (
    Examination,
    Reading,
    _asked,
    _of_all_others,
    _transfer,
    _turns,
    accomplices,
    apart,
    appeal,
    facing,
    halves,
    is_half,
    last_question,
)
from wellcheck.verdict.refinement import NO_STAMP, Judge, Stamp, _without_the_foreign, refine, separate, stamp_of, two_populations
from wellcheck.verdict.transfer import RARE, Load, Transfer, carried, carriers, common, try_on_others
from wellcheck.verdict.witness import Turn, Witness, Witnesses

CPU = torch.device("cpu")
SIDE = 20
TARGET = 2
RECIPE = params.Train.plain(model="two_conv_cnn", epochs=8, batch_size=32, learning_rate=2e-3, precision="auto", seed=1)


# the rule, by hand


def finding(
    label: int = 0,
    *,
    turned: float = 0.0,
    legible: float = 1.0,
    stamped: float = 0.0,
    everywhere: float | None = None,
    asked: int = 400,
    **facts: Any,
) -> Finding:
    accused = Accused(label, "made up", np.arange(200), np.linspace(0, 1, 200))
    nothing = Pattern(np.zeros((1, 4, 4)), np.zeros((4, 4)), np.zeros((1, 4, 4)), np.zeros((2, 4, 4)))
    told = {"own": 0.0, "foreign": 0.9, "held_out": 10, "generalises": 0.9}
    told |= dict.fromkeys(("p_foreign", "p_generalises", "p_turned", "p_marked"), 1e-9)
    return Finding(accused, **(told | facts), transfer=Transfer(nothing, turned, legible, 400, "added", stamped, everywhere, asked))


OWN: dict[str, Any] = {"own": 0.7, "foreign": 0.1, "apart": 1.5, "held_out": 0, "generalises": 0.0, "p_generalises": 1.0}
HALF_KNOWN: dict[str, Any] = OWN | {"own": 0.0, "foreign": 0.25}


@pytest.mark.parametrize(
    ("facts", "guilty"),
    [
        ({}, True),
        ({"foreign": 0.49}, False),  # its images look like their label's
        ({"p_foreign": 0.00026}, False),  # it may be half foreign by chance
        ({"p_foreign": 0.00024}, True),
        ({"generalises": 0.24}, False),  # learnt by heart
        ({"held_out": 4}, False),  # too few to tell
        ({"p_generalises": 0.00026}, False),  # 0.00026 × 10 groups × 4 charges
        ({"p_generalises": 0.00024}, True),
        ({"generalises": 0.0, "turned": 0.8}, True),
        (OWN | {"turned": 0.21}, True),
        (OWN | {"turned": 0.8, "legible": 0.84}, False),  # it spoils the image
        (OWN | {"turned": 0.19}, False),
        (OWN | {"turned": 0.8, "apart": 1.49}, False),  # other classes have such kinds too
        (OWN | {"turned": 0.8, "p_turned": 0.00026}, False),
        (OWN | {"turned": 0.8, "p_turned": 0.00024}, True),
        (OWN | {"own": 0.69, "foreign": 0.24, "turned": 0.8}, False),  # the reference does not know what it shows
        (OWN | {"own": 0.69, "foreign": 0.25, "turned": 0.71}, True),
        (OWN | {"own": 0.69, "foreign": 0.25, "turned": 0.69}, False),
        (OWN | {"own": 0.69, "foreign": 0.25, "turned": 0.8, "legible": 0.89}, False),
        (OWN | {"own": 0.0, "turned": 0.9, "stamped": 0.71}, True),  # no kind of a class is so small
        (OWN | {"own": 0.0, "turned": 0.9, "stamped": 0.69}, False),
        (OWN | {"own": 0.0, "turned": 0.9, "stamped": 0.9, "p_turned": 0.00026}, False),
        (HALF_KNOWN | {"turned": 0.71, "everywhere": 0.4}, True),
        (HALF_KNOWN | {"turned": 0.79, "everywhere": 0.39}, False),  # a kind of a class turns what it resembles
        (HALF_KNOWN | {"turned": 0.81, "everywhere": 0.0}, True),
        (HALF_KNOWN | {"turned": 0.71, "stamped": 0.71, "everywhere": 0.0}, True),
        (HALF_KNOWN | {"turned": 0.5, "everywhere": 0.9}, False),  # not asked yet
        (HALF_KNOWN | {"turned": 0.5, "everywhere": 0.41, "p_everywhere": 0.00024}, True),
        (HALF_KNOWN | {"turned": 0.5, "everywhere": 0.41, "p_everywhere": 0.00026}, False),
        (HALF_KNOWN | {"turned": 0.5, "everywhere": 0.39, "p_everywhere": 1e-9}, False),
        (HALF_KNOWN | {"turned": 0.5, "everywhere": 0.9, "p_everywhere": 1e-9, "foreign": 0.24, "apart": 1.4}, False),
        (OWN | {"turned": 0.51, "apart": 0.5, "everywhere": 0.51, "p_everywhere": 1e-9}, True),  # its label's own, and a trigger
        (OWN | {"turned": 0.51, "apart": 0.5, "everywhere": 0.49, "p_everywhere": 1e-9}, False),  # a simple class has such kinds
        (OWN | {"own": 0.69, "turned": 0.6, "apart": 1.49, "everywhere": 0.6, "p_everywhere": 1e-9}, False),  # nobody knows what it shows
        (OWN | {"own": 0.3, "turned": 0.41, "apart": 1.5, "everywhere": 0.41, "p_everywhere": 1e-9}, True),
        ({"held_out": 0, "marked": 0.51}, True),
        ({"held_out": 0, "marked": 0.49}, False),
        ({"held_out": 0, "marked": 0.9, "p_marked": 0.00026}, False),
        ({"held_out": 0, "foreign": 0.24, "marked": 1.0}, False),
        ({"turned": 0.8, "p_generalises": 1.0, "p_turned": 1e-9}, True),
        ({"turned": 0.1, "p_generalises": 1.0, "p_turned": 1e-9}, False),  # the p-value of one charge is none of the other's
    ],
)
def test_what_convicts(facts: dict[str, Any], guilty: bool) -> None:
    assert is_guilty(finding(**facts), tried=10) is guilty


def test_evidence_by_hand() -> None:
    assert evidence_of(finding()) == 0.5 * 0.9 / 0.5
    assert evidence_of(finding(generalises=0.1)) == pytest.approx(0.5 * 0.1 / 0.25)
    assert evidence_of(finding(generalises=0.25)) == 0.5
    assert evidence_of(finding(foreign=1.0, generalises=1.0)) == 1
    assert evidence_of(finding(held_out=4)) == 0
    assert evidence_of(finding(**OWN, turned=0.2)) == 0.5
    assert evidence_of(finding(**OWN | {"own": 0.5, "foreign": 0.3}, turned=0.35)) == 0.25
    assert evidence_of(finding(**OWN, turned=0.99, legible=0.5)) == 0


def group(share: float, *, gain: float, start: float = 0.0) -> Accused:
    """A group of a label of a hundred samples: this share of it, from the given one on."""
    place = np.arange(100) / 100
    return Accused(0, "made up", np.arange(100), ((place >= start) & (place < start + share)).astype(float), gain)


@pytest.mark.parametrize(
    ("share", "foreign", "elsewhere", "looks"),
    [(0.2, 0.3, 0.1, False), (0.5, 0.4, 0.1, True), (0.5, 0.1, 0.4, False), (1.0, 1.0, 0.0, False), (0.0, 1.0, 0.0, False)],
)
def test_what_looks_foreign(share: float, foreign: float, elsewhere: float, looks: bool) -> None:
    assert looks_foreign(group(share, gain=1), np.where(np.arange(100) < 100 * share, foreign, elsewhere)) is looks


def test_enough_of_a_label_is_left_for_the_reference() -> None:
    native, foreign = np.zeros(100), np.where(np.arange(100) < 30, 0.5, 0.0)
    best, second, small = group(0.5, gain=2), group(0.2, gain=1, start=0.4), group(0.05, gain=0.5, start=0.45)
    assert put_on_trial([small, second, best], native) == [best]  # half of the label is left out already
    assert put_on_trial([small, second, group(0.71, gain=3)], native) == [second, small]
    odd = group(0.3, gain=0.1)
    assert put_on_trial([small, odd, second, best], foreign) == [best, odd]  # what looks foreign comes first, but for the best
    assert put_on_trial([], native) == []
    rng = np.random.default_rng(0)
    many = [group(rng.uniform(0, 0.7), gain=rng.uniform(), start=rng.uniform(0, 0.5)) for _ in range(20)]
    taken = np.unique(np.concatenate([one.suspects for one in put_on_trial(many, foreign)]))
    assert 0 < len(taken) <= 70


def test_labels_by_hand() -> None:
    values = np.arange(95.0)[:, None] % 7
    case = Case(labels=np.repeat([0, 1, 2, 4], [30, 30, 30, 5]), classes=6, layers={"feature_map": values, "penultimate": values})
    found = label_verdicts([finding(0), finding(0, foreign=0.5), finding(2, generalises=0.1, p_generalises=0.1, p_turned=1.0)], case, {0})
    assert [(one.label, one.samples, one.groups, one.convicted) for one in found] == [
        (0, 30, 2, True), (1, 30, 0, False), (2, 30, 1, False), (4, 5, 0, False),
    ]  # fmt: skip
    assert [one.p_value for one in found] == [pytest.approx(1.2e-8), 1.0, 1.0, 1.0]  # 3 groups, 4 charges
    # Evidence 0.9, 0, 0.2, 0: median 0.1, median absolute deviation 0.1, its spread 1.4826 times that.
    assert [one.z for one in found] == pytest.approx([z / 0.14826 for z in (0.8, -0.1, 0.1, -0.1)])
    assert [bool(one.note) for one in found] == [False, False, False, True]


def test_a_label_of_which_nothing_can_be_held_is_not_called_examined() -> None:
    labels, varied = np.repeat([0, 1], 40), np.arange(80.0)[:, None] % 7
    half = np.where(labels[:, None] == 0, 1.0, varied)  # the model sees the same in all of label 0

    def notes(labels: np.ndarray, feature_map: np.ndarray, penultimate: np.ndarray) -> list[str]:
        case = Case(labels=labels, classes=2, layers={"feature_map": feature_map, "penultimate": penultimate})
        return [one.note for one in label_verdicts([], case, ())]

    assert notes(labels, varied, varied) == notes(labels, half, varied) == notes(labels, varied, half) == ["", ""]
    assert notes(labels, half, half) == ["the model sees the same in all of its samples: not examined", ""]
    assert notes(labels * 0, varied, varied) == ["no other label to compare with: not examined"]


def witness_of(images: np.ndarray, margins: np.ndarray | None = None) -> Witness:
    """A model that answers 0, and whose features are some pixels."""
    classifier: Any = SimpleNamespace(embed=lambda images: images.flatten(1)[:, :3].float())
    nothing = np.zeros(len(images))
    return Witness(classifier, images, CPU, nothing.astype(np.int64), nothing if margins is None else margins)


def test_confident_is_above_half_of_the_ordinary_answers() -> None:
    witness = witness_of(np.zeros((6, 1, 2, 2)), margins=np.array([1, 2, 3, 4, 100, -5.0]))
    ordinary = np.array([True, True, True, True, False, True])
    assert witness.confident(ordinary) == 2.5
    assert witness.confident(ordinary, 0.0) == 1
    assert witness.confident(np.zeros(6, bool)) == float("inf")


def test_of_a_class_that_it_saw_little_of_a_model_is_surely_less_sure() -> None:
    classifier: Any = SimpleNamespace(description=SimpleNamespace(class_names=("a", "b", "c")))
    labels, margins = np.repeat([0, 1, 2], [9, 9, 5]), np.concatenate([np.arange(1, 10), 10 * np.arange(1, 10), [5.0] * 5])
    witness = Witness(classifier, np.zeros((23, 1, 2, 2)), CPU, labels, margins)
    np.testing.assert_array_equal(witness.confident_by_answer(np.ones(23, bool), 0.25), [3, 30, np.inf])  # five are too few to tell
    np.testing.assert_array_equal(witness.confident_by_answer(np.arange(23) != 8, 0.5), [4.5, 50, np.inf])


def test_a_reference_contradicts_where_it_is_sure_and_the_model_answers_as_labelled() -> None:
    images, ordinary = np.zeros((8, 1, 2, 2)), np.arange(8) < 4
    reference = witness_of(images, margins=np.array([1, 2, 3, 4, -2.6, -2.4, -9, 2.0]))
    suspected = witness_of(images, margins=np.array([1, 1, 1, 1, 1, 1, -1, 1.0]))
    np.testing.assert_array_equal(reference.contradicts(suspected, ordinary), np.arange(8) == 4)
    np.testing.assert_array_equal(reference.contradicts(suspected, ordinary, 0.25), np.isin(np.arange(8), [4, 5]))
    saturated = witness_of(images, margins=np.array([7, 7, 7, 7, -7, -7, -7, 7.0]))
    np.testing.assert_array_equal(saturated.contradicts(suspected, ordinary), np.isin(np.arange(8), [4, 5]))


def test_what_lies_far_from_all_that_is_ordinary_is_typical_of_nothing() -> None:
    images = np.random.default_rng(0).normal(100, 1, (400, 1, 2, 2)).astype(np.float32)
    images[:5] += 30
    ordinary = np.arange(400) >= 20
    typical = witness_of(images, margins=np.ones(400)).typical(ordinary)
    assert not typical[:5].any() and typical[5:20].mean() > 0.8 and 0.93 < typical[ordinary].mean() < 0.97
    assert not witness_of(images, margins=np.ones(400)).typical(np.arange(400) > 395).any()


# patterns


def stamped(count: int, change: Callable[[np.ndarray], np.ndarray], total: int = 300) -> tuple[Samples, np.ndarray]:
    """Noise images, of which the first `count` are changed, and those."""
    images = np.random.default_rng(0).integers(0, 200, (total, 2, 6, 6)).astype(np.uint8)
    images[:count] = change(images[:count])
    labels = np.zeros(total, np.int64)
    return Samples(np.arange(total), images, labels, Description(("a", "b"), "made up")), np.arange(count)


def test_a_pasted_patch_is_recovered() -> None:
    def paste(images: np.ndarray) -> np.ndarray:
        images[:, :, 4:, 4:] = 255
        return images

    samples, members = stamped(60, paste)
    pattern = common(samples, members, witness_of(samples.images), np.arange(300) >= 60)
    assert (pattern.weight[4:, 4:] == 1).all() and not pattern.weight[:4].any() and not pattern.weight[:, :4].any()
    pasted = pattern.paste(samples.images[200:])
    np.testing.assert_array_equal(pasted[:, :, 4:, 4:], 255)
    np.testing.assert_array_equal(pasted[:, :, :4], samples.images[200:, :, :4])


def test_an_added_pattern_is_recovered() -> None:
    samples, members = stamped(1000, lambda images: (images + np.arange(6) * 10).astype(np.uint8), total=3000)
    pattern = common(samples, members, witness_of(samples.images), np.arange(3000) >= 1000)
    assert not pattern.weight.any()
    np.testing.assert_allclose(pattern.difference.mean((0, 1)), np.arange(6) * 10, atol=6)
    added = pattern.add(np.full((1, 2, 6, 6), 250, np.uint8), 2.0)
    assert added[..., 5].min() == 255  # nothing wraps around


def test_one_sample_on_the_other_side_sets_nothing_apart() -> None:
    values, members = np.random.default_rng(0).standard_normal((200, 5)), np.arange(200) > 0
    assert not separate(values, members).any() and not separate(values, ~members).any()


def test_an_odd_image_without_the_stamp_is_no_member() -> None:
    pattern = np.concatenate([np.full(80, 4.5), np.full(20, -0.2), np.full(900, -0.2)])
    members = np.arange(1000) < 100
    stamp = stamp_of(pattern, members)
    assert -0.2 < stamp.least < stamp.likely < 4.5
    smooth = np.random.default_rng(0).standard_normal(1000) + members
    for nothing in (stamp_of(smooth, members), stamp_of(np.zeros(1000), members), stamp_of(pattern, pattern > 9)):
        assert nothing == NO_STAMP


def test_a_stamp_is_known_though_most_of_those_it_is_sought_in_have_none() -> None:
    rng = np.random.default_rng(1)
    pattern = np.concatenate([rng.normal(4, 0.4, 100), rng.normal(-0.2, 0.2, 200), rng.normal(-0.2, 0.2, 1700)])
    stamp = stamp_of(pattern, np.arange(2000) < 300)
    np.testing.assert_array_equal(pattern > stamp.likely, np.arange(2000) < 100)


def test_a_stamp_that_a_few_suspects_do_not_show_is_shown_by_the_convicted() -> None:
    samples, reference = carrying(np.full(400, 12.0))
    rows = np.arange(400)
    judge = Judge(samples, {}, reference, rows >= 80, reference)
    assert judge._stamp(rows, rows < 5, None)[1] == NO_STAMP
    pattern, stamp = judge._stamp(rows, rows < 5, rows < 40)
    np.testing.assert_array_equal(pattern > stamp.likely, rows < 40)
    assert judge._stamp(rows, rows < 5, rows < 5)[1] == NO_STAMP


def told_by(answers: Callable[[np.ndarray], np.ndarray], labels: np.ndarray) -> Any:
    """A model that answers images so, and has answered the training images, all of label 0, with these labels."""
    return SimpleNamespace(answers=answers, labels=labels, margins=np.where(labels == 0, 1.0, -1.0))


def patched(count: int = 60) -> tuple[Samples, Witness, Any]:
    """Noise images of label 0, of which the first `count` carry a bright patch; a reference that holds all to be alike and reads those that
    carry it as another class; a model that answers label 0 to the patch, and to the others too, but for odd ones that show a dark row."""

    def paste(images: np.ndarray) -> np.ndarray:
        images[:, :, 4:, 4:] = 255
        return images

    def answers(images: np.ndarray) -> np.ndarray:
        return np.where((images[:, :, 0].mean((1, 2)) < 1) & (images[:, :, 4:, 4:].mean((1, 2, 3)) < 200), 1, 0)

    samples, _ = stamped(count, paste)
    samples.images[: count // 2, :, 0] = samples.images[-5:, :, 0] = 0
    margins = np.where(np.arange(300) < count, -3.0, 3.0)
    return samples, witness_of(samples.images, margins), told_by(answers, answers(samples.images))


def test_who_is_answered_as_labelled_only_with_the_pattern_is_freed_without_it() -> None:
    samples, reference, suspected = patched()
    rows = np.arange(300)
    judge = Judge(samples, {}, reference, rows >= 60, suspected)
    assert (suspected.labels[-5:] == 1).all()  # not answered as labelled before: nothing is freed
    np.testing.assert_array_equal(judge.freed(rows, rows < 60), rows < 30)


def test_a_member_that_shows_little_of_the_stamp_stays_if_it_is_freed_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    samples, reference, suspected = patched()
    rows = np.arange(300)
    # Images so odd that the stamp is small beside it: the first of those that carry it, and some that do not.
    shown = np.concatenate([np.full(10, 0.4), np.linspace(1.1, 5, 50), np.linspace(-1, 0, 240)])
    monkeypatch.setattr(Judge, "_stamp", lambda *_: (shown, Stamp(1.0, 0.5)))
    unmoved = told_by(lambda images: np.zeros(len(images), int), rows * 0)
    layers = {name: (np.random.default_rng(1).normal(0, 1, (300, 3)) + 6 * (rows < 60)[:, None]).astype(np.float32) for name in ("a", "b")}
    for model, kept in ((suspected, True), (unmoved, False)):
        found = Judge(samples, layers, reference, rows >= 60, model).posterior(rows, rows < 60, rows < 60) > 0.5
        assert found[10:60].all() and not found[60:].any() and found[:10].all() == found[:10].any() == kept
    uncontradicted = replace(reference, margins=np.where(rows < 10, 1.0, reference.margins))
    assert not (Judge(samples, layers, uncontradicted, rows >= 60, suspected).posterior(rows, rows < 60, rows < 60) > 0.5)[:10].any()


def test_the_most_innocent_are_not_taken_for_members_of_the_wider_group() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(3, 2.5, 200), rng.normal(0, 0.5, 1000), np.linspace(-9, -3, 20)])[:, None]
    found = two_populations(values, (np.arange(1220) < 200).astype(float))
    assert found[:200].mean() > 0.5 and found[-20:].max() < 0.5


def test_odd_samples_between_the_two_stay_with_the_rest() -> None:
    rng = np.random.default_rng(0)
    members, rest = rng.normal((3, 3), 0.3, (200, 2)), rng.normal(0, 0.3, (1000, 2))
    odd = np.abs(rng.standard_t(1, (60, 2))).clip(0, 2.0)
    found = two_populations(np.concatenate([members, rest, odd]), (np.arange(1260) < 200).astype(float))
    assert (found[:200] > 0.5).mean() > 0.98 and (found[200:] > 0.5).sum() < 20


def carrying(noise: np.ndarray) -> tuple[Samples, Witness]:
    """Grey images with so much noise each; the first 40 carry a faint grating. A reference that holds all to be alike."""
    rng = np.random.default_rng(0)
    images = 128 + noise[:, None, None] * rng.standard_normal((len(noise), 16, 16))
    images[:40] += 25 * np.sin(np.arange(16))
    samples = Samples(
        np.arange(len(noise)), images.clip(0, 255).astype(np.uint8)[:, None], np.zeros(len(noise), int), Description(("a",), "")
    )
    reference = Witness(cast(Classifier, None), samples.images, CPU, samples.labels, np.ones(len(noise), np.float32))
    reference.__dict__["features"] = torch.from_numpy(rng.standard_normal((len(noise), 4)).astype(np.float32))
    return samples, reference


def test_an_odd_image_does_not_carry_what_it_only_happens_to_resemble() -> None:
    noise = np.where(np.arange(400) < 340, 12.0, 60.0)
    samples, reference = carrying(noise)
    rows = np.arange(400)
    found = carried(samples, rows, rows[:40], reference, rows >= 40).amount
    assert found[:40].min() > found[40:].max()
    assert found[340:].std() < 2 * found[40:340].std()


def test_no_member_carries_its_own_noise() -> None:
    samples, reference = carrying(np.full(400, 12.0))
    rows, ahead = np.arange(40, 400), []
    for seed in range(9):
        members = np.random.default_rng(seed).permutation(rows)[:40]
        inside = np.isin(rows, members)
        found = carried(samples, rows, members, reference, ~np.isin(np.arange(400), members)).amount
        ahead.append((found[inside].mean() - found[~inside].mean()) / (found[inside].std() / 40**0.5))
    assert np.mean(ahead) < 3  # 1.7; 6.5 if every member were measured by a pattern that it is part of


@pytest.mark.parametrize("coloured", [False, True])
def test_a_small_or_a_coloured_stamp_is_seen_on_images_that_vary_much(coloured: bool) -> None:
    rng = np.random.default_rng(0)
    smooth = np.cos(np.arange(16) * np.arange(3)[:, None] * np.pi / 16)  # slow waves, the same in every channel, and a little noise
    images = 128 + (25 if coloured else 15) * np.einsum("nab,ah,bw->nhw", rng.standard_normal((400, 3, 3)), smooth, smooth)[:, None]
    images = images + 3 * rng.standard_normal((400, 3, 16, 16))
    if coloured:
        images[:40] += np.array([6, -6, 0])[:, None, None]
    else:
        images[:40, :, 5:8, 5:8] += 15 * (2 * (np.indices((3, 3)).sum(0) % 2) - 1)
    samples = Samples(np.arange(400), images.clip(0, 255).astype(np.uint8), np.zeros(400, int), Description(("a",), ""))
    rows = np.arange(400)
    found = carried(samples, rows, rows[:40], witness_of(samples.images), rows >= 40).amount
    assert np.quantile(found[:40], 0.1) > np.quantile(found[40:], 0.95)  # pixel by pixel neither is


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 5), (3, 5, 1)])
def test_images_of_one_row_or_column_have_no_bends(shape: tuple[int, int, int]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (200, *shape)).astype(np.uint8)
    samples, rows = Samples(np.arange(200), images, np.zeros(200, int), Description(("a",), "")), np.arange(200)
    assert not common(samples, rows[:40], witness_of(images), rows >= 40).displacement.any()
    assert np.isfinite(carried(samples, rows, rows[:40], witness_of(images), rows >= 40).amount).all()


GRATING = np.broadcast_to(25 * np.sin(np.arange(16, dtype=np.float32)), (1, 16, 16))


def test_who_carries_what_convicts_elsewhere() -> None:
    samples, reference = carrying(np.full(400, 12.0))
    rows = np.arange(400)
    load = Load.of(samples, rows[:20], GRATING, reference, rows >= 80)
    assert 0.4 < load.least < 0.6
    other = Load(np.roll(GRATING, 4, axis=1).swapaxes(1, 2), 0.5)
    hits, rate = carriers(samples, rows[20:40], [load], reference, rows >= 80)
    assert hits >= 19 and 0 < rate < 0.05
    assert carriers(samples, rows[40:80], [load], reference, rows >= 80)[0] <= 2
    assert carriers(samples, rows[:40], [other], reference, rows >= 80)[0] <= 2
    assert carriers(samples, rows[20:40], [other, load], reference, rows >= 80) == (hits, rate)
    assert carriers(samples, rows[:40], [load], reference, rows >= 398) == (0, 1.0)  # nobody to compare with


def test_who_is_only_a_little_brighter_carries_no_bright_pattern() -> None:
    samples, reference = carrying(np.full(400, 12.0))
    rows = np.arange(400)
    samples.images[:40] += 20
    samples.images[40:80] += 5
    load = Load.of(samples, rows[:40], GRATING + 20, reference, rows >= 80)
    assert carriers(samples, rows[:40], [load], reference, rows >= 80)[0] >= 39
    assert carriers(samples, rows[40:80], [load], reference, rows >= 80)[0] <= 2


@pytest.mark.parametrize(
    ("way", "turned", "share", "asked"),
    [
        ("added", 0.9, 0.9, True),
        ("pasted", 0.9, 0.9, True),
        ("bent", 0.9, 0.9, False),
        ("added", 0.6, 0.9, False),
        ("added", 0.9, 0.2, False),
    ],
)
def test_only_a_pattern_that_convicts_makes_accomplices_of_what_is_foreign(way: str, turned: float, share: float, asked: bool) -> None:
    samples, reference = carrying(np.full(400, 12.0))
    rows = np.arange(400)
    nothing = np.zeros((16, 16), np.float32)
    pattern = Pattern(GRATING, nothing, nothing[None], np.zeros((2, 4, 4), np.float32))
    first = Accused(0, "made up", rows, (rows < 20) * 1.0)
    chief = replace(finding(0), accused=first, transfer=Transfer(pattern, turned, 1.0, 400, way))
    # Of these 40 the first 20 carry it, and are foreign.
    other = replace(finding(1, foreign=share), accused=Accused(1, "made up", rows, ((rows >= 20) & (rows < 60)) * 1.0))
    heard = accomplices([chief, other], rows < 40, samples, reference, rows >= 80)
    assert heard[0] == chief  # it is guilty by itself
    if asked:
        assert (heard[1].searched, heard[1].marked > 0.9, heard[1].p_marked < 1e-9) == (20, True, True)
    else:
        assert heard[1] == other
    # The foreign ones count: who carries it and shows what its label says, as cover samples do, does not.
    cover = accomplices([chief, other], rows >= 40, samples, reference, rows >= 80)[1]
    assert cover.marked < 0.1


@pytest.mark.parametrize(("side", "reads", "stamped"), [(2, True, 0.75), (3, True, 0.0), (2, False, 0.0)])
def test_a_stamp_is_small_and_leaves_the_rest_legible(side: int, reads: bool, stamped: float) -> None:
    rows, weight = np.arange(40), np.zeros((20, 20), np.float32)
    weight[:side, :side] = 1.0  # 1 % of the pixels, or 2.25 %
    corner = Pattern(np.zeros((1, 20, 20), np.float32), weight, np.full((1, 20, 20), 255, np.float32), np.zeros((2, 4, 4), np.float32))
    images = np.zeros((40, 1, 20, 20), np.uint8)
    fooled: Any = SimpleNamespace(answers=lambda images: np.where((images[:, 0, 0, 0] == 255) & (rows < 30), 0, 1))
    careless: Any = SimpleNamespace(answers=lambda images: np.where((images[:, 0, 0, 0] == 255) & (rows < 5) & (not reads), 2, 1))
    found = try_on_others(corner, 0, images, fooled, careless, harder=True)
    assert found.stamped == stamped


def test_innocent_members_of_a_guilty_group_do_not_make_a_little_of_its_pattern_enough() -> None:
    samples, reference = carrying(np.full(400, 12.0))
    rows = np.arange(400)
    samples.images[:40] += 20
    samples.images[40:80] += 5  # a little brighter, and no poison
    pattern = Pattern(GRATING + 20, np.zeros((16, 16), np.float32), np.zeros((1, 16, 16), np.float32), np.zeros((2, 4, 4), np.float32))
    mixed = Accused(0, "made up", rows, ((rows < 40) | (rows >= 340)) * 1.0)
    chief = replace(finding(0), accused=mixed, transfer=Transfer(pattern, 0.9, 1.0, 400, "added"))
    other = replace(finding(1), accused=Accused(1, "made up", rows, ((rows >= 40) & (rows < 80)) * 1.0))
    assert accomplices([chief, other], rows < 80, samples, reference, rows >= 80)[1].marked < 0.1


def test_a_stamp_that_convicts_makes_accomplices_even_where_a_bend_turns_more() -> None:
    samples, reference = carrying(np.full(400, 12.0))
    rows, nothing = np.arange(400), np.zeros((16, 16), np.float32)
    pattern = Pattern(GRATING, nothing, nothing[None], np.zeros((2, 4, 4), np.float32))
    first = Accused(0, "made up", rows, (rows < 20) * 1.0)
    chief = replace(finding(0, foreign=0.1), accused=first, transfer=Transfer(pattern, 0.95, 1.0, 400, "bent", 0.9))
    other = replace(finding(1), accused=Accused(1, "made up", rows, ((rows >= 20) & (rows < 40)) * 1.0))
    assert accomplices([chief, other], rows < 40, samples, reference, rows >= 80)[1].marked > 0.9


def test_how_many_innocent_patterns_turn_by_hand() -> None:
    others = [finding(label, turned=share) for label, share in ((1, 0.1), (2, 0.2), (3, 0.4))]
    rate = np.quantile([0.1, 0.2, 0.4], 0.95)
    known, unknown = finding(0, turned=0.9), finding(0, turned=0.9, stamped=0.5, foreign=0.1)
    assert _turns(known, [known, *others]) == pytest.approx(binom.sf(359, 400, rate))
    assert _turns(unknown, [unknown, *others]) == pytest.approx(binom.sf(199, 400, rate))  # of the stamp alone
    assert _turns(known, [known]) == pytest.approx(binom.sf(359, 400, 0.5))  # nobody to compare with
    own = [replace(one, own=0.9) for one in others]
    assert _turns(known, [known, *own]) == _turns(known, [known])  # these are of another sort


@pytest.mark.parametrize(
    ("grey", "darkest", "fools_from", "everywhere"),
    [
        (70, 0, 255, 0.49),  # three times as bright, as the group's own: from 51 on
        (20, 0, 255, None),  # of what the group shows it turns nobody
        (70, 0, 149, 0.39),  # from 90 on they are not legible any more
        (70, 80, 149, None),  # too few of them are, however it is put on
    ],
)
def test_a_pattern_that_turns_some_is_tried_on_all_other_labels(
    grey: int, darkest: int, fools_from: int, everywhere: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = np.zeros((4, 4), np.float32)
    brighter = Pattern(np.full((1, 4, 4), 20, np.float32), nothing, nothing[None], np.zeros((2, 4, 4), np.float32))
    monkeypatch.setattr("wellcheck.verdict.examination.common", lambda *_: brighter)
    monkeypatch.setattr("wellcheck.verdict.examination._drawn", lambda *_: np.full((9, 1, 4, 4), grey, np.uint8))
    greys = np.arange(darkest, darkest + 100, dtype=np.uint8).repeat(16).reshape(-1, 1, 4, 4)
    monkeypatch.setattr("wellcheck.verdict.examination._of_all_others", lambda *_: greys)

    def answers_from(mean: int) -> Any:
        return SimpleNamespace(answers=lambda images: np.where(images.mean((1, 2, 3)) > mean, 0, 1), labels=np.ones(40, int))

    samples = Samples(np.arange(40), greys[:40], np.arange(40) % 4, Description(tuple("abcd"), "made up"))
    accused = Accused(0, "made up", np.arange(20), np.ones(20))
    found = _transfer(accused, samples, answers_from(110), answers_from(fools_from), np.ones(40, bool), np.random.default_rng(0))
    assert found.everywhere == everywhere


def test_of_all_other_labels_as_many_images_are_drawn() -> None:
    samples = made_up(0)
    samples.labels[:] = np.repeat([0, 1, 2, 3], [1000, 400, 150, 50])
    images = _of_all_others(samples, np.arange(1600) != 1599, 0, np.random.default_rng(0))
    assert len(images) == 400
    known = {image.tobytes(): label for image, label in zip(samples.images, samples.labels.tolist(), strict=True)}
    counts = np.bincount([known[image.tobytes()] for image in images], minlength=4)
    assert counts[0] == 0 and 40 <= counts[3] <= 49 and 110 <= counts[2] <= 150
    assert not len(_of_all_others(samples, samples.labels < 3, 0, np.random.default_rng(0)))  # two others are all alike


def test_what_turns_everything_is_asked_last() -> None:
    kinds = [finding(label, turned=0.65, everywhere=share, foreign=0.3) for label, share in ((1, 0.1), (2, 0.2))]
    trigger = finding(0, turned=0.65, everywhere=0.55, foreign=0.3)

    def heard(*findings: Finding) -> list[Finding]:
        return last_question(Examination(list(findings), cast(Witness, None), cast(Witness, None), *2 * [np.zeros(10, bool)])).guilty

    assert [one.accused.label for one in heard(trigger, *kinds)] == [0]
    assert heard(trigger, *kinds)[0].p_everywhere == pytest.approx(binom.sf(219, 400, 0.25))
    fewer = finding(0, turned=0.65, everywhere=0.55, asked=80, foreign=0.3)  # images, however many were asked first
    assert heard(fewer, *kinds)[0].p_everywhere == pytest.approx(binom.sf(43, 80, 0.25))
    assert heard(*kinds) == []
    surer = finding(0, turned=0.9, everywhere=0.9)
    assert heard(surer, trigger, *kinds) == [surer]  # in a label that is convicted already a part of a group may turn everything
    own = [replace(one, own=0.9) for one in (trigger, *kinds)]
    assert [one.accused.label for one in heard(*own)] == [0] and heard(own[0], *kinds) == []  # nobody of its sort to compare it with


@pytest.mark.parametrize("members", [1, 2, 5, 20, 100])
def test_noise_has_nothing_in_common(members: int) -> None:
    survived = []
    for seed in range(20):
        images = np.random.default_rng(seed).integers(0, 256, (600, 1, 8, 8)).astype(np.uint8)
        samples = Samples(np.arange(600), images, np.zeros(600, int), Description(("a",), ""))
        survived.append((common(samples, np.arange(members), witness_of(images), np.arange(600) >= 100).difference != 0).mean())
    assert np.mean(survived) < (0.25 if members < 5 else 0.05)


def test_copies_of_one_image_have_little_but_it_in_common() -> None:
    images = np.random.default_rng(0).integers(0, 256, (600, 1, 8, 8)).astype(np.uint8)
    images[:50] = images[0]
    samples = Samples(np.arange(600), images, np.zeros(600, int), Description(("a",), ""))
    assert (common(samples, np.arange(50), witness_of(images), np.arange(600) >= 100).difference != 0).mean() < 0.5


def waves(count: int, seed: int) -> np.ndarray:
    """Images float32 [N, 1, 24, 20] of three contents, each a smooth wave of its own, with noise; content is the row's number modulo 3."""
    rng = np.random.default_rng(seed)
    down, across = np.meshgrid(np.arange(24) / 24, np.arange(20) / 20, indexing="ij")
    kinds = np.stack([np.sin(2 * np.pi * (a * down + b * across)) for a, b in ((2, 1), (1, 2), (2, -2))])
    images: np.ndarray = (128 + 90 * kinds[np.arange(count) % 3] + rng.normal(0, 8, (count, 24, 20)))[:, None].astype(np.float32)
    return images


DISPLACEMENT = np.random.default_rng(5).uniform(-2, 2, (2, 4, 4)).astype(np.float32)


def test_a_displacement_of_nothing_leaves_images_as_they_are_and_of_a_row_moves_them() -> None:
    images = waves(3, 0)
    np.testing.assert_allclose(bent(images, np.zeros((2, 4, 4), np.float32)), images, atol=1e-3)
    one_row = np.stack([np.ones((4, 4)), np.zeros((4, 4))]).astype(np.float32)
    np.testing.assert_allclose(bent(images, one_row)[:, :, :-1], images[:, :, 1:], atol=1e-2)
    np.testing.assert_allclose(bent(images, one_row[::-1].copy())[..., :-1], images[..., 1:], atol=1e-2)


def test_what_lies_far_apart_is_not_taken_for_bent() -> None:
    samples, reference = bending()
    samples.images[:60] = np.roll(samples.images[60:120], 6, axis=2)
    pattern = common(samples, np.arange(60), reference, np.arange(300) >= 60)
    length = np.hypot(*pattern.displacement).mean()
    assert length <= 2.0  # a tenth of 20 pixels


def bending() -> tuple[Samples, Witness]:
    """300 waves of label 0, of which the first 60 are bent, and a reference that knows the three contents."""
    images = waves(300, 1)
    images[:60] = bent(images[:60], DISPLACEMENT)
    samples = Samples(np.arange(300), images.round().clip(0, 255).astype(np.uint8), np.zeros(300, int), Description(("a", "b", "c"), ""))
    content = np.arange(300) % 3
    reference = Witness(cast(Classifier, None), samples.images, CPU, content, np.ones(300, np.float32))
    near = np.eye(3)[content] + np.random.default_rng(2).normal(0, 0.1, (300, 3))
    reference.__dict__["features"] = torch.from_numpy(near.astype(np.float32))
    return samples, reference


def test_how_a_group_is_bent_is_recovered_and_turns_other_images() -> None:
    samples, reference = bending()
    pattern = common(samples, np.arange(60), reference, np.arange(300) >= 60)
    fresh = waves(30, 3)
    wanted, got = bent(fresh, DISPLACEMENT), bent(fresh, pattern.displacement)
    assert np.abs(wanted - got).mean() < 0.15 * np.abs(wanted - fresh).mean()
    plain = fresh.round().clip(0, 255).astype(np.uint8)
    # A model that answers label 0 to whatever is more like the bent images, and one that does not care.
    fooled: Any = SimpleNamespace(
        answers=lambda images: np.where(np.abs(images - wanted).mean((1, 2, 3)) < np.abs(images - fresh).mean((1, 2, 3)), 0, 1)
    )
    careless: Any = SimpleNamespace(answers=lambda images: np.ones(len(images), int))
    found = try_on_others(pattern, 0, plain, fooled, careless, harder=True)
    assert (found.way, found.turned, found.legible) == ("bent", 1.0, 1.0)
    assert try_on_others(pattern, 0, plain, fooled, careless, harder=False).way == "added"


@pytest.mark.parametrize("known", [False, True])
def test_who_is_bent_is_told_from_who_is_not(known: bool) -> None:
    samples, reference = bending()
    rows = np.arange(300)
    found = carried(samples, rows, rows[:60], reference, rows >= 60, bent_in=known)
    assert found.amount[:60].min() > found.amount[60:].max()
    assert 0 < (found.amount[60:] > found.rare).mean() < 0.03 and found.amount[:60].min() > found.rare


def test_suspects_of_an_odd_kind_are_no_poison_where_a_displacement_convicts() -> None:
    samples, reference = bending()
    rows = np.arange(300)
    brighter = (rows >= 100) & (rows < 160)  # of another kind, and suspected like the bent ones
    samples.images[brighter] = np.minimum(samples.images[brighter], 215) + 40
    reference.margins[(rows < 60) | brighter] = -1
    judge = Judge(samples, {}, reference, (rows >= 60) & ~brighter, told_by(lambda images: np.zeros(len(images), int), rows * 0))
    suspects = (rows < 60) | brighter
    np.testing.assert_array_equal(judge.posterior(rows, suspects, rows < 30, bent=True) > 0.5, rows < 60)
    assert (judge.posterior(rows, suspects, rows < 30)[brighter] > 0.5).mean() > 0.5
    few = judge.posterior(rows, suspects, rows < 5, bent=True)  # too few to tell how they are bent
    assert (few[:60] > 0.5).mean() > 0.9


def test_bent_back_poison_is_answered_otherwise_and_nothing_else_is() -> None:
    samples, reference = bending()
    rows, kinds = np.arange(300), waves(3, 3)

    def answers(images: np.ndarray) -> np.ndarray:
        """Label 0, but for images that were bent and are bent back."""
        far = [np.abs(images[:, None] - bent(kinds, by * DISPLACEMENT)).mean((2, 3, 4)).min(1) for by in (-0.5, 0.0, 1.0, -1.5)]
        told: np.ndarray = (np.argmin(far, axis=0) == 0).astype(int)
        return told

    judge = Judge(samples, {}, reference, rows >= 60, told_by(answers, rows * 0))
    found = judge.bent_back(rows, rows < 60)
    assert found[:60].mean() > 0.9 and not found[60:].any()
    everybody = Judge(samples, {}, reference, rows >= 60, told_by(lambda images: np.ones(len(images), int), rows * 0))
    assert everybody.freed(rows, rows < 60, bent=True).all()
    assert not everybody.bent_back(rows, rows < 60).any()  # a reference that does without so many does not know the label


def test_who_is_bent_like_hardly_anybody_and_misread_is_poison_whatever_the_rest_says(monkeypatch: pytest.MonkeyPatch) -> None:
    samples, reference = bending()
    rows = np.arange(300)
    misread = (rows < 50) | (rows >= 280)  # some of those that are bent, and some that are not
    reference.margins[misread] = -1
    monkeypatch.setattr(refinement, "two_populations", lambda values, members: np.zeros(len(values)))
    for labels, found in ((rows * 0, misread & (rows < 60)), (rows * 0 + 1, rows < 0)):  # a label that is merely wrong was never learnt
        judge = Judge(samples, {}, reference, rows >= 60, told_by(lambda images: np.zeros(len(images), int), labels))
        np.testing.assert_array_equal(judge.posterior(rows, rows < 60, rows < 60, bent=True), RARE * found)


@pytest.mark.parametrize(("way", "found", "references"), [({0}, True, 3), (set(), False, 1)])
def test_kind_by_kind_what_is_bent_back_is_left_out(way: set[int], found: bool, references: int, monkeypatch: pytest.MonkeyPatch) -> None:
    samples, known = bending()
    rows = np.arange(300)
    convicted, second, third = ((rows < 60) & (rows % 3 == kind) for kind in range(3))
    asked: list[np.ndarray] = []

    def reference(excluded: np.ndarray, *_: Any, **__: Any) -> Witness:
        """It reads the other kinds as labelled as long as it sees them."""
        asked.append(excluded)
        return replaced(known, np.where(convicted | ((second | third) & excluded), -2, 1).astype(np.float32))

    def bent_back(judge: Judge, *_: Any) -> np.ndarray:
        """The second kind, and once a reference does without that, the third."""
        freed: np.ndarray = second | third if not judge.ordinary[second].any() else second
        return freed

    monkeypatch.setattr(Judge, "bent_back", bent_back)
    suspected: Any = SimpleNamespace(margins=np.ones(300))
    marked = Witnesses(samples, RECIPE, CPU, Path()).marked
    witnesses: Any = SimpleNamespace(train=samples, recipe=SimpleNamespace(seed=0), reference=reference, marked=marked)
    layers = {"a": np.random.default_rng(0).normal(0, 1, (300, 3)).astype(np.float32)}
    examination: Any = SimpleNamespace(suspected=suspected, bent=way)
    posteriors, _, unseen = refine(layers, {0: np.flatnonzero(convicted)}, examination, witnesses)
    flagged = posteriors[0] > 0.5
    assert flagged[convicted].all() and not flagged[60:].any()
    assert flagged[second].all() == flagged[third].all() == unseen[third].all() == found
    assert len(asked) == references


def replaced(witness: Witness, margins: np.ndarray) -> Witness:
    """The same with other margins, and the features that it was given."""
    other = replace(witness, margins=margins)
    other.__dict__["features"] = witness.features
    return other


def test_a_label_is_convicted_by_a_displacement_if_nothing_else_turns_more() -> None:
    def bent_labels(*groups: Finding) -> set[int]:
        return Examination(list(groups), cast(Witness, None), cast(Witness, None), *2 * [np.zeros(10, bool)]).bent

    def by(way: str, turned: float, **facts: Any) -> Finding:
        told = finding(0, turned=turned, foreign=0.6, p_turned=0.0, **facts)
        return replace(told, transfer=replace(told.transfer, way=way))

    assert bent_labels(by("bent", 0.9), by("added", 0.8)) == {0}
    assert bent_labels(by("bent", 0.8), by("added", 0.9)) == set()
    assert bent_labels(by("bent", 0.6), by("added", 0.8)) == set()
    assert bent_labels(by("bent", 0.6)) == bent_labels(by("bent", 0.75)) == set()  # it convicts nobody
    assert bent_labels(by("bent", 0.75), by("added", 0.72)) == set()
    assert bent_labels(by("bent", 0.9, stamped=0.1)) == {0}
    assert bent_labels(by("bent", 0.75, stamped=0.1)) == set()
    assert bent_labels(by("bent", 0.6, stamped=0.8, legible=0.5)) == set()
    assert is_guilty(by("bent", 0.75, stamped=0.72, held_out=0), 1)

    # The last question convicts it.
    def broad(way: str, first: str = "added", **facts: Any) -> Finding:
        told = by(first, 0.6, **({"everywhere": 0.5, "p_everywhere": 1e-9} | facts))
        return replace(told, transfer=replace(told.transfer, way_everywhere=way))

    assert bent_labels(broad("bent")) == {0}
    assert bent_labels(broad("added", "bent")) == bent_labels(broad("bent", p_everywhere=1.0)) == set()
    assert bent_labels(broad("bent"), broad("added", p_everywhere=1e-12)) == set()
    assert bent_labels(broad("added"), broad("bent", p_everywhere=1e-12)) == {0}
    far = replace(broad("bent"), foreign=0.1, apart=2.0)  # nobody knows what it shows
    assert is_guilty(far, 1) and bent_labels(far) == {0}


@pytest.mark.parametrize(("still", "guilty"), [(0.9, True), (0.6, False), (0.1, False)])  # 18 of 30 may be half by chance
def test_on_appeal_only_what_stays_foreign_beyond_chance_convicts(still: float, guilty: bool) -> None:
    rows = np.arange(100)
    group = Accused(0, "made up", rows, (rows < 30) * 1.0)
    by_pattern, by_content = finding(0, turned=0.9), replace(finding(1), accused=replace(group, label=1))
    left_out: list[np.ndarray] = []

    def reference(excluded: np.ndarray, *_: Any, **__: Any) -> Any:
        left_out.append(excluded)
        return SimpleNamespace(foreign=lambda other, ordinary: np.array_equal(ordinary, ~excluded) & (rows < 30 * still))

    court: Any = SimpleNamespace(marked=lambda groups: np.isin(rows, np.concatenate(list(groups))), reference=reference)
    harmless = replace(by_content, foreign=0.1, accused=replace(group, label=1, probability=(rows >= 90) * 1.0))
    unsure = replace(by_content, foreign=0.3, accused=replace(group, label=1, probability=(rows >= 50) * (rows < 60) * 1.0))
    elsewhere = replace(unsure, accused=replace(group, label=2, probability=(rows >= 70) * (rows < 80) * 1.0))
    heard = replace(
        by_content, accused=replace(group, label=3, probability=(rows < 40) * 1.0), heard_as_half=True
    )  # a half has been heard so already
    before = Examination(
        [by_pattern, harmless, by_content, unsure, elsewhere, heard], cast(Witness, None), cast(Witness, None), *2 * [np.zeros(100, bool)]
    )
    after = appeal(before, court)
    assert after.findings[:2] == [by_pattern, harmless]
    assert after.guilty == ([by_pattern, after.findings[2], heard] if guilty else [by_pattern, heard])
    assert after.findings[2].p_foreign == pytest.approx(binom.sf(round(30 * still) - 1, 30, 0.5))
    assert evidence_of(after.findings[2]) == pytest.approx(0.5 * still / FOREIGN)
    # The guilty alone: what else looks foreign in their labels teaches the reference that such a kind belongs there.
    np.testing.assert_array_equal(np.flatnonzero(left_out[0]), [*range(40)])


def test_a_guilty_group_that_is_less_foreign_counts_while_the_label_is_not_used_up() -> None:
    rows = np.arange(1000)

    def guilty(start: int, end: int, foreign: float) -> Finding:
        accused = Accused(0, "made up", rows, ((rows >= start) & (rows < end)) * 1.0)
        return replace(finding(0, turned=0.9), accused=accused, foreign=foreign)

    def taken(*groups: Finding) -> tuple[int, int]:
        found = Examination(list(groups), cast(Witness, None), cast(Witness, None), *2 * [np.zeros(1000, bool)]).convicted_samples()
        return (int(found[0].min()), int(found[0].max()) + 1) if found else (0, 0)

    assert taken(guilty(0, 100, 0.9)) == (0, 100)
    assert taken(guilty(0, 600, 0.9), guilty(0, 100, 0.9)) == (0, 600)  # as foreign, however large
    assert taken(guilty(0, 250, 0.5), guilty(0, 100, 0.9)) == (0, 250)
    assert taken(guilty(0, 251, 0.5), guilty(0, 100, 0.9)) == (0, 100)
    assert taken(guilty(0, 5, 1.0), guilty(0, 400, 0.75)) == (0, 400)  # all of five may be foreign by chance
    assert taken(replace(guilty(0, 100, 0.9), own=0.9, apart=2.0)) == (0, 0)  # where the content is its own foreignness tells nothing


def test_nobody_is_trained_where_there_is_nothing_to_appeal() -> None:
    settled = Examination([finding(0, turned=0.9)], cast(Witness, None), cast(Witness, None), *2 * [np.zeros(10, bool)])
    assert appeal(settled, cast(Witnesses, None)) is settled


@pytest.mark.parametrize("turned", [False, True])
def test_of_two_halves_the_one_that_turns_other_images_is_tried(turned: bool) -> None:
    samples, _ = stamped(100, lambda images: images // 2 + 127)
    samples.labels[200:] = 1
    half = (np.arange(200) < 100) ^ turned
    bright: Any = SimpleNamespace(answers=lambda images: np.where(images.mean((1, 2, 3)) > 180, 0, 1))
    tried = facing(Accused(0, "made up", np.arange(200), half.astype(float)), bright, samples, seed=0)
    np.testing.assert_array_equal(tried.suspects, np.arange(100))
    small = Accused(0, "made up", np.arange(200), (np.arange(200) < 70) * 1.0)
    assert facing(small, bright, samples, seed=0) is small


def test_what_is_left_out_is_counted_of_the_halves_that_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The dark half is found, and odd images in it; the bright one turns others, and with it and the odd ones 80 % would be left out."""
    samples, _ = stamped(100, lambda images: images // 2 + 127)
    samples.labels[200:] = 1
    places = np.arange(200)
    found = [
        SimpleNamespace(rows=places, log_odds=np.where(members, 9.0, -9.0), gain=gain)
        for members, gain in ((places >= 100, 2.0), (places >= 140, 1.0), (places >= 160, 0.09))  # the last one explains too little
    ]
    monkeypatch.setattr(verdict, "find_groups", lambda *_, **__: [(0, found)])
    monkeypatch.setattr(verdict, "clusters", lambda _: [])
    bright: Any = SimpleNamespace(answers=lambda images: np.where(images.mean((1, 2, 3)) > 180, 0, 1))
    case: Any = SimpleNamespace(seed=0)
    odd = np.where(np.arange(len(samples)) >= 140, 0.4, 0.0)
    tried = list(verdict._accused(case, {"penultimate": samples.images}, odd, bright, samples))
    assert [one.suspects.tolist() for one in tried] == [list(range(100))]


@pytest.mark.parametrize("smaller", [True, False])
def test_of_what_is_half_of_its_label_the_more_foreign_side_is_accused(smaller: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, here = np.arange(120), np.arange(100)  # the first hundred carry the label, the first 45 of them are poison
    poisoned = rows < 45
    side = (poisoned if smaller else ~poisoned)[:100] * 1.0
    half = replace(finding(3, own=0.1, foreign=0.1), accused=Accused(3, "made up", here, side, gain=2.0))
    worse = replace(half, accused=Accused(3, "made up", here, (here >= 50) * 1.0, gain=1.0))
    known = replace(finding(4, own=0.31, foreign=0.1), accused=Accused(4, "made up", here, side))  # of its label's own kind
    small = replace(half, accused=Accused(5, "made up", here, (here < 39) * 1.0))
    assert is_half(half) and is_half(worse) and not is_half(known) and not is_half(small)
    suspected: Any = SimpleNamespace(margins=np.where(rows == 9, -1.0, 1.0))
    asked: list[tuple[np.ndarray, Turn]] = []

    def reference(excluded: np.ndarray, title: str, *, turn: Turn) -> Any:
        asked.append((excluded, turn))
        knows_poison = not excluded[0]
        shown = np.where(rows < 30, 3 if knows_poison else 1, 3)

        def thresholds(ordinary: np.ndarray, quantile: float) -> np.ndarray:
            np.testing.assert_array_equal(ordinary, ~excluded)
            assert quantile == 0.25
            return np.array([np.inf, 2.0, np.inf, np.inf])

        return SimpleNamespace(
            labels=shown,
            margins=np.where(rows < 25, -2.0, -1.0),
            confident_by_answer=thresholds,
            typical=lambda ordinary: np.array_equal(ordinary, ~excluded) & (rows != 7),
        )

    tried: list[np.ndarray] = []
    transfer = replace(half.transfer, turned=0.42)

    def try_it(group: Accused, *_: Any, **__: Any) -> Transfer:
        tried.append(group.suspects)
        return transfer

    monkeypatch.setattr("wellcheck.verdict.examination._transfer", try_it)
    court: Any = SimpleNamespace(
        marked=lambda groups: np.isin(rows, np.concatenate(list(groups))),
        reference=reference,
        train=None,
        recipe=SimpleNamespace(seed=0),
    )
    before = Reading(np.full(120, 3), rows > 97)
    (heard, other, *unheard), told = halves([half, worse, known, small], before, suspected, court)
    assert unheard == [known, small] and heard.heard_as_half and not other.heard_as_half
    np.testing.assert_array_equal(heard.accused.suspects, np.arange(45))
    assert heard.own == pytest.approx(15 / 45) and heard.foreign == pytest.approx(23 / 45)  # not 7, not 9
    # The other group of the label, in which the halves' reference reads the label, is tried again as one of own content.
    assert heard.transfer is transfer and other.transfer is transfer and len(tried) == 2
    np.testing.assert_array_equal(tried[0], np.arange(45))
    assert (other.own, other.foreign) == (1.0, 0.0)  # the same reading for all groups of the label
    (first, one), (second, two) = asked
    assert (one, two) == (Turn.HALVES, Turn.OTHER_HALVES)
    ours, theirs = poisoned, ~poisoned & (rows < 100)
    np.testing.assert_array_equal([first, second], [ours, theirs] if smaller else [theirs, ours])
    np.testing.assert_array_equal(told.foreign, (rows < 25) & (rows != 7) & (rows != 9) | (rows >= 100))  # other labels as before
    np.testing.assert_array_equal(told.shown, np.where(rows < 30, 1, 3))
    assert halves([known, small], before, suspected, cast(Witnesses, None)) == ([known, small], before)


@pytest.mark.parametrize(("half", "hits"), [(True, 8), (False, 3)])
def test_held_out_samples_of_a_half_need_not_be_answered_surely(half: bool, hits: int) -> None:
    rows = np.arange(60)
    group = replace(finding(3), accused=Accused(3, "made up", rows, (rows < 10) * 1.0), heard_as_half=half)
    labels = np.where(rows < 40, 3, 1)
    second: Any = SimpleNamespace(
        labels=np.where((rows < 8) | (rows == 41), 3, 1),
        margins=np.where(rows < 3, 2.0, 1.0),
        confident=lambda controls, quantile: {0.25: 2.0}[quantile],
    )
    shown = np.where(rows < 10, 1, 3)  # the reference reads ones in the group
    found = _asked(group, rows < 10, rows >= 40, labels, shown, second)
    assert (found.held_out, found.generalises) == (10, hits / 10)
    assert found.p_generalises == pytest.approx(binom.sf(hits - 1, 10, 2 / 21))  # one of 20 ones is answered so, and one is added


def test_how_far_apart_by_hand() -> None:
    def one(label: int, share: float, gain: float, source: str = "a") -> Finding:
        return replace(finding(label), accused=Accused(label, source, np.arange(100), (np.arange(100) < 100 * share) * 1.0, gain))

    mine = one(0, 0.4, 3.0)
    others = [one(1, 0.2, 1.5), one(1, 0.19, 9.0), one(2, 0.5, 1.0), one(3, 0.5, 8.0, "b"), one(0, 0.5, 7.0)]
    assert apart(mine, [mine, *others]) == 2.0
    assert apart(mine, [mine, others[1]]) == 3.0 / 9.0  # none is as large: any will do
    assert apart(mine, [mine]) == pytest.approx(30)


def test_where_a_reference_is_misled_what_is_foreign_to_one_without_the_label_is_left_out() -> None:
    asked: list[np.ndarray] = []
    foreign = np.arange(100) % 2 == 0

    def marked(groups: list[np.ndarray]) -> np.ndarray:
        return np.isin(np.arange(100), np.concatenate(groups))

    def reference(without: np.ndarray, title: str, *, turn: int) -> Any:
        asked.append(without)
        return SimpleNamespace(foreign=lambda suspected, ordinary: foreign & ~ordinary)

    witnesses: Any = SimpleNamespace(marked=marked, reference=reference)
    excluded = np.arange(100) < 3
    left_out = _without_the_foreign([np.arange(20, 40)], excluded, cast(Witness, None), witnesses)
    np.testing.assert_array_equal(np.flatnonzero(asked[0]), [0, 1, 2, *range(20, 40)])  # it never saw the label
    np.testing.assert_array_equal(np.flatnonzero(left_out), [0, 1, 2, *range(20, 40, 2)])


# verdicts on sets whose truth is known


@dataclass(frozen=True)
class Known:
    """A set and what was done to it."""

    samples: Samples
    poisoned: np.ndarray


def made_up(seed: int, *, count: int = 1600, classes: int = 4) -> Samples:
    """Bars of as many directions as classes, anywhere, on noise."""
    rng = np.random.default_rng([seed, *b"bars"])
    labels = rng.integers(0, classes, count)
    rows, columns = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    angle = labels * np.pi / classes + rng.normal(0, 0.1, count)
    offset = rng.uniform(-4, 4, count)
    away = np.sin(angle)[:, None, None] * columns + np.cos(angle)[:, None, None] * rows - offset[:, None, None]
    bars = 200 * np.exp(-(away**2) / 3) + rng.normal(0, 12, away.shape)
    images = bars.clip(0, 255).astype(np.uint8)[:, None]
    return Samples(np.arange(count) + 1000, images, labels.astype(np.int64), Description(tuple("abcde"[:classes]), "made up"))


def untouched(seed: int, classes: int = 4) -> Known:
    samples = made_up(seed, classes=classes)
    return Known(samples, np.zeros(len(samples), bool))


def backdoor(seed: int, *, classes: int = 4, target: int = TARGET, share: float = 0.06) -> Known:
    """A white corner on some images of other labels, which are given the target's."""
    samples = made_up(seed, classes=classes)
    poisoned = (samples.labels != target) & (np.random.default_rng([seed, *b"which"]).random(len(samples)) < share)
    images, labels = samples.images.copy(), samples.labels.copy()
    images[poisoned, :, -4:, -4:] = 255
    labels[poisoned] = target
    return Known(replace(samples, images=images, labels=labels), poisoned)


def two_kinds(seed: int) -> Known:
    """One label has bars of two directions, half of it each: a class of two kinds, and nothing is wrong with it."""
    samples = made_up(seed, classes=5)
    names = Description(samples.description.class_names[:4], "made up")
    return Known(replace(samples, labels=samples.labels.clip(max=3), description=names), np.zeros(len(samples), bool))


def wrong_labels(seed: int) -> Known:
    samples = made_up(seed)
    rng = np.random.default_rng([seed, *b"wrong"])
    poisoned = rng.random(len(samples)) < 0.05
    labels = np.where(poisoned, (samples.labels + rng.integers(1, 4, len(samples))) % 4, samples.labels)
    return Known(replace(samples, labels=labels), poisoned)


def reached(samples: Samples, folder: Path) -> Verdict:
    """Train a model and examine both."""
    nobody = samples.take(np.empty(0, np.int64))
    trained = training.train(samples, nobody, RECIPE, device=CPU, checkpoint=folder / "model.safetensors", title="made up")
    layers = capture_all(trained.classifier, samples.images, layers=("pixels", "feature_map", "penultimate"), device=CPU)
    classes = len(samples.description.class_names)
    case = Case(labels=samples.labels, classes=classes, layers=layers, images=samples.images, classifier=trained.classifier)
    return verdict.reach(case, samples, RECIPE, cache=folder)


@pytest.fixture(scope="module")
def convicted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Known, Verdict]:
    known = backdoor(0)
    return known, reached(known.samples, tmp_path_factory.mktemp("backdoor"))


def test_a_backdoor_is_found_and_every_image_of_it(convicted: tuple[Known, Verdict]) -> None:
    known, found = convicted
    assert found.convicted == [TARGET]
    assert found.p_value < 0.01
    assert found.flagged[known.poisoned].mean() >= 0.98
    assert found.flagged[~known.poisoned].sum() <= 1
    assert not found.probability[known.samples.labels != TARGET].any()


def test_it_says_what_the_images_show_and_what_they_carry(convicted: tuple[Known, Verdict]) -> None:
    known, found = convicted
    truth = made_up(0).labels
    assert (found.shown[known.poisoned] == truth[known.poisoned]).mean() > 0.9
    pattern = found.patterns[TARGET]
    assert (pattern.weight[-4:, -4:] > 0.5).all() and pattern.weight.sum() < 20


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("make", [untouched, two_kinds, wrong_labels])
def test_it_is_silent_where_there_is_no_backdoor(make: Callable[[int], Known], seed: int, tmp_path: Path) -> None:
    found = reached(make(seed).samples, tmp_path)
    assert found.convicted == [] and not found.flagged.any() and not found.patterns


def test_poison_that_is_half_of_its_label_is_heard_as_such_and_found(tmp_path: Path) -> None:
    known = backdoor(0, share=0.33)
    found = reached(known.samples, tmp_path)
    assert found.convicted == [TARGET]
    assert found.flagged[known.poisoned].mean() >= 0.98 and found.flagged[~known.poisoned].sum() <= 1
    assert any(one.heard_as_half for one in found.examination.guilty)


@pytest.mark.parametrize("seed", range(2))
def test_a_network_of_two_classes_has_its_backdoors_too(seed: int, tmp_path: Path) -> None:
    """To it nothing that it never saw is typical of anything: what the poison shows, it shows without the pattern."""
    known = backdoor(seed, classes=2, target=1)
    found = reached(known.samples, tmp_path)
    assert found.convicted == [1]
    assert found.flagged[known.poisoned].mean() >= 0.98 and found.flagged[~known.poisoned].sum() <= 1
    best = max((one for one in found.examination.findings if one.accused.label == 1), key=lambda one: one.bare)
    assert best.foreign < KNOWN < best.bare


@pytest.mark.parametrize("seed", range(2))
def test_of_two_classes_nothing_is_said_without_one(seed: int, tmp_path: Path) -> None:
    found = reached(untouched(seed, classes=2).samples, tmp_path)
    assert found.convicted == [] and not found.flagged.any()


def test_the_same_seed_gives_the_same_verdict(convicted: tuple[Known, Verdict], tmp_path: Path) -> None:
    known, found = convicted
    again = reached(known.samples, tmp_path)
    np.testing.assert_array_equal(again.probability, found.probability)
    assert again.labels == found.labels


# its files


def test_the_files_say_what_was_reached(convicted: tuple[Known, Verdict], tmp_path: Path) -> None:
    known, found = convicted
    account.write_judged(tmp_path / "judged.parquet", known.samples, found)
    account.write_flagged(tmp_path / "flagged.parquet", known.samples, found)
    patterns.write(tmp_path / "patterns.safetensors", found.patterns)
    columns = read_columns(tmp_path / "judged.parquet")
    np.testing.assert_array_equal(columns["sample_id"][columns["flagged"]], known.samples.sample_id[found.flagged])
    rows = pq.read_table(tmp_path / "flagged.parquet")
    chances = rows["probability"].to_pylist()
    assert chances == sorted(chances, reverse=True) and len(rows) == found.flagged.sum()
    assert all(reasons for reasons in rows["reasons"].to_pylist())
    images = rows["image"].combine_chunks().to_numpy_ndarray()
    order = np.searchsorted(known.samples.sample_id, rows["sample_id"].to_numpy())
    np.testing.assert_array_equal(images, known.samples.images[order])
    parts = ("difference", "weight", "colour", "displacement")
    assert load_file(tmp_path / "patterns.safetensors").keys() == {f"{TARGET}.{part}" for part in parts}
    told = account.as_json(found)
    assert (told["poisoned"], told["target_labels"], told["flagged"]) == (True, [TARGET], len(rows))
    assert [one["label"] for one in told["labels"]] == [0, 1, 2, 3]
    assert all(len(one["findings"]) <= 3 for one in told["labels"])


def test_nothing_found_leaves_empty_files(tmp_path: Path) -> None:
    samples = made_up(0, count=40)
    found = reached(samples, tmp_path)
    assert not found.convicted
    account.write_flagged(tmp_path / "flagged.parquet", samples, found)
    patterns.write(tmp_path / "patterns.safetensors", found.patterns)
    assert len(pq.read_table(tmp_path / "flagged.parquet")) == 0
    assert load_file(tmp_path / "patterns.safetensors") == {}


# sets that are hardly any


def test_a_label_of_few_samples_is_named_and_the_others_are_judged(tmp_path: Path) -> None:
    known = backdoor(0)
    few = np.flatnonzero(known.samples.labels == 0)[8:]
    samples = known.samples.take(np.delete(np.arange(len(known.samples)), few))
    found = reached(samples, tmp_path)
    assert found.convicted == [TARGET]
    assert [one.note for one in found.labels if one.note] == ["only 8 samples: not examined"]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("one class", lambda samples: samples.take(samples.labels == 1)),
        ("constant", lambda samples: replace(samples, images=np.full_like(samples.images, 90))),
        ("three samples", lambda samples: samples.take(np.arange(3))),
        ("one sample a class", lambda samples: samples.take(np.unique(samples.labels, return_index=True)[1])),
    ],
)
def test_where_there_is_nothing_to_compare_nothing_is_claimed(name: str, change: Callable[[Samples], Samples], tmp_path: Path) -> None:
    samples = change(made_up(0, count=200))
    found = reached(samples, tmp_path)
    assert found.convicted == [] and not found.flagged.any(), name
    assert [one.label for one in found.labels] == np.unique(samples.labels).tolist()


def test_embeddings_that_are_no_numbers_are_an_error(tmp_path: Path) -> None:
    samples = made_up(0, count=60)
    nobody = samples.take(np.empty(0, np.int64))
    trained = training.train(samples, nobody, RECIPE, device=CPU, checkpoint=tmp_path / "model.safetensors", title="made up")
    layers = {
        name: values.copy()
        for name, values in capture_all(
            trained.classifier, samples.images, layers=("pixels", "feature_map", "penultimate"), device=CPU
        ).items()
    }
    layers["penultimate"][7, 3] = np.nan
    case = Case(labels=samples.labels, classes=4, layers=layers, images=samples.images, classifier=trained.classifier)
    with pytest.raises(InputError, match=r"penultimate.*1 of 60 rows"):
        verdict.reach(case, samples, RECIPE, cache=tmp_path)
