"""The whole graph with the real commands: once on a small set, then all skipped, and what each change reruns."""

import shutil
from pathlib import Path

import pytest
from workspace import ALL, Project, checkout, replace

from wellcheck import params, samples
from wellcheck.artifacts import read_json

VARIANTS = {"clean", "poisoned", "cleansed", "perfect_filter", "random_filter"}
POISON_OUTPUTS = ("train.parquet", "truth.parquet")  # DVC takes a stage's old outputs away before it runs


def test_a_second_run_skips_every_stage(project: Project) -> None:
    assert project.repro() == set()
    assert "up to date" in project.dvc("status")


def test_everything_that_was_made_is_there_and_hidden_from_git(project: Project) -> None:
    classify = read_json(project.folder / "reports/metrics/classify.json")
    assert set(classify) == VARIANTS
    assert {path.stem for path in (project.folder / "reports/plots/confusion").iterdir()} == VARIANTS
    for variant in classify.values():
        assert 0.3 < variant["accuracy"] <= 1
        assert set(variant["backdoor"]) >= {"attack_success_rate", "predicted_target_rate"}
        assert len(variant["per_class"]["recall"]) == len(variant["per_class"]["precision"]) == 10
    detection = read_json(project.folder / "reports/metrics/poison_detection.json")
    detectors, verdict, controls = (detection[key] for key in ("detectors", "verdict", "controls"))
    assert set(detectors) == set(params.load(params.Detect, project.folder / "params.yaml").detectors)
    assert all(0 <= one["auroc"] <= 1 and one["seconds"] > 0 for one in detectors.values())
    assert verdict["poisoned"] == bool(verdict["target_labels"]) and 0 <= verdict["p_value"] <= 1
    assert controls["perfect_filter"]["removed"] == detection["planted"] > 0
    assert controls["random_filter"]["removed"] == verdict["flagged"]
    left = len(samples.read_labels(project.folder / "data/cleanse/cleansed.parquet"))
    assert left == len(samples.read_labels(project.folder / "data/poison/train.parquet")) - verdict["flagged"]
    tracked = project.run("git", "ls-files").split()
    assert not [name for name in tracked if name.endswith((".parquet", ".safetensors", ".html"))]
    shown = {"reports/metrics/classify.json", "reports/plots/roc.csv", "reports/plots/precision_recall.csv", "reports/flagged.csv"}
    shown |= {"reports/label_errors.csv", "reports/metrics/label_errors.json", "reports/metrics/explain.json"}
    assert {"dvc.lock", *shown} <= set(tracked)
    assert not list(project.folder.rglob("*.part"))


def test_the_same_params_give_the_same_bytes(project: Project) -> None:
    lock = (project.folder / "dvc.lock").read_text()
    again = Project(checkout_copy(project), project.folder.parent / "another-cache")
    assert again.repro() == ALL
    ours, theirs = (hashes(text) for text in (lock, (again.folder / "dvc.lock").read_text()))
    # Seconds are in the detection metrics and in the report, and nowhere else.
    assert {path for path in ours if ours[path] != theirs[path]} <= {"reports/metrics/poison_detection.json", "reports/index.html"}
    assert ours.keys() == theirs.keys()


def checkout_copy(project: Project) -> Path:
    """A second checkout with the same params, without Git: an unpacked archive."""
    folder = project.folder.parent / "archive"
    folder.mkdir()
    checkout(folder)
    shutil.copy(project.folder / "params.yaml", folder / "params.yaml")
    (folder / ".dvc/config.local").write_text("[core]\n    no_scm = true\n")
    return folder


def hashes(lock: str) -> dict[str, str]:
    """Output path → hash, from dvc.lock."""
    from ruamel.yaml import YAML

    stages = YAML(typ="safe", pure=True).load(lock)["stages"]
    return {out["path"]: out["md5"] for stage in stages.values() for out in stage["outs"]}


@pytest.mark.parametrize(
    ("change", "reruns", "spares"),
    [
        ({"images_per_grid: 16": "images_per_grid: 9"}, {"report"}, ALL - {"report"}),
        ({"confidence: 0.95": "confidence: 0.9"}, {"evaluate", "label_errors", "explain", "report"},
         ALL - {"evaluate", "evasion", "disparity", "twosample", "label_errors", "explain", "report"}),
        # The verdict does not look at the map.
        ({"iterations: 50": "iterations: 60"}, {"project@clean", "project@poisoned", "detect", "assess", "twosample", "report"},
         {"train@clean", "embed@clean", "verdict@clean", "verdict@poisoned", "cleanse", "train@cleansed", "evaluate"}),
        ({"action: remove": "action: relabel"}, {"cleanse"},
         {"verdict@poisoned", "train@poisoned", "train@perfect_filter", "train@random_filter", "assess"}),
    ],
    ids=["report", "evaluate", "project", "cleanse"],
)  # fmt: skip
def test_a_change_reruns_what_depends_on_it_and_nothing_else(
    project: Project, change: dict[str, str], reruns: set[str], spares: set[str]
) -> None:
    replace(project.folder, change)
    try:
        ran = project.repro()
        assert reruns <= ran
        assert not ran & spares
    finally:
        project.restore()


def test_new_files_in_the_users_folder_rerun_download_alone(project: Project) -> None:
    extra = project.folder / "data/own/new.txt"
    extra.write_text("x")
    try:
        assert project.repro() == {"download"}  # digits do not read the folder: the same bytes come out, and the rerun stops there
    finally:
        extra.unlink()
        project.restore()


def test_a_bad_setting_is_one_line_and_leaves_everything_as_it_was(project: Project) -> None:
    before = {path: path.stat().st_mtime_ns for path in (project.folder / "data").rglob("*.parquet")}
    replace(project.folder, {"target_label: 3": "target_label: 12"})
    output = project.dvc("repro", fails=True)
    assert {path for path in before if path.exists()} == set(before) - {project.folder / "data/poison" / name for name in POISON_OUTPUTS}
    assert all(path.stat().st_mtime_ns == before[path] for path in before if path.exists())
    project.restore()
    (line,) = [line for line in output.splitlines() if "poison: error:" in line]
    assert "poison.target_label: found 12, expected a class: 0 to 9" in line
    assert "Traceback" not in output
