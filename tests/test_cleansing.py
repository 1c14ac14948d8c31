"""Cleansing: who goes, who gets another label, what is refused, and what a person finds in the list."""

import csv
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from judgements import write_flagged, write_judged
from workspace import ROOT, run_stage

from wellcheck import cleansing, samples, truth
from wellcheck.artifacts import read_csv, write_columns
from wellcheck.cleansing import Judged, Plan
from wellcheck.errors import InputError
from wellcheck.samples import Labels, Samples

MakeSamples = Callable[..., Samples]
NAMES = ("cat", "dog", "emu")


def judged_as(flagged: list[int], suspected: list[int]) -> Judged:
    return Judged(np.array(flagged, float), np.array(flagged, bool), np.array(suspected, np.int64))


@pytest.fixture
def known(make_samples: MakeSamples, tmp_path: Path) -> Labels:
    """Six samples of three classes with ids from 10, in train.parquet."""
    samples.write(tmp_path / "train.parquet", make_samples(6, first_id=10))
    return samples.read_labels(tmp_path / "train.parquet")


# what becomes of whom


@pytest.mark.parametrize(
    ("action", "kept", "labels"),
    [
        # The second is flagged and shows a 2, the third is flagged and shows what it is labelled as.
        ("remove", [1, 0, 0, 1], [0, 1, 1, 2]),
        ("relabel", [1, 1, 0, 1], [0, 2, 1, 2]),
    ],
)
def test_the_flagged_go_or_get_the_label_that_they_show(action: str, kept: list[int], labels: list[int]) -> None:
    received = np.array([0, 1, 1, 2])
    after = cleansing.plan(received, judged_as([0, 1, 1, 0], [1, 2, 1, 0]), action)  # type: ignore[arg-type]
    assert after.kept.tolist() == [bool(one) for one in kept]
    np.testing.assert_array_equal(after.labels[after.kept], np.array(labels)[after.kept])
    assert after.figures(received) == {"remove": (2, 0), "relabel": (1, 1)}[action]
    assert received.tolist() == [0, 1, 1, 2]


@given(rows=st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.integers(0, 2)), max_size=30))
def test_whatever_was_flagged_the_rest_stays_as_it_is(rows: list[tuple[int, bool, int]]) -> None:
    labels, shown = (np.array([row[column] for row in rows], np.int64) for column in (0, 2))
    flagged = np.array([row[1] for row in rows], bool)
    judged = Judged(flagged.astype(float), flagged, shown)
    removed, relabelled = cleansing.plan(labels, judged, "remove"), cleansing.plan(labels, judged, "relabel")
    np.testing.assert_array_equal(removed.kept, ~flagged)
    np.testing.assert_array_equal(relabelled.kept, ~flagged | (shown != labels))
    for after in (removed, relabelled):
        np.testing.assert_array_equal(after.labels[~flagged], labels[~flagged])
    moved = flagged & relabelled.kept
    np.testing.assert_array_equal(relabelled.labels[moved], shown[moved])
    assert sum(relabelled.figures(labels)) == removed.figures(labels)[0] == flagged.sum()


# what is refused


@pytest.mark.parametrize(
    ("labels", "flagged", "suspected", "told"),
    [
        ([0, 1, 1], [0, 1, 1], [0, 0, 0], r"every sample is flagged of dog \(2\)"),
        ([0, 1, 2], [0, 1, 1], [0, 1, 0], r"every sample is flagged of dog \(1\), emu \(1\)"),
        ([0, 1], [1, 1], [0, 1], "of 2 samples none would be left to train on"),
        ([], [], [], "of 0 samples none would be left to train on"),
    ],
)
@pytest.mark.parametrize("action", ["remove", "relabel"])
def test_no_class_may_vanish(action: str, labels: list[int], flagged: list[int], suspected: list[int], told: str) -> None:
    received = np.array(labels, np.int64)
    after = cleansing.plan(received, judged_as(flagged, suspected), action)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=rf"^somewhere/judged\.parquet: {told}"):
        cleansing.check(Path("somewhere/judged.parquet"), received, after, NAMES)


