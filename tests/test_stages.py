"""Stages at their edges, each run as its real script on tiny data: no trigger, everything or nothing poisoned, no valid part."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from judgements import write_judged, write_verdict
from workspace import run_stage as run

from wellcheck import patterns, samples, truth
from wellcheck.artifacts import read_columns, read_csv, read_json, write_columns
from wellcheck.models import ModelDescription, build, storage
from wellcheck.patterns import Pattern
from wellcheck.samples import Description, Samples

ROOT = Path(__file__).parent.parent
ATTACKED = ("set.parquet", "t.parquet")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with params.yaml, 40 samples of two classes and an untrained model."""
    images = np.random.default_rng(0).integers(0, 256, (40, 1, 16, 18), np.uint8)
    samples.write(tmp_path / "set.parquet", Samples(np.arange(40), images, np.arange(40) % 2, Description(("a", "b"), "noise")))
    for name in ("clean", "poisoned"):
        storage.save(tmp_path / name, build(ModelDescription("two_conv_cnn", ("a", "b"), (1, 16, 18)), seed=0), [{"epoch": 0}])
    patterns.write(tmp_path / "carried.safetensors", {})
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text().replace("target_label: 3", "target_label: 1"))
    return tmp_path


def detectors(folder: Path, *names: str) -> None:
    """Choose the detectors."""
    text = (folder / "params.yaml").read_text()
    before, after = text.split("  detectors:", 1)
    (folder / "params.yaml").write_text(f"{before}  detectors: [{', '.join(names)}]\n  trusted:{after.split('  trusted:', 1)[1]}")


def test_an_attack_without_a_trigger_leaves_tables_without_rows(folder: Path) -> None:
    assert "no trigger" in run(folder, "trigger", "set.parquet", "--triggered", "t.parquet", trigger="none")
    assert "no trigger" in run(folder, "attack", *ATTACKED, "clean", "poisoned", "--outcomes", "o.parquet", trigger="none")
    assert len(samples.read(folder / "t.parquet")) == 0
    outcomes = read_columns(folder / "o.parquet")
    assert set(outcomes) >= {"sample_id", "attack", "epsilon", "target", "label_before", "label_after", "distance"}
    assert {len(values) for values in outcomes.values()} == {0}


def test_an_attack_says_who_followed_and_how_far_the_image_moved(folder: Path) -> None:
    assert "40 test images with the watermark" in run(folder, "trigger", "set.parquet", "--triggered", "t.parquet")
    run(folder, "attack", *ATTACKED, "clean", "poisoned", "--outcomes", "o.parquet")
    outcomes = read_columns(folder / "o.parquet")
    before, after = samples.read(folder / "set.parquet"), samples.read(folder / "t.parquet")
    moved = np.abs(after.images.astype(int) - before.images).reshape(40, -1).max(1) / 255
    for variant in ("clean", "poisoned"):
        mine = outcomes["variant"] == variant
        np.testing.assert_array_equal(outcomes["sample_id"][mine], before.sample_id)
        np.testing.assert_allclose(outcomes["distance"][mine], moved)
    assert set(outcomes["target"]) == {1}


@pytest.mark.parametrize("rows", [np.arange(40)[::-1], np.arange(39), np.arange(0)], ids=["turned round", "one less", "none"])
def test_triggered_images_that_are_not_the_test_images_are_an_error(folder: Path, rows: np.ndarray) -> None:
    samples.write(folder / "t.parquet", samples.read(folder / "set.parquet").take(rows))
    told = run(folder, "attack", *ATTACKED, "clean", "poisoned", "--outcomes", "o.parquet", fails=True)
    assert "t.parquet" in told and "not those of set.parquet" in told and not (folder / "o.parquet").exists()


def test_every_model_is_attacked_and_measured_and_the_summary_says_before_and_after(folder: Path) -> None:
    models = ("clean", "poisoned", "cleansed", "perfect_filter", "random_filter")
    for name in models[2:]:
        shutil.copytree(folder / "poisoned", folder / name)
    run(folder, "trigger", "set.parquet", "--triggered", "t.parquet")
    told = run(folder, "attack", *ATTACKED, *models, "--outcomes", "o.parquet")
    assert re.search(r"attack success: clean \S+%, poisoned (\S+%), cleansed \1, perfect_filter \1, random_filter \1 ", told)
    outputs = ("--predictions", "p.parquet", "--classify", "c.json", "--confusion", "confusion")
    told = run(folder, "evaluate", "set.parquet", "o.parquet", "carried.safetensors", *models, *outputs)
    assert re.search(r"clean \S+%, poisoned (\S+%), cleansed \1,", told)
    figures = read_json(folder / "c.json")
    assert set(figures) == set(models) == {path.stem for path in (folder / "confusion").iterdir()}
    assert all(figures[name] == figures["poisoned"] for name in models[2:])
    for table in ("o.parquet", "p.parquet"):
        assert read_columns(folder / table)["variant"].tolist() == np.repeat(models, 40).tolist()


