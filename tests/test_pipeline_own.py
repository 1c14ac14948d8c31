"""With the real commands: an experiment of ours, and a user's own images."""

import shutil

import numpy as np
from PIL import Image
from workspace import Project

from wellcheck.artifacts import read_json


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
    project.wellcheck("experiment", "quick", "--publish", "--stage", "evasion", "-S", "evasion.steps=2")
    published = read_json(project.folder / "results/quick.json")
    assert set(published["metrics"]) == {file.stem for file in (project.folder / "reports/metrics").glob("*.json")} - set(
        published["not_run"]
    )
    assert "evasion" in published["metrics"] and "disparity" in published["not_run"]  # disparity is of the attacks before
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
