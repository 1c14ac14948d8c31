"""Runs side by side: DVC's own tools, and `wellcheck compare`."""

import json
from pathlib import Path

from workspace import Project, stages_run

DEPEND_ON_POISON = {
    "poison", "train@poisoned", "trigger", "attack", "evaluate", "detect", "verdict@poisoned", "cleanse", "controls", "label_errors",
    "assess", "report",
}  # fmt: skip


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
    project.dvc("exp", "run", "--queue", "--name", "queued", "-S", "poison.rate=0.05", "-S", "report.seed=1")
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