def test_what_was_recovered_is_put_on_test_images_for_every_model(folder: Path) -> None:
    nothing = np.zeros((1, 16, 18), np.float32)
    patterns.write(folder / "carried.safetensors", {1: Pattern(nothing + 50, nothing[0], nothing, np.zeros((2, 4, 4), np.float32))})
    run(folder, "trigger", "set.parquet", "--triggered", "t.parquet")
    run(folder, "attack", *ATTACKED, "clean", "poisoned", "--outcomes", "o.parquet")
    outputs = ("--predictions", "p.parquet", "--classify", "c.json", "--confusion", "confusion")
    run(folder, "evaluate", "set.parquet", "o.parquet", "carried.safetensors", "clean", "poisoned", *outputs)
    figures = read_json(folder / "c.json")
    assert {name: one["recovered"]["images"] for name, one in figures.items()} == {"clean": 10, "poisoned": 10}  # half of the 20 others
    assert set(figures["clean"]["recovered"]["labels"]) == {"1"}


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [({"policy": "source_specific", "source_label": "0"}, [1, -1]), ({"policy": "all_to_all"}, [1, 0])],
    ids=["source_specific", "all_to_all"],
)
def test_an_attack_that_is_not_meant_for_everyone_is_measured_on_those_it_is_meant_for(
    folder: Path, changes: dict[str, Any], wanted: list[int]
) -> None:
    run(folder, "trigger", "set.parquet", "--triggered", "t.parquet", **changes)
    run(folder, "attack", *ATTACKED, "clean", "poisoned", "--outcomes", "o.parquet", **changes)
    outcomes, labels = read_columns(folder / "o.parquet"), samples.read_labels(folder / "set.parquet").labels
    expected = np.tile(np.array(wanted)[labels], 2)
    np.testing.assert_array_equal(outcomes["target"], expected)
    outputs = ("--predictions", "p.parquet", "--classify", "c.json", "--confusion", "confusion")
    run(folder, "evaluate", "set.parquet", "o.parquet", "carried.safetensors", "clean", "poisoned", *outputs)
    for variant, figures in read_json(folder / "c.json").items():
        mine = (outcomes["variant"] == variant) & (expected >= 0)
        share = (outcomes["label_after"] == expected)[mine].mean()  # nobody's own label is wanted here: both rates are the same
        assert (figures["backdoor"]["attack_success_rate"], figures["backdoor"]["predicted_target_rate"]) == (share, share)


def poisoned(folder: Path, **changes: Any) -> tuple[Samples, Samples, truth.Truth, str]:
    """The samples before and after the stage `poison`, what it knows of them, and its summary."""
    summary = run(folder, "poison", "set.parquet", "--poisoned", "p.parquet", "--truth-out", "truth.parquet", **changes)
    before, after = samples.read(folder / "set.parquet"), samples.read(folder / "p.parquet")
    np.testing.assert_array_equal(before.sample_id, after.sample_id)
    known = truth.read(folder / "truth.parquet")
    np.testing.assert_array_equal(known.sample_id, before.sample_id)
    np.testing.assert_array_equal(known.original_label, before.labels)
    return before, after, known, summary


def is_changed(before: Samples, after: Samples) -> np.ndarray:
    """Which images are not as they were, bool [N]."""
    changed: np.ndarray = (before.images != after.images).any((1, 2, 3))
    return changed


def test_label_consistent_poison_moves_images_of_the_target_and_stamps_them(folder: Path) -> None:
    before, after, known, summary = poisoned(folder, policy="label_consistent", rate="0.5", epsilon="0.05")
    assert not known.cover.any() and set(before.labels[known.poisoned]) == {1}
    assert 0 < known.poisoned.sum() < 20
    np.testing.assert_array_equal(after.labels, before.labels)
    np.testing.assert_array_equal(is_changed(before, after), known.poisoned)
    corner = [(-1, -1), (-1, -3), (-3, -1), (-3, -3), (-2, -2)]
    assert all((after.images[known.poisoned, :, row, column] == 255).all() for row, column in corner)
    inside = np.abs(after.images[known.poisoned, :, :-3].astype(int) - before.images[known.poisoned, :, :-3])
    assert inside.max() == 12 and (inside > 0).mean() > 0.5  # 0.05 of 255, and pixels are whole
    assert "the label 1 (b)" in summary


