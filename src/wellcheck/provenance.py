"""Where a result comes from: commit, versions, device, seconds. Read when a report is written; never part of what is hashed above it."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from wellcheck import stage

PACKAGES = ("wellcheck", "torch", "torchvision", "numpy", "scipy", "scikit-learn", "openTSNE", "pyarrow", "safetensors", "pillow", "dvc")


def gather() -> dict[str, Any]:
    """`git_commit` (None outside Git, `+changes` behind it where files differ), `versions`, `device`, `seconds` of each stage."""
    runs = stage.last_runs()
    return {
        "git_commit": git_commit(),
        "versions": versions(),
        "device": next((run["device"] for run in runs.values() if "device" in run), "unknown (restored from the cache)"),
        "seconds": {name: _seconds(run) for name, run in runs.items()},
    }


def versions() -> dict[str, str]:
    """Python's and the packages' versions; an absent package is left out."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """The commit of the code, with `+changes` where tracked code or settings differ from it."""
    # An archive unpacked inside somebody's checkout is none of that checkout.
    top, commit = _git("rev-parse", "--show-toplevel"), _git("rev-parse", "HEAD")
    if top is None or commit is None or Path(top).resolve() != Path.cwd().resolve():
        return None
    # Reports and the lock file are what a run writes: only a change of what it reads is worth a word.
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", "src", "stages", "experiments", "dvc.yaml", "requirements.lock")
    return commit + ("+changes" if changed else "")


def _git(*arguments: str) -> str | None:
    try:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _seconds(run: dict[str, Any]) -> float:
    # A resumed training counts what the interrupted runs had done.
    return round(float(max(run["seconds"], run.get("training_seconds", 0.0))), 2)
