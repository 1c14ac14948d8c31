"""The whole graph with the real commands: once on a small set, then all skipped, what each change reruns, experiments, and own images."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from workspace import ALL, Project, checkout, replace, stages_run

from wellcheck import params, samples
from wellcheck.artifacts import read_json

VARIANTS = {"clean", "poisoned", "cleansed", "perfect_filter", "random_filter"}
DEPEND_ON_POISON = {
    "poison", "train@poisoned", "attack", "evaluate", "detect", "verdict@poisoned", "cleanse", "controls", "label_errors", "assess",
    "report",
}  # fmt: skip
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
         ALL - {"evaluate", "evasion", "disparity", "label_errors", "explain", "report"}),
        # The verdict does not look at the map.
        ({"iterations: 50": "iterations: 60"}, {"project@clean", "project@poisoned", "detect", "assess", "report"},
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


def test_experiments_and_every_tool_that_compares_them(project: Project) -> None:
    ran = stages_run(project.dvc("exp", "run", "--name", "rate-five", "-S", "poison.rate=0.05"))
    assert ran >= DEPEND_ON_POISON
    assert not ran & {"download", "split", "train@clean", "embed@clean", "project@clean", "verdict@clean", "explain"}
    assert "rate-five" in project.dvc("exp", "show", "--no-pager")
    shown = json.loads(project.dvc("exp", "diff", "HEAD", "rate-five", "--json"))
    assert "params.yaml" in shown["params"]
    rate = json.loads(project.dvc("params", "diff", "--json"))["params.yaml"]["poison.rate"]
    assert (rate["old"], rate["new"]) == (0.1, 0.05)
    metrics = json.loads(project.dvc("metrics", "diff", "--json"))["reports/metrics/classify.json"]
    assert "poisoned.log_loss" in metrics
    for command in (("plots", "diff", "HEAD"), ("plots", "show")):
        page = Path(project.dvc(*command).strip().splitlines()[-1].removeprefix("file://"))
        text = page.read_text()
        titles = ("Loss by epoch", "Accuracy by epoch", "Confusion, cleansed", "ROC of the detectors", "Precision and recall of")
        assert all(title in text for title in titles)
        assert "false_positive_rate" in text
    project.restore()
    project.dvc("exp", "run", "--queue", "--name", "queued", "-S", "cleanse.action=relabel")
    # A queued one has no result yet, and is left out.
    assert "queued" not in project.wellcheck("compare")
    project.dvc("queue", "start")
    project.dvc("queue", "logs", "queued", "--follow")
    assert "queued" in project.dvc("exp", "list", "--name-only")
    project.wellcheck("compare")
    page_text = (project.folder / "reports/compare.html").read_text()
    assert all(name in page_text for name in ("rate-five", "queued", "poison.rate", "Attack success over poison.rate"))
    assert "no run" in project.wellcheck("compare", "workspace", "no-such-run", fails=True)
    project.restore()


def test_an_experiment_of_ours_runs_with_its_settings(project: Project) -> None:
    text = (
        'title: A quick one\nabout: For the test.\nparams:\n  disparity: {pairs: 5}\n  report: {title: "It\'s a test", experiment: quick}\n'
    )
    (project.folder / "experiments/quick.yaml").write_text(text)
    project.commit("an experiment")
    assert "quick" in project.wellcheck("experiments")
    project.wellcheck("experiment", "quick", "--publish")
    assert "It&#39;s a test" in (project.folder / "reports/index.html").read_text()
    published = read_json(project.folder / "results/quick.json")
    assert published["params"]["disparity"]["pairs"] == 5
    assert set(published["metrics"]) >= {"classify", "poison_detection", "label_errors", "explain"}
    assert {"git_commit", "versions", "device", "seconds", "date"} <= set(published["provenance"])
    assert published["provenance"]["seconds"]["train@poisoned"] > 0
    assert "queued" in project.wellcheck("experiment", "quick", "--queue", "-S", "train.epochs=1")
    assert "give one of them" in project.wellcheck("experiment", "quick", "--queue", "--publish", fails=True)
    project.dvc("queue", "remove", "--all")
    project.restore()


def test_a_users_own_folder_without_any_truth(project: Project) -> None:
    rng = np.random.default_rng(0)
    for name, level in (("dark", 40), ("<b>light</b>".replace("/", "_"), 200)):
        folder = project.folder / "data/own" / name
        folder.mkdir()
        for index in range(40):
            pixels = np.clip(rng.normal(level, 20, (20, 20, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{index}.png")
    try:
        project.dvc("exp", "run", "-S", "dataset.name=folder", "-S", "dataset.size=null", "-S", "poison.trigger=none")
        detection = read_json(project.folder / "reports/metrics/poison_detection.json")
        assert detection["planted"] == 0
        assert all(one["auroc"] is None and one["samples"] > 0 for one in detection["detectors"].values())
        # Nobody knows: how right the verdict is cannot be said, and the perfect filter has nothing to take out.
        assert {detection["verdict"][key] for key in ("tpr", "fpr", "precision", "f1", "right_target")} == {None}
        assert detection["controls"]["perfect_filter"]["removed"] == 0
        assert "backdoor" not in read_json(project.folder / "reports/metrics/classify.json")["poisoned"]
        page = (project.folder / "reports/index.html").read_text()
        assert "Nothing was planted by wellcheck" in page
        assert "&lt;b&gt;light" in page
        assert "<b>light" not in page
    finally:
        for path in (project.folder / "data/own").iterdir():
            if path.is_dir():
                shutil.rmtree(path)
        project.restore()