@pytest.mark.parametrize(("labels", "flagged"), [([0, 1, 1], [0, 0, 1]), ([1, 1], [1, 0]), ([0, 2, 2, 2], [0, 1, 1, 0])])
@pytest.mark.parametrize("action", ["remove", "relabel"])
def test_a_class_that_was_never_there_is_not_missed(action: str, labels: list[int], flagged: list[int]) -> None:
    received = np.array(labels)
    after = cleansing.plan(received, judged_as(flagged, [0] * len(labels)), action)  # type: ignore[arg-type]
    cleansing.check(Path("judged.parquet"), received, after, NAMES)


def test_two_classes_that_change_places_may_do_so() -> None:
    received = np.array([0, 1])
    cleansing.check(Path("judged.parquet"), received, cleansing.plan(received, judged_as([1, 1], [1, 0]), "relabel"), NAMES)


# files


def test_what_was_judged_is_read_back(known: Labels, tmp_path: Path) -> None:
    flagged = np.arange(6) == 2
    path = write_judged(tmp_path / "judged.parquet", known, flagged=flagged, probability=flagged / 2)
    judged = cleansing.read_judged(path, known)
    np.testing.assert_array_equal(judged.flagged, flagged)
    np.testing.assert_array_equal(judged.probability, flagged / 2)
    np.testing.assert_array_equal(judged.suspected_label, known.labels)


@pytest.mark.parametrize(
    ("column", "values", "told"),
    [
        ("sample_id", np.array([10, 11, 12, 13, 14, 16]), r", row 5: found sample_id 16, but the training set has 15 there"),
        ("sample_id", np.arange(10, 16)[::-1], r", row 0: found sample_id 15, but the training set has 10 there"),
        ("suspected_label", np.array([0, 1, 2, 0, 1, 3]), r", row 5: suspected_label: found 3, expected a class: 0 to 2"),
        ("suspected_label", np.array([0, -1, 2, 0, 1, 2]), r", row 1: suspected_label: found -1, expected a class: 0 to 2"),
    ],
)
def test_what_was_judged_belongs_to_the_set(known: Labels, tmp_path: Path, column: str, values: np.ndarray, told: str) -> None:
    path = write_judged(tmp_path / "judged.parquet", known, **{column: values})
    with pytest.raises(InputError, match=rf"judged\.parquet{told}"):
        cleansing.read_judged(path, known)


def test_a_table_of_something_else_is_named(known: Labels, make_samples: MakeSamples, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"train\.parquet: found no column flagged, probability, suspected_label"):
        cleansing.read_judged(tmp_path / "train.parquet", known)
    samples.write(tmp_path / "less.parquet", make_samples(5, first_id=10))
    path = write_judged(tmp_path / "judged.parquet", samples.read_labels(tmp_path / "less.parquet"))
    with pytest.raises(InputError, match=r"judged\.parquet: found 5 samples, but the training set has 6"):
        cleansing.read_judged(path, known)
    with pytest.raises(InputError, match=r"absent\.parquet: not a readable Parquet table"):
        cleansing.read_judged(tmp_path / "absent.parquet", known)


def test_a_set_of_many_row_groups_is_rewritten_and_can_be_rewritten_again(
    make_samples: MakeSamples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "ROW_GROUP_BYTES", 16 * 7)  # seven images of 16 bytes
    whole = make_samples(40)
    samples.write(tmp_path / "train.parquet", whole)
    assert pq.ParquetFile(tmp_path / "train.parquet").num_row_groups == 6
    known = samples.read_labels(tmp_path / "train.parquet")
    kept = (np.arange(40) < 5) | (np.arange(40) > 20)  # a row group falls out
    labels = np.where(np.arange(40) == 30, 2, whole.labels)
    for name in ("one.parquet", "two.parquet"):
        cleansing.rewrite(tmp_path / "train.parquet", tmp_path / name, known, Plan(kept, labels))
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()
    left = samples.read(tmp_path / "one.parquet")
    np.testing.assert_array_equal(left.sample_id, whole.sample_id[kept])
    np.testing.assert_array_equal(left.images, whole.images[kept])
    np.testing.assert_array_equal(left.labels, labels[kept])
    assert left.description == whole.description


