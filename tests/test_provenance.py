"""Where a result comes from: the commit, whether the code was changed, versions, device and seconds."""

import json
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import pytest

from wellcheck import __version__, provenance


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    # A repository around the temporary folder is not ours.
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))


def git(*arguments: str) -> str:
    settings = ["-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false", "-c", "core.hooksPath=/dev/null"]
    return subprocess.run(["git", *settings, *arguments], capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def commit() -> str:
    """A repository with one commit, laid out as ours."""
    git("init", "--quiet")
    for name in (
        "src/code.py",
        "stages/train.py",
        "experiments/a.yaml",
        "reports/metrics/classify.json",
        "dvc.yaml",
        "dvc.lock",
        "requirements.lock",
    ):
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("first\n")
    git("add", ".")
    git("commit", "--quiet", "-m", "first")
    return git("rev-parse", "HEAD")


def test_the_commit(commit: str) -> None:
    assert len(commit) == 40
    assert provenance.git_commit() == commit


@pytest.mark.parametrize("name", ["src/code.py", "stages/train.py", "experiments/a.yaml", "dvc.yaml", "requirements.lock"])
def test_changed_code_is_told(name: str, commit: str) -> None:
    Path(name).write_text("second\n")
    assert provenance.git_commit() == f"{commit}+changes"
    git("add", name)
    assert provenance.git_commit() == f"{commit}+changes"
    git("commit", "--quiet", "-m", "second")
    assert provenance.git_commit() == git("rev-parse", "HEAD") != commit


@pytest.mark.parametrize("name", ["reports/metrics/classify.json", "dvc.lock", "notes.txt", "src/untracked.py"])
def test_what_a_run_writes_and_what_git_does_not_know_is_no_change(name: str, commit: str) -> None:
    Path(name).write_text("second\n")
    assert provenance.git_commit() == commit


def test_deleted_code_is_a_change(commit: str) -> None:
    Path("src/code.py").unlink()
    assert provenance.git_commit() == f"{commit}+changes"


def test_outside_of_git_there_is_no_commit() -> None:
    assert provenance.git_commit() is None


def test_a_repository_without_a_commit_has_none() -> None:
    git("init", "--quiet")
    assert provenance.git_commit() is None


def test_without_git_there_is_no_commit(commit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert provenance.git_commit() is None


def test_versions_are_those_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    found = provenance.versions()
    assert found["python"] == platform.python_version()
    assert found["numpy"] == metadata.version("numpy") and found["wellcheck"] == __version__
    assert set(found) <= {"python", *provenance.PACKAGES}
    monkeypatch.setattr(provenance, "PACKAGES", ("numpy", "no-such-package-here"))
    assert set(provenance.versions()) == {"python", "numpy"}


def test_seconds_and_device_are_those_of_the_last_runs() -> None:
    folder = Path(".wellcheck/seconds")
    folder.mkdir(parents=True)
    runs = {
        "split": {"seconds": 1.234, "parts": {}},
        # Resumed after a kill: this run took 5 s, the training 65.
        "train@clean": {"seconds": 5.0, "parts": {}, "device": "CPU, 2 threads", "training_seconds": 65.004},
        # From a finished checkpoint that took less than reading the data does.
        "train@poisoned": {"seconds": 9.0, "parts": {}, "device": "CPU, 2 threads", "training_seconds": 3.0},
    }
    for name, run in runs.items():
        (folder / f"{name}.json").write_text(json.dumps(run))
    found = provenance.gather()
    assert found["seconds"] == {"split": 1.23, "train@clean": 65.0, "train@poisoned": 9.0}
    assert found["device"] == "CPU, 2 threads"
    assert set(found) == {"git_commit", "versions", "device", "seconds"}
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_nothing_ran_here() -> None:
    found = provenance.gather()
    assert found["seconds"] == {} and found["device"] == "unknown (restored from the cache)"
