"""Figures of detectors and verdicts against what was planted, by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from judgements import verdict_of

from wellcheck import assessment, truth
from wellcheck.assessment import Known
from wellcheck.cleansing import Judged
from wellcheck.samples import Description, Labels

# Ten samples; the last of class 1 are planted, one of class 2 is cover.
LABELS = np.array([0, 0, 0, 2, 2, 2, 1, 1, 1, 1])
POISONED = np.arange(10) >= 8
COVER = np.arange(10) == 5
NOTHING = np.zeros(10, bool)


def known(poisoned: np.ndarray = POISONED, *, cover: np.ndarray = COVER, anything: bool = True, targets: tuple[int, ...] = (1,)) -> Known:
    return Known(LABELS, poisoned, cover, anything, np.array(targets, np.int64))


def flags(*rows: int) -> np.ndarray:
    return np.isin(np.arange(10), rows)


def judged(flagged: np.ndarray, named: list[int], about: Known, **evidence: float) -> dict[str, Any]:
    strengths = {label: evidence.get(f"label{label}", 0.0) for label in range(3)}
    told = Judged(flagged.astype(float), flagged, LABELS)
    return assessment.verdict_figures(verdict_of(strengths, named, flagged=int(flagged.sum())), told, about)


# the truth


@pytest.mark.parametrize(("trigger", "targets"), [(True, [1]), (False, [])])
def test_what_is_known_of_a_set(tmp_path: Path, trigger: bool, targets: list[int]) -> None:
    delivered = Labels(np.arange(10) + 100, LABELS, Description(("a", "b", "c"), "made up"), (1, 4, 4), "hash")
    truth.write(tmp_path / "t.parquet", truth.Truth(delivered.sample_id, POISONED, COVER, LABELS))
    found = assessment.read_known(tmp_path / "t.parquet", delivered, trigger=trigger)
    np.testing.assert_array_equal(found.poisoned, POISONED)
    np.testing.assert_array_equal(found.cover, COVER)
    assert found.anything and found.targets.tolist() == targets
    none = np.empty(0, np.int64)
    truth.write(tmp_path / "t.parquet", truth.Truth(none, none.astype(bool), none.astype(bool), none))
    found = assessment.read_known(tmp_path / "t.parquet", delivered, trigger=False)
    assert not found.anything and not found.poisoned.any() and not found.cover.any() and not len(found.targets)


# detectors


def test_a_detectors_figures_by_hand() -> None:
    # Median 4.5, median absolute deviation 2.5: flagged above 23.03. That is the cover sample, one planted and one ordinary one.
    scores = np.array([0, 1, 2, 3, 4, 99, 5, 50, 60, 6.0])
    found = assessment.detector_figures(scores, known())
    assert (found["samples"], found["flagged"]) == (9, 3)
    assert {key: found[key] for key in ("tpr", "fpr", "precision", "f1")} == {"tpr": 0.5, "fpr": 1 / 7, "precision": 0.5, "f1": 0.5}
    # Of 7 · 2 pairs the ordinary sample with 50 comes before the planted one with 6; in the label 1 · 2 · 2 pairs.
    assert found["auroc"] == pytest.approx(13 / 14) and found["auroc_in_target_label"] == pytest.approx(3 / 4)
    assert found["average_precision"] == pytest.approx((1 + 2 / 3) / 2)


def test_samples_without_a_score_are_not_counted() -> None:
    scores = np.array([0, 1, 2, 3, 4, 99, 5, 50, 60, np.nan])
    found = assessment.detector_figures(scores, known())
    assert (found["samples"], found["flagged"], found["tpr"], found["fpr"]) == (8, 3, 1, 1 / 7)


@pytest.mark.parametrize(("value", "samples"), [(0.0, 9), (np.nan, 0)])
def test_a_detector_that_says_nothing_misses_everything(value: float, samples: int) -> None:
    found = assessment.detector_figures(np.full(10, value), known())
    assert (found["samples"], found["flagged"], found["precision"]) == (samples, 0, None)
    assert (found["tpr"], found["fpr"], found["f1"]) == ((0, 0, 0) if samples else (None, None, None))


# the verdict


@pytest.mark.parametrize(
    ("flagged", "tpr", "fpr", "precision", "f1"),
    [
        (flags(8, 9), 1, 0, 1, 1),
        (flags(8, 7, 6), 0.5, 2 / 7, 1 / 3, 2 / 5),
        (flags(5, 8, 9), 1, 0, 1, 1),  # about cover nobody is wrong
        (flags(5), 0, 0, None, 0),
        (flags(), 0, 0, None, 0),
    ],
)
def test_a_verdicts_flags_by_hand(flagged: np.ndarray, tpr: float, fpr: float, precision: float | None, f1: float) -> None:
    found = judged(flagged, [1], known(), label1=0.9)
    assert {key: found[key] for key in ("tpr", "fpr", "precision", "f1")} == {"tpr": tpr, "fpr": fpr, "precision": precision, "f1": f1}
    assert found["flagged"] == flagged.sum()


@pytest.mark.parametrize(
    ("named", "targets", "right"),
    [
        ([1], (1,), True),
        ([], (1,), False),
        ([2], (1,), False),
        ([1, 2], (1,), False),
        ([0, 1, 2], (0, 1, 2), True),  # all to all
        ([0, 2], (0, 1, 2), False),
        ([], (), None),  # no trigger leads anywhere
        ([2], (), None),
    ],
)
def test_whether_the_right_target_is_named(named: list[int], targets: tuple[int, ...], right: bool | None) -> None:
    assert judged(flags(), named, known(targets=targets))["right_target"] is right


@pytest.mark.parametrize(("named", "strongest"), [([], None), ([2], 2), ([0, 1], 1), ([0, 1, 2], 2)])
def test_the_strongest_label_stands_for_all(named: list[int], strongest: int | None) -> None:
    found = judged(flags(), named, known(), label0=0.5, label1=0.75, label2=0.9)
    assert (found["target_label"], found["target_labels"], found["poisoned"]) == (strongest, named, bool(named))
    assert found["p_value"] == 0.001


@pytest.mark.parametrize(("anything", "false_alarms"), [(False, None), (True, 0.2)])
def test_of_a_clean_set_one_knows_the_false_alarms_and_of_an_unknown_one_nothing(anything: bool, false_alarms: float | None) -> None:
    found = judged(flags(0, 1), [0], known(NOTHING, cover=NOTHING, anything=anything, targets=()))
    assert (found["fpr"], found["tpr"], found["right_target"]) == (false_alarms, None, None)
    detector = assessment.detector_figures(np.array([0, 1, 2, 3, 4, 5, 6, 7, 90, 99.0]), known(NOTHING, cover=NOTHING, anything=anything))
    assert (detector["fpr"], detector["tpr"], detector["auroc"], detector["flagged"]) == (false_alarms, None, None, 2)


def test_what_a_probability_is_worth_counts_inside_the_named_labels() -> None:
    # Label 1 has rows 6 to 9, of which 8 and 9 are poison: a flag on 8 and 7 is right once and wrong twice.
    assert judged(flags(7, 8), [1], known())["calibration_error"] == 0.0 + abs((2 - 1) / 4) + abs((0 - 1) / 4)
    assert judged(flags(8, 9), [1], known())["calibration_error"] == 0.0
    assert judged(flags(8, 9), [], known())["calibration_error"] is None
    assert judged(flags(8, 9), [1], known(NOTHING, cover=NOTHING, anything=False, targets=()))["calibration_error"] is None


# curves


def test_curves_leave_out_cover_and_what_has_no_score() -> None:
    scores = np.array([np.nan, np.nan, np.nan, np.nan, np.nan, 9, 1, 3, 2, 4])
    roc, precision_recall = assessment.curves("mine", scores, known())
    assert roc == [("mine", 0, 0), ("mine", 0, 0.5), ("mine", 0.5, 0.5), ("mine", 0.5, 1), ("mine", 1, 1)]
    assert precision_recall == [("mine", 0.5, 1), ("mine", 1, pytest.approx(2 / 3))]
    assert assessment.curves("mine", scores, known(NOTHING)) == ([], [])