def test_a_set_of_which_nothing_is_taken_is_the_same_set(known: Labels, tmp_path: Path) -> None:
    everything = Plan(np.ones(6, bool), known.labels)
    cleansing.rewrite(tmp_path / "train.parquet", tmp_path / "again.parquet", known, everything)
    # The hash is what a finished training is found by.
    assert samples.read_labels(tmp_path / "again.parquet").content_hash == known.content_hash


# the list


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\r=x", "  =1+1"])
def test_a_cell_that_would_be_a_formula_is_text(cell: str) -> None:
    assert cleansing.as_text(cell) == f"'{cell}"


@pytest.mark.parametrize("cell", ["", "cat", "a=b", "3-1", "'quoted", " cat"])
def test_an_ordinary_cell_stays_as_it_is(cell: str) -> None:
    assert cleansing.as_text(cell) == cell


def test_the_list_names_classes_and_is_read_back_by_any_spreadsheet(tmp_path: Path) -> None:
    names = ("cat", "=HYPERLINK(1)", 'a "dog", big\nand small')
    write_flagged(tmp_path / "f.parquet", [(7, 0, 1, 0.9999999, ["one", "two, three"]), (5, 2, 2, 2 / 3, ["=2"]), (6, 1, 0, 0.75, [])])
    cleansing.write_flagged(tmp_path / "f.parquet", tmp_path / "f.csv", names, {7: "own/cat/7.png", 6: "=1.png"})
    with (tmp_path / "f.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["sample_id", "file", "label", "suspected_label", "probability", "reasons"],
        ["7", "own/cat/7.png", "cat", "'=HYPERLINK(1)", "1.0", "one; two, three"],
        ["5", "", names[2], names[2], "0.666667", "'=2"],
        ["6", "'=1.png", "'=HYPERLINK(1)", "cat", "0.75", ""],
    ]


def test_a_list_of_nobody_has_its_header(tmp_path: Path) -> None:
    write_flagged(tmp_path / "f.parquet", [])
    cleansing.write_flagged(tmp_path / "f.parquet", tmp_path / "f.csv", NAMES, {})
    assert (tmp_path / "f.csv").read_text() == "sample_id,file,label,suspected_label,probability,reasons\n"
    with pytest.raises(InputError, match=r"absent\.parquet: "):
        cleansing.write_flagged(tmp_path / "absent.parquet", tmp_path / "f.csv", NAMES, {})
    with pytest.raises(InputError, match=r"absent\.parquet: "):
        cleansing.read_files(tmp_path / "absent.parquet")


# the stages

FLAGGED = np.array([0, 0, 0, 1, 1, 0], bool)
CLEANSE = ("cleanse", "train.parquet", "judged.parquet", "flagged.parquet", "files.parquet", "--cleansed", "c.parquet", "--listed", "f.csv")
CONTROLS = ("controls", "train.parquet", "truth.parquet", "judged.parquet", "--perfect", "p.parquet", "--random", "r.parquet")