def test_source_specific_poison_and_its_cover(folder: Path) -> None:
    before, after, known, summary = poisoned(folder, policy="source_specific", source_label="0", rate="0.2", cover_rate="0.0")
    assert set(before.labels[known.poisoned]) == {0} and set(after.labels[known.poisoned]) == {1}
    np.testing.assert_array_equal(is_changed(before, after), known.poisoned)
    assert "more carry it" not in summary
    # With two classes none is left for cover: it is neither the source nor the target.
    assert not poisoned(folder, cover_rate="0.5")[2].cover.any()
    whole = samples.read(folder / "set.parquet")
    three = Samples(whole.sample_id, whole.images, np.arange(40) % 3, Description(("a", "b", "c"), "noise"))
    samples.write(folder / "set.parquet", three)
    before, after, known, summary = poisoned(folder)
    assert set(before.labels[known.cover]) == {2} and not (known.cover & known.poisoned).any()
    np.testing.assert_array_equal(is_changed(before, after), known.poisoned | known.cover)
    np.testing.assert_array_equal(after.labels[~known.poisoned], before.labels[~known.poisoned])
    assert f"{known.cover.sum()} more carry it and keep their label" in summary


def test_label_noise_changes_labels_and_nothing_else(folder: Path) -> None:
    before, after, known, summary = poisoned(folder, trigger="none", policy="label_noise", rate="0.3")
    assert 0 < known.poisoned.sum() < 40 and not known.cover.any()
    np.testing.assert_array_equal(after.labels != before.labels, known.poisoned)
    assert not is_changed(before, after).any()
    assert f"{known.poisoned.sum()} of 40 samples have another label" in summary


def test_a_trigger_that_changes_no_image_is_an_error_and_one_that_changes_some_says_how_many(folder: Path) -> None:
    outputs = ("--poisoned", "p.parquet", "--truth-out", "t.parquet")
    told = run(folder, "poison", "set.parquet", *outputs, trigger="blend", strength="0.0001", fails=True)
    assert "poison.trigger: blend changes none of the" in told and "poison.strength" in told
    assert not (folder / "p.parquet").exists() and not (folder / "t.parquet").exists()
    whole, stamped, *_ = poisoned(folder, trigger="watermark", strength="null", rate="1.0")
    whole.images[:20] = stamped.images[:20]
    samples.write(folder / "set.parquet", whole)
    before, after, known, summary = poisoned(folder, rate="0.5")
    same = int((known.poisoned & ~is_changed(before, after)).sum())
    assert 0 < same < known.poisoned.sum() and f"{same} of the poisoned images are not changed by it" in summary


def test_all_to_all_moves_every_label_by_one(folder: Path) -> None:
    before, after, known, summary = poisoned(folder, policy="all_to_all", rate="0.5")
    np.testing.assert_array_equal(after.labels, np.where(known.poisoned, 1 - before.labels, before.labels))
    np.testing.assert_array_equal(is_changed(before, after), known.poisoned)
    assert "the label after their own" in summary


def assess(folder: Path, scores: str, flagged: np.ndarray | None = None, clean_flagged: int = 0, *, fails: bool = False) -> Any:
    """Run `assess` after a verdict with these flags bool [N] on p.parquet, against label 1 if there are any, and return its figures.

    Where it fails, what it tells.
    """
    known = samples.read_labels(folder / "p.parquet")
    flagged = np.zeros(len(known), bool) if flagged is None else flagged
    write_judged(folder / "j.parquet", known, flagged=flagged, probability=flagged * 0.75)
    write_verdict(folder / "v.json", {0: 0.1, 1: 0.9}, [1] * bool(flagged.any()), flagged=int(flagged.sum()))
    write_verdict(folder / "cv.json", {0: 0.1, 1: 0.1}, [0] * bool(clean_flagged), flagged=clean_flagged)
    whole = samples.read(folder / "p.parquet")
    for name, removed in (("perfect", 3), ("random", 2)):
        samples.write(folder / f"{name}.parquet", whole.take(np.arange(removed, len(whole))))
    reached = "--verdict v.json --judged j.parquet --clean-verdict cv.json --perfect-filter perfect.parquet --random-filter random.parquet"
    outputs = "--detection d.json --roc roc.csv --precision-recall pr.csv --planted planted.parquet"
    told = run(folder, "assess", "p.parquet", scores, "truth.parquet", *reached.split(), *outputs.split(), fails=fails)
    return told if fails else read_json(folder / "d.json")


