"""A disk that is really full: a stage says so in one line, and leaves nothing half-written."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from wellcheck import samples
from wellcheck.models import ModelDescription, build, storage
from wellcheck.samples import Description, Samples

ROOT = Path(__file__).parent.parent
QUICK = {"epochs: 30": "epochs: 1"}


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path_factory.mktemp("small")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("needs the right to mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with samples that do not compress, a model, and params.yaml."""
    folder = tmp_path_factory.mktemp("inputs")
    images = np.random.default_rng(0).integers(0, 256, (400, 1, 20, 20), np.uint8)
    samples.write(folder / "train.parquet", Samples(np.arange(400), images, np.arange(400) % 2, Description(("a", "b"), "noise")))
    model = build(ModelDescription("two_conv_cnn", ("a", "b"), (1, 20, 20)), seed=0)
    storage.save(folder / "model", model, [{"epoch": 0}])
    text = (ROOT / "params.yaml").read_text()
    for old, new in {**QUICK, "target_label: 3": "target_label: 1"}.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "params.yaml").write_text(text)
    return folder


@pytest.mark.parametrize(
    "arguments",
    [
        lambda disk: ["poison.py", "train.parquet", "--poisoned", f"{disk}/p.parquet", "--truth-out", f"{disk}/t.parquet"],
        lambda disk: ["train.py", "train.parquet", "train.parquet", "--model", f"{disk}/model"],
        lambda disk: ["embed.py", "train.parquet", "model", "--embedded", f"{disk}/e.safetensors"],
    ],
    ids=["poison", "train", "embed"],
)
def test_a_full_disk_is_one_line(arguments: Callable[[Path], list[str]], small_disk: Path, inputs: Path, tmp_path: Path) -> None:
    script, *rest = arguments(small_disk)
    environment = {**os.environ, "WELLCHECK_CACHE": str(tmp_path)}
    command = [sys.executable, str(ROOT / "stages" / script), *rest]
    done = subprocess.run(command, cwd=inputs, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert (
        done.stderr.strip().splitlines()[-1]
        == f"{script[:-3]}: error: the disk is full; nothing is half-written: make room and run it again"
    )
    assert "Traceback" not in done.stderr
    assert list(small_disk.iterdir()) == []