@pytest.fixture
def folder(known: Labels, tmp_path: Path) -> Path:
    """What the stages read: of the samples with labels 0 1 2 0 1 2 the fourth and fifth are flagged and show a 1."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    write_judged(tmp_path / "judged.parquet", known, flagged=FLAGGED, suspected_label=np.array([0, 1, 2, 1, 1, 2]))
    write_flagged(tmp_path / "flagged.parquet", [(13, 0, 1, 0.9, ["odd"]), (14, 1, 1, 0.8, [])])
    write_columns(tmp_path / "files.parquet", {"sample_id": np.array([13, 14]), "file": np.array(["a/1.png", "b/2.png"])})
    return tmp_path


@pytest.mark.parametrize(
    ("action", "ids", "labels", "told"),
    [
        ("remove", [10, 11, 12, 15], [0, 1, 2, 2], "2 of 6 samples removed ("),
        ("relabel", [10, 11, 12, 13, 15], [0, 1, 2, 1, 2], "1 of 6 samples removed, 1 relabelled ("),
    ],
)
def test_a_set_is_cleansed_and_its_list_written(folder: Path, action: str, ids: list[int], labels: list[int], told: str) -> None:
    assert told in run_stage(folder, *CLEANSE, action=action)
    left = samples.read_labels(folder / "c.parquet")
    assert (left.sample_id.tolist(), left.labels.tolist()) == (ids, labels)
    rows = read_csv(folder / "f.csv")
    assert [(row["file"], row["suspected_label"]) for row in rows] == [("a/1.png", "class 1"), ("b/2.png", "class 1")]


def test_a_class_that_would_vanish_stops_the_stage_and_leaves_the_list(folder: Path, known: Labels) -> None:
    write_judged(folder / "judged.parquet", known, flagged=known.labels == 2)
    assert "cleanse: error: judged.parquet: every sample is flagged of class 2 (2)" in run_stage(folder, *CLEANSE, fails=True)
    assert not (folder / "c.parquet").exists()
    assert len(read_csv(folder / "f.csv")) == 2


def plant(folder: Path, known: Labels, planted: list[int], cover: list[int]) -> None:
    poisoned, covers = (np.isin(known.sample_id, ids) for ids in (planted, cover))
    truth.write(folder / "truth.parquet", truth.Truth(known.sample_id, poisoned, covers, known.labels))


def test_the_perfect_filter_takes_what_was_planted_and_the_random_one_as_many_as_were_flagged(folder: Path, known: Labels) -> None:
    plant(folder, known, [10, 11, 15], [12])
    assert "perfect filter: 3 of 6 samples removed, random filter: 2" in run_stage(folder, *CONTROLS)
    assert samples.read_labels(folder / "p.parquet").sample_id.tolist() == [12, 13, 14]
    random = samples.read_labels(folder / "r.parquet")
    assert len(random) == 4 and np.isin(random.sample_id, known.sample_id).all()
    np.testing.assert_array_equal(random.labels, known.labels[random.sample_id - 10])
    before = (folder / "r.parquet").read_bytes()
    run_stage(folder, *CONTROLS)
    assert (folder / "r.parquet").read_bytes() == before


def test_where_nothing_is_known_the_perfect_filter_takes_nothing(folder: Path, known: Labels) -> None:
    nothing = np.empty(0, np.int64)
    truth.write(folder / "truth.parquet", truth.Truth(nothing, nothing.astype(bool), nothing.astype(bool), nothing))
    run_stage(folder, *CONTROLS)
    assert samples.read_labels(folder / "p.parquet").content_hash == known.content_hash


def test_filters_that_leave_nothing_or_do_not_fit_are_refused(folder: Path, known: Labels) -> None:
    plant(folder, known, list(range(10, 16)), [])
    told = run_stage(folder, *CONTROLS, fails=True)
    assert "truth.parquet: all 6 samples are to be removed, nothing would be left to train p on" in told
    other = truth.Truth(known.sample_id + 1, FLAGGED, FLAGGED, known.labels)
    truth.write(folder / "truth.parquet", other)
    assert "truth.parquet, row 0: found sample_id 11, but the training set has 10" in run_stage(folder, *CONTROLS, fails=True)


def test_the_random_filter_draws_from_a_stream_of_its_own(make_samples: MakeSamples, tmp_path: Path) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    samples.write(tmp_path / "train.parquet", make_samples(1000))
    known = samples.read_labels(tmp_path / "train.parquet")
    planted = np.random.default_rng(0).random(1000) < 0.2  # as the poisoner draws with the same seed
    plant(tmp_path, known, known.sample_id[planted].tolist(), [])
    write_judged(tmp_path / "judged.parquet", known, flagged=planted)
    drawn = []
    for seed in (0, 1):
        text = (ROOT / "params.yaml").read_text()
        (tmp_path / "params.yaml").write_text(re.sub(r"seed: 0(?= +# of the random filter)", f"seed: {seed}", text))
        run_stage(tmp_path, *CONTROLS)
        left = samples.read_labels(tmp_path / "r.parquet").sample_id
        drawn.append(~np.isin(known.sample_id, left))
        assert drawn[-1].sum() == planted.sum()
        # Hypergeometric: a fifth of what is drawn was planted, give or take four standard deviations.
        expected = planted.mean() * planted.sum()
        assert abs((drawn[-1] & planted).sum() - expected) < 4 * (expected * (1 - planted.mean()) ** 2) ** 0.5
    assert (drawn[0] != drawn[1]).any()