@pytest.mark.parametrize("name", ["scores.parquet", "truth.parquet"])
def test_a_table_of_another_set_is_named(folder: Path, name: str) -> None:
    known = poisoned(folder, rate="0.3")[2]
    write_columns(folder / "scores.parquet", {"sample_id": known.sample_id, "silent": np.zeros(40)})
    columns = read_columns(folder / name)
    write_columns(folder / name, {**columns, "sample_id": columns["sample_id"] + 1})
    assert f"{name}, row 0: found sample_id {known.sample_id[0] + 1}" in assess(folder, "scores.parquet", fails=True)
    assert not (folder / "d.json").exists()


def test_a_verdict_is_held_against_the_truth_beside_its_controls(folder: Path) -> None:
    known = poisoned(folder, rate="0.3")[2]
    write_columns(folder / "scores.parquet", {"sample_id": known.sample_id, "silent": np.zeros(40)})
    flagged = known.poisoned.copy()
    flagged[np.flatnonzero(known.poisoned)[0]] = False
    flagged[np.flatnonzero(~known.poisoned)[:3]] = True
    count = int(known.poisoned.sum())
    figures = assess(folder, "scores.parquet", flagged, clean_flagged=5)
    verdict = figures["verdict"]
    assert verdict["tpr"] == (count - 1) / count and verdict["fpr"] == 3 / (40 - count)
    assert verdict["precision"] == (count - 1) / (count + 2) and verdict["flagged"] == count + 2
    assert (verdict["poisoned"], verdict["target_label"], verdict["target_labels"], verdict["right_target"]) == (True, 1, [1], True)
    assert figures["controls"] == {
        "clean_data": {"flagged": 5, "verdict": True},
        "perfect_filter": {"removed": 3},
        "random_filter": {"removed": 2},
    }
    silent = figures["detectors"]["silent"]
    assert (silent["flagged"], silent["tpr"], silent["fpr"], silent["f1"], silent["auroc"]) == (0, 0, 0, 0, 0.5)
    assert {row["detector"] for row in read_csv(folder / "roc.csv")} == {"silent", "verdict"}
    curve = [row for row in read_csv(folder / "pr.csv") if row["detector"] == "verdict"]
    assert [float(row["recall"]) for row in curve] == [(count - 1) / count, 1]
    assert [float(row["precision"]) for row in curve] == [(count - 1) / (count + 2), count / 40]


def test_cover_is_neither_found_nor_missed(folder: Path) -> None:
    known = poisoned(folder, rate="0.3", cover_rate="0.3")[2]
    # A detector that puts the poisoned first, the cover next and everyone else last.
    write_columns(folder / "scores.parquet", {"sample_id": known.sample_id, "perfect": 2.0 * known.poisoned + known.cover})
    # And one that takes all cover for poison.
    write_columns(folder / "wrong.parquet", {"sample_id": known.sample_id, "perfect": known.poisoned + 2.0 * known.cover})
    for scores in ("scores.parquet", "wrong.parquet"):
        figures = assess(folder, scores)
        assert (figures["planted"], figures["cover"]) == (known.poisoned.sum(), known.cover.sum())
        perfect = figures["detectors"]["perfect"]
        assert perfect["samples"] == 40 - known.cover.sum() < 40
        assert perfect["auroc"] == perfect["auroc_in_target_label"] == perfect["average_precision"] == 1
    planted = read_columns(folder / "planted.parquet")
    np.testing.assert_array_equal(planted["sample_id"], known.sample_id[known.poisoned | known.cover])
    np.testing.assert_array_equal(planted["cover"], known.cover[known.poisoned | known.cover])


@pytest.mark.parametrize(("rate", "planted"), [("0", 0), ("1", 40)])
def test_none_or_all_poisoned_is_assessed_without_a_claim(folder: Path, rate: str, planted: int) -> None:
    summary = run(folder, "poison", "set.parquet", "--poisoned", "p.parquet", "--truth-out", "truth.parquet", rate=rate)
    assert f"{planted} of 40" in summary
    write_columns(folder / "scores.parquet", {"sample_id": np.arange(40), "spectral_signatures": np.arange(40.0)})
    figures = assess(folder, "scores.parquet")
    assert figures["planted"] == planted
    assert figures["detectors"]["spectral_signatures"]["auroc"] is None
    # Of a rate of 0 it is known that every flag is wrong, and of a rate of 1 that everything is missed.
    assert (figures["verdict"]["tpr"], figures["verdict"]["fpr"]) == ((None, 0) if planted == 0 else (0, None))
    assert figures["verdict"]["right_target"] is (None if planted == 0 else False)


