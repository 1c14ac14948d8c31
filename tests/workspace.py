"""A checkout in a temporary folder and the commands that a person types there."""

import io
import os
import runpy
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = ("params.yaml", "dvc.yaml", ".dvcignore", ".gitignore", "pyproject.toml")
FOLDERS = ("src", "stages", "experiments", ".dvc", "data/own")
QUICK = {
    "epochs: 30": "epochs: 2",
    "limit: null": "limit: 400",
    "iterations: 300": "iterations: 50",
    "points_per_map: 3000": "points_per_map: 300",
    "epochs: 10 ": "epochs: 1 ",  # of label_errors
    "measured: 100": "measured: 20",
    "steps: 32": "steps: 4",
    "film: 60": "film: 3",
    "steps: 40": "steps: 3",
    "samples: 100 ": "samples: 30 ",
    "trials: 100 ": "trials: 5 ",
    "epsilons: [0.03, 0.1, 0.2]": "epsilons: [0.1]",
    "steps: 20": "steps: 3",
}
ALL = {
    "download", "split", "poison", "train@clean", "train@poisoned", "train@cleansed", "train@perfect_filter",
    "train@random_filter", "trigger", "attack", "evaluate", "evasion", "disparity", "twosample", "embed@clean", "embed@poisoned",
    "project@clean", "project@poisoned", "detect", "verdict@clean", "verdict@poisoned", "cleanse", "controls", "label_errors",
    "explain", "assess", "report",
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


def run_stage(folder: Path, script: str, *arguments: str, fails: bool = False, **changes: str) -> str:
    """Run a stage with changed params and return its summary, or what it complained of.

    It runs as its script does, but in this process: a new one would spend three seconds on importing PyTorch.
    A key that stands in several sections is meant in the stage's own; another's is named as `**{"train.epochs": "2"}`.
    """
    lines = (folder / "params.yaml").read_text().splitlines()
    for key, value in changes.items():
        lines[_line_of(lines, key, script)] = f"  {key.rpartition('.')[2]}: {value}"
    (folder / "params.yaml").write_text("\n".join([*lines, ""]))
    path, status = str(ROOT / "stages" / f"{script}.py"), 0
    told, complaint = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(told), redirect_stderr(complaint):
        patch.chdir(folder)
        patch.setenv("WELLCHECK_CACHE", str(folder / "cache"))
        patch.setattr(sys, "argv", [path, *arguments])
        try:
            runpy.run_path(path, run_name="__main__")
        except SystemExit as end:
            status = int(end.code or 0)
    assert status == int(fails), complaint.getvalue()
    return (complaint if fails else told).getvalue()


def _line_of(lines: list[str], key: str, script: str) -> int:
    """Where a parameter stands in params.yaml."""
    section, _, name = key.rpartition(".")
    heads = [row for row, line in enumerate(lines) if line[:1].isalpha()]
    found = {
        lines[max(head for head in heads if head < row)].split(":")[0]: row
        for row, line in enumerate(lines)
        if line.startswith(f"  {name}:")
    }
    if not section and len(found) == 1:
        (section,) = found
    return found[section or script]


def stages_run(output: str) -> set[str]:
    """The stages that really ran, from what DVC printed."""
    return {line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")}


class Project:
    """A checkout in a temporary folder and the commands typed there."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder = folder
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        self.environment = {
            **os.environ,
            "PATH": path,
            "WELLCHECK_CACHE": str(cache),
            "PYTHONPATH": str(folder / "src"),
            "COLUMNS": "10000",
        }
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
        return stages_run(self.dvc("repro"))

    def restore(self) -> None:
        """Back to what was committed, files of DVC's included."""
        self.run("git", "reset", "-q", "--hard")
        self.dvc("checkout", "--force")

    def commit(self, message: str) -> None:
        """Commit everything."""
        self.run("git", "add", "-A")
        self.run("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", message)
