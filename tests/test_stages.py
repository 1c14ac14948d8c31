"""Stages at their edges, each run as its real script on tiny data: no trigger, everything or nothing poisoned, no valid part."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from wellcheck import samples
from wellcheck.artifacts import read_columns, read_json
from wellcheck.models import ModelDescription, build, storage
from wellcheck.samples import Description, Samples

ROOT = Path(__file__).parent.parent


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with params.yaml, 40 samples of two classes and an untrained model."""
    images = np.random.default_rng(0).integers(0, 256, (40, 1, 16, 18), np.uint8)
    samples.write(tmp_path / "set.parquet", Samples(np.arange(40), images, np.arange(40) % 2, Description(("a", "b"), "noise")))
    for name in ("clean", "poisoned"):
        storage.save(tmp_path / name, build(ModelDescription("two_conv_cnn", ("a", "b"), (1, 16, 18)), seed=0), [{"epoch": 0}])
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text().replace("target_label: 3", "target_label: 1"))
    return tmp_path


def run(folder: Path, script: str, *arguments: str, **changes: str) -> str:
    """Run a stage with changed params and return its summary."""
    text = (folder / "params.yaml").read_text()
    for key, value in changes.items():
        (line,) = [line for line in text.splitlines() if line.startswith(f"  {key}:")]
        text = text.replace(line, f"  {key}: {value}")
    (folder / "params.yaml").write_text(text)
    environment = {**os.environ, "WELLCHECK_CACHE": str(folder / "cache")}
    command = [sys.executable, str(ROOT / "stages" / f"{script}.py"), *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_attack_without_a_trigger_leaves_tables_without_rows(folder: Path) -> None:
    outputs = ("--triggered", "t.parquet", "--outcomes", "o.parquet")
    assert "no trigger" in run(folder, "attack", "set.parquet", "clean", "poisoned", *outputs, trigger="none")
    assert len(samples.read(folder / "t.parquet")) == 0
    outcomes = read_columns(folder / "o.parquet")
    assert set(outcomes) >= {"sample_id", "attack", "epsilon", "target", "label_before", "label_after", "distance"}
    assert {len(values) for values in outcomes.values()} == {0}


def test_an_attack_says_who_followed_and_how_far_the_image_moved(folder: Path) -> None:
    run(folder, "attack", "set.parquet", "clean", "poisoned", "--triggered", "t.parquet", "--outcomes", "o.parquet")
    outcomes = read_columns(folder / "o.parquet")
    before, after = samples.read(folder / "set.parquet"), samples.read(folder / "t.parquet")
    moved = np.abs(after.images.astype(int) - before.images).reshape(40, -1).max(1) / 255
    for variant in ("clean", "poisoned"):
        mine = outcomes["variant"] == variant
        np.testing.assert_array_equal(outcomes["sample_id"][mine], before.sample_id)
        np.testing.assert_allclose(outcomes["distance"][mine], moved)
    assert set(outcomes["target"]) == {1}


@pytest.mark.parametrize(("rate", "planted"), [("0", 0), ("1", 40)])
def test_none_or_all_poisoned_is_assessed_without_a_claim(folder: Path, rate: str, planted: int) -> None:
    summary = run(folder, "poison", "set.parquet", "--poisoned", "p.parquet", "--truth-out", "truth.parquet", rate=rate)
    assert f"{planted} of 40" in summary
    from wellcheck.artifacts import write_columns

    write_columns(folder / "scores.parquet", {"sample_id": np.arange(40), "spectral_signatures": np.arange(40.0)})
    outputs = ("--detection", "d.json", "--roc", "roc.csv", "--planted", "planted.parquet")
    run(folder, "assess", "p.parquet", "scores.parquet", "truth.parquet", *outputs)
    figures = read_json(folder / "d.json")
    assert figures["planted"] == planted
    assert figures["detectors"]["spectral_signatures"]["auroc"] is None


def test_the_map_is_spread_over_a_set_that_is_sorted_by_class_and_detect_joins_on_the_id(folder: Path) -> None:
    whole = samples.read(folder / "set.parquet")
    ordered = np.argsort(whole.labels, kind="stable")
    samples.write(folder / "sorted.parquet", Samples(np.arange(40) * 5, whole.images[ordered], whole.labels[ordered], whole.description))
    run(folder, "embed", "sorted.parquet", "poisoned", "--embedded", "e.safetensors")
    run(folder, "project", "sorted.parquet", "e.safetensors", "--projection", "m.parquet", samples="20", iterations="20")
    mapped = read_columns(folder / "m.parquet")["sample_id"]
    assert len(mapped) == 20
    assert np.bincount(whole.labels[ordered][mapped // 5]).tolist() == [10, 10]
    run(folder, "detect", "sorted.parquet", "e.safetensors", "m.parquet", "--scores", "s.parquet")
    scores = read_columns(folder / "s.parquet")
    np.testing.assert_array_equal(scores["sample_id"][~np.isnan(scores["centroid_tsne"])], mapped)
    assert not np.isnan(scores["spectral_signatures"]).any()


def test_training_without_a_valid_part_and_once_more_from_the_checkpoint(folder: Path) -> None:
    empty = samples.read(folder / "set.parquet").take(np.empty(0, np.int64))
    samples.write(folder / "empty.parquet", empty)
    assert "valid" not in run(folder, "train", "set.parquet", "empty.parquet", "--model", "m", epochs="2")
    weights = (folder / "m/model.safetensors").read_bytes()
    run(folder, "train", "set.parquet", "empty.parquet", "--model", "again")
    assert (folder / "again/model.safetensors").read_bytes() == weights
    assert read_json(folder / ".wellcheck/seconds/train.json")["training_seconds"] > 0