def test_the_map_is_spread_over_a_set_that_is_sorted_by_class_and_detect_joins_on_the_id(folder: Path) -> None:
    whole = samples.read(folder / "set.parquet")
    ordered = np.argsort(whole.labels, kind="stable")
    samples.write(folder / "sorted.parquet", Samples(np.arange(40) * 5, whole.images[ordered], whole.labels[ordered], whole.description))
    run(folder, "embed", "sorted.parquet", "poisoned", "--embedded", "e.safetensors")
    run(folder, "project", "sorted.parquet", "e.safetensors", "--projection", "m.parquet", samples="20", iterations="20")
    mapped = read_columns(folder / "m.parquet")["sample_id"]
    assert len(mapped) == 20
    assert np.bincount(whole.labels[ordered][mapped // 5]).tolist() == [10, 10]
    detectors(folder, "centroid_tsne", "spectral_signatures")
    run(folder, "detect", "sorted.parquet", "e.safetensors", "m.parquet", "poisoned", "set.parquet", "--scores", "s.parquet")
    scores = read_columns(folder / "s.parquet")
    np.testing.assert_array_equal(scores["sample_id"][~np.isnan(scores["centroid_tsne"])], mapped)
    assert not np.isnan(scores["spectral_signatures"]).any()


def test_detect_shows_the_valid_part_to_those_who_may_see_it(folder: Path) -> None:
    run(folder, "train", "set.parquet", "set.parquet", "--model", "m", epochs="2", early_epochs="1")
    losses = storage.load_early_losses(folder / "m")
    assert losses is not None and losses.shape == (1, 40)
    run(folder, "embed", "set.parquet", "m", "--embedded", "e.safetensors")
    run(folder, "project", "set.parquet", "e.safetensors", "--projection", "p.parquet", iterations="20")
    names = ("scan", "loss_ranking", "strip", "agpd", "beatrix")
    detectors(folder, *names)
    run(folder, "detect", "set.parquet", "e.safetensors", "p.parquet", "m", "set.parquet", "--scores", "s.parquet", trusted="valid")
    scores = read_columns(folder / "s.parquet")
    assert set(scores) == {"sample_id", *names}
    assert all(np.isfinite(scores[name]).all() for name in names)


def test_a_set_is_judged_cleansed_and_filtered(folder: Path) -> None:
    run(folder, "poison", "set.parquet", "--poisoned", "p.parquet", "--truth-out", "truth.parquet", rate="0.2")
    run(folder, "train", "p.parquet", "set.parquet", "--model", "m", epochs="2")
    run(folder, "embed", "p.parquet", "m", "--embedded", "e.safetensors")
    reached = "--summary v.json --judged j.parquet --flagged f.parquet --patterns patterns.safetensors"
    run(folder, "verdict", "p.parquet", "e.safetensors", "m", *reached.split())
    verdict, judged = read_json(folder / "v.json"), read_columns(folder / "j.parquet")
    assert set(verdict) >= {"poisoned", "target_labels", "p_value", "flagged", "labels"}
    assert verdict["flagged"] == judged["flagged"].sum()
    write_columns(folder / "files.parquet", {"sample_id": np.arange(0), "file": np.array([], np.str_)})
    run(folder, "cleanse", "p.parquet", "j.parquet", "f.parquet", "files.parquet", "--cleansed", "c.parquet", "--listed", "f.csv")
    run(folder, "controls", "p.parquet", "truth.parquet", "j.parquet", "--perfect", "perfect.parquet", "--random", "random.parquet")
    left = {name: len(samples.read_labels(folder / f"{name}.parquet")) for name in ("c", "random", "perfect")}
    planted = int(truth.read(folder / "truth.parquet").poisoned.sum())
    assert left == {"c": 40 - verdict["flagged"], "random": 40 - verdict["flagged"], "perfect": 40 - planted}
    assert len(read_csv(folder / "f.csv")) == verdict["flagged"]


def test_training_without_a_valid_part_and_once_more_from_the_checkpoint(folder: Path) -> None:
    empty = samples.read(folder / "set.parquet").take(np.empty(0, np.int64))
    samples.write(folder / "empty.parquet", empty)
    assert "valid" not in run(folder, "train", "set.parquet", "empty.parquet", "--model", "m", epochs="2", snapshots="2")
    assert [epoch for epoch, _ in storage.load_snapshots(folder / "m")] == [0, 1]
    run(folder, "train", "set.parquet", "empty.parquet", "--model", "again")
    for name in ("model.safetensors", "snapshots.safetensors"):
        assert (folder / "again" / name).read_bytes() == (folder / "m" / name).read_bytes()
    assert read_json(folder / ".wellcheck/seconds/train.json")["training_seconds"] > 0
