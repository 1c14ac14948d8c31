"""The whole graph with the real commands: once on a small set, then all skipped, what each change reruns, experiments and their tools."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from wellcheck.artifacts import read_json

ROOT = Path(__file__).parent.parent
FILES = ("params.yaml", "dvc.yaml", ".dvcignore", ".gitignore", "pyproject.toml")
FOLDERS = ("src", "stages", "experiments", ".dvc", "data/own")
QUICK = {
    "epochs: 40": "epochs: 2",
    "limit: null": "limit: 400",
    "iterations: 300": "iterations: 50",
    "points_per_map: 3000": "points_per_map: 300",
}
POISON_OUTPUTS = ("train.parquet", "truth.parquet")  # DVC takes a stage's old outputs away before it runs
ALL = {
    "download", "split", "poison", "train@clean", "train@poisoned", "attack", "evaluate", "embed@clean", "embed@poisoned",
    "project@clean", "project@poisoned", "detect", "assess", "report",
}  # fmt: skip


def checkout(folder: Path) -> Path:
    """What a user gets: the tracked files, without anything that was made."""
    for name in FILES:
        shutil.copy(ROOT / name, folder / name)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("cache", "tmp", "config.local", "__pycache__", "*.lock"))
    for path in (folder / "data/own").iterdir():
        if path.name != "README.md":
            path.unlink() if path.is_file() else shutil.rmtree(path)
    return folder


def replace(folder: Path, changes: dict[str, str]) -> None:
    """Edit params.yaml as a person would."""
    path = folder / "params.yaml"
    text = path.read_text()
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    path.write_text(text)


class Project:
    """A checkout in a temporary folder and the commands typed there."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder = folder
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        self.environment = {**os.environ, "PATH": path, "WELLCHECK_CACHE": str(cache), "PYTHONPATH": str(folder / "src"), "COLUMNS": "400"}
        self.environment.pop("WELLCHECK_MIRROR", None)

    def run(self, *command: str, fails: bool = False) -> str:
        """Run a command to its end and return all it printed."""
        done = subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False)
        output = done.stdout + done.stderr
        assert (done.returncode != 0) == fails, output
        return output

    def dvc(self, *arguments: str, fails: bool = False) -> str:
        """Run DVC."""
        return self.run(sys.executable, "-m", "dvc", *arguments, fails=fails)

    def wellcheck(self, *arguments: str, fails: bool = False) -> str:
        """Run our own command."""
        return self.run(sys.executable, "-m", "wellcheck.cli", *arguments, fails=fails)

    def repro(self) -> set[str]:
        """Run the pipeline and return the stages that really ran."""
        output = self.dvc("repro")
        return {line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")}

    def restore(self) -> None:
        """Back to what was committed, files of DVC's included."""
        self.run("git", "reset", "-q", "--hard")
        self.dvc("checkout", "--force")

    def commit(self, message: str) -> None:
        """Commit everything."""
        self.run("git", "add", "-A")
        self.run("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", message)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A Git checkout in which the whole graph has run once."""
    project = Project(checkout(tmp_path_factory.mktemp("project")), tmp_path_factory.mktemp("cache"))
    replace(project.folder, QUICK)
    project.run("git", "init", "-q", "-b", "main")
    project.run("git", "config", "user.name", "t")
    project.run("git", "config", "user.email", "t@example.org")
    assert project.repro() == ALL
    project.commit("first run")
    yield project


def test_a_second_run_skips_every_stage(project: Project) -> None:
    assert project.repro() == set()
    assert "up to date" in project.dvc("status")


def test_everything_that_was_made_is_there_and_hidden_from_git(project: Project) -> None:
    classify = read_json(project.folder / "reports/metrics/classify.json")
    assert set(classify) == {"clean", "poisoned"}
    for variant in classify.values():
        assert 0.3 < variant["accuracy"] <= 1
        assert set(variant["backdoor"]) >= {"attack_success_rate", "predicted_target_rate"}
        assert len(variant["per_class"]["recall"]) == len(variant["per_class"]["precision"]) == 10
    detectors = read_json(project.folder / "reports/metrics/poison_detection.json")["detectors"]
    assert set(detectors) == {"centroid_tsne", "centroid_penultimate", "spectral_signatures"}
    assert all(0 <= one["auroc"] <= 1 and one["seconds"] > 0 for one in detectors.values())
    tracked = project.run("git", "ls-files").split()
    assert not [name for name in tracked if name.endswith((".parquet", ".safetensors", ".html"))]
    assert {"dvc.lock", "reports/metrics/classify.json", "reports/plots/roc.csv"} <= set(tracked)
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
        ({"rate: 0.1": "rate: 0.2"}, {"poison", "train@poisoned", "attack", "evaluate", "detect", "assess", "report"},
         {"download", "split", "train@clean", "embed@clean", "project@clean"}),
        ({"images_per_grid: 16": "images_per_grid: 9"}, {"report"}, ALL - {"report"}),
        ({"confidence: 0.95": "confidence: 0.9"}, {"evaluate", "report"}, ALL - {"evaluate", "report"}),
        ({"iterations: 50": "iterations: 60"}, {"project@clean", "project@poisoned", "detect"}, {"train@clean", "embed@clean", "evaluate"}),
    ],
    ids=["poison.rate", "report", "evaluate", "project"],
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
