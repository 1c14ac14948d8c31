"""Label errors as a stage: figures by hand, who is asked, what is found among labels that were changed on purpose, and that it resumes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from workspace import run_stage

from wellcheck import label_errors, params, samples, second_opinions
from wellcheck.artifacts import read_columns, read_csv, read_json, write_columns
from wellcheck.errors import InputError
from wellcheck.samples import Description, Samples

ROOT = Path(__file__).parent.parent


def test_figures_by_hand() -> None:
    labels, suggested = np.array([0, 0, 0, 1, 1, 3, 3]), np.array([1, 1, 3, 1, 0, 3, 0])
    candidate = np.array([1, 1, 1, 0, 1, 0, 0], bool)
    found = label_errors.LabelErrors(np.zeros((4, 4), np.int64), candidate, suggested, np.zeros(7))
    answers = np.array([1, 1, 0, 1, 0, 3, 3])
    figures = label_errors.figures(labels, found, answers, 4, 0.95)
    assert (figures["samples"], figures["candidates"], figures["share"]) == (7, 4, 4 / 7)
    assert figures["share_interval"][0] < 4 / 7 < figures["share_interval"][1]
    assert figures["answered_as_labelled"] == 4 / 7  # by what the models say, and not by what is suggested
    per_class = figures["per_class"]
    assert (per_class["samples"], per_class["candidates"]) == ([3, 2, 0, 2], [3, 1, 0, 0])
    assert (per_class["rate"], per_class["suggested"]) == ([1.0, 0.5, None, 0.0], [1, 0, None, None])
    assert per_class["interval"][2] is None and per_class["interval"][3][0] == 0
    pairs = [(one["label"], one["suggested"], one["count"]) for one in figures["pairs"]]
    assert pairs == [(0, 1, 2), (0, 3, 1), (1, 0, 1)]


def asking(**changes: Any) -> params.LabelErrors:
    """The committed settings with others."""
    return params.load(params.LabelErrors, ROOT / "params.yaml").model_copy(update={"samples": None, **changes})


def test_who_is_asked() -> None:
    labels = np.repeat([0, 1, 4], (30, 2, 20))
    everyone = second_opinions.choose(labels, asking(folds=3))
    np.testing.assert_array_equal(everyone.rows, np.flatnonzero(labels != 1))
    assert everyone.too_few == {1: 2}
    assert second_opinions.choose(labels, asking(folds=2)).too_few == {}
    some = second_opinions.choose(labels, asking(folds=3, samples=13))
    assert len(some.rows) <= 13 and set(labels[some.rows]) == {0, 4}
    assert second_opinions.choose(labels, asking(folds=2, samples=5)).too_few == {1: 0}  # none was drawn, and it is named all the same


@pytest.mark.parametrize("labels", [np.arange(1000) % 10, np.repeat(np.arange(10), 100)])
def test_every_class_is_asked_about_by_its_share_however_the_set_is_sorted(labels: np.ndarray) -> None:
    chosen = second_opinions.choose(labels, asking(folds=3, samples=101)).rows
    assert set(np.bincount(labels[chosen])) <= {10, 11}
    other = second_opinions.choose(labels, asking(folds=3, samples=101, seed=1)).rows
    assert (chosen[1:] > chosen[:-1]).all() and not np.array_equal(chosen, other)


@pytest.mark.parametrize(
    ("most", "told"),
    [
        (None, "found 25, but of 3 classes among 52 samples only 1 have as many, and at least two must: lower label_errors.folds"),
        (10, "lower label_errors.folds or raise label_errors.samples"),
    ],
)
def test_too_few_to_ask(most: int | None, told: str) -> None:
    with pytest.raises(InputError, match=f"{told}$"):
        second_opinions.choose(np.repeat([0, 1, 4], (30, 2, 20)), asking(folds=25, samples=most))


OUTPUTS = ("--judged", "j.parquet", "--listed", "l.csv", "--figures", "f.json")
FORMULA = '=HYPERLINK("http://x.example","click")'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Params and 62 images, dark ones of one class and light ones of another; rows 5 and 40 have the other's label; a class of two."""
    rng = np.random.default_rng(0)
    shown = np.array([0] * 30 + [1] * 30 + [2] * 2)
    images = (rng.integers(0, 60, (62, 1, 16, 16)) + 90 * shown[:, None, None, None]).astype(np.uint8)
    labels = shown.copy()
    labels[[5, 40]] = [1, 0]
    about = Description((FORMULA, "<b>light</b>", "rare"), "made here")
    samples.write(tmp_path / "set.parquet", Samples(100 + np.arange(62), images, labels, about))
    write_columns(tmp_path / "files.parquet", {"sample_id": 100 + np.arange(62), "file": np.array([f"a/{n}.png" for n in range(62)])})
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    return tmp_path


def test_the_stage_finds_what_was_mislabelled_and_goes_on_from_its_checkpoints(folder: Path) -> None:
    told = run_stage(folder, "label_errors", "set.parquet", "files.parquet", *OUTPUTS, epochs="6")
    assert "2 of 60 labels are likely wrong; not judged, for want of samples: rare" in told
    judged = read_columns(folder / "j.parquet")
    assert judged["sample_id"].tolist() == list(range(100, 160))
    assert judged["sample_id"][judged["candidate"]].tolist() == [105, 140]
    assert judged["suggested"][judged["candidate"]].tolist() == [0, 1]
    listed = read_csv(folder / "l.csv")
    assert {row["sample_id"]: (row["label"], row["suggested"]) for row in listed} == {
        "105": ("<b>light</b>", f"'{FORMULA}"),  # no spreadsheet takes it for a formula
        "140": (f"'{FORMULA}", "<b>light</b>"),
    }
    assert {row["sample_id"]: row["file"] for row in listed} == {"105": "a/5.png", "140": "a/40.png"}
    assert [float(row["quality"]) for row in listed] == sorted(float(row["quality"]) for row in listed)
    figures = read_json(folder / "f.json")
    assert (figures["of"], figures["samples"], figures["candidates"], figures["folds"]) == (62, 60, 2, 3)
    assert figures["skipped"] == [{"label": 2, "samples": 2}]
    checkpoints = sorted((folder / "cache/checkpoints").iterdir())
    assert len(checkpoints) == 3
    times = [path.stat().st_mtime_ns for path in checkpoints]
    before = [(folder / name).read_bytes() for name in OUTPUTS[1::2]]
    checkpoints[0].unlink()
    run_stage(folder, "label_errors", "set.parquet", "files.parquet", *OUTPUTS)
    assert [(folder / name).read_bytes() for name in OUTPUTS[1::2]] == before
    assert [path.stat().st_mtime_ns for path in checkpoints[1:]] == times[1:]  # only the one that was missing is trained again


def test_a_set_that_cannot_be_asked_is_one_line(folder: Path) -> None:
    told = run_stage(folder, "label_errors", "set.parquet", "files.parquet", *OUTPUTS, fails=True, folds="31")
    assert "label_errors: error: label_errors.folds: found 31" in told
    assert len(told.strip().splitlines()) == 1
    assert not any((folder / name).exists() for name in OUTPUTS[1::2])
