"""The registry, the mirror, and stages/download.py as DVC starts it."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from ruamel.yaml import YAML

from wellcheck import samples
from wellcheck.artifacts import read_columns
from wellcheck.datasets import SOURCES, open_source
from wellcheck.errors import InputError
from wellcheck.params import Dataset, DatasetName

REPOSITORY = Path(__file__).parents[1]
REAL_MIRROR = os.environ.get("WELLCHECK_MIRROR", "")


def dataset(name: DatasetName, size: int | None = None) -> Dataset:
    return Dataset.model_validate({"name": name, "path": "unused", "size": size, "channels": None})


def png(grey: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (6, 6), grey).save(file, "PNG")
    return file.getvalue()


def write_table(path: Path, greys: list[int], labels: list[int], names: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"image": [{"bytes": png(grey), "path": f"{grey}.png"} for grey in greys], "label": labels})
    pq.write_table(table.replace_schema_metadata({"class_names": json.dumps(names)}), path)


def test_every_name_has_a_source() -> None:
    assert set(SOURCES) == set(get_args(DatasetName))


def test_digits_come_with_the_library() -> None:
    source = open_source(dataset("digits"))
    assert (len(source.train), source.test, source.image_shape, source.origin) == (1797, None, (1, 8, 8), "scikit-learn")
    images, labels = (np.concatenate(parts) for parts in zip(*source.train.batches(), strict=True))
    assert labels[:10].tolist() == list(range(10))
    # The first row of scikit-learn's first digit is 0 0 5 13 9 1 0 0, of 16.
    assert images[0, 0, 0].tolist() == [0, 0, 80, 207, 143, 16, 0, 0]
    assert images.max() == 255


def test_digits_are_enlarged() -> None:
    small, large = (open_source(dataset("digits", size)) for size in (None, 28))
    before, after = (np.concatenate([images for images, _ in source.train.batches()]) for source in (small, large))
    assert after.shape == (1797, 1, 28, 28)
    bicubic = Image.fromarray(before[5, 0]).resize((28, 28), Image.Resampling.BICUBIC)
    assert np.array_equal(after[5, 0], np.asarray(bicubic))
    # Enlarged, not padded or cropped: brightness stays where and what it was.
    quarters = [images.reshape(1797, 2, side // 2, 2, side // 2).mean(axis=(2, 4)) for images, side in ((before, 8), (after, 28))]
    assert np.abs(quarters[0] - quarters[1]).max() < 12


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WELLCHECK_MIRROR", str(tmp_path / "mirror"))
    monkeypatch.setenv("WELLCHECK_CACHE", str(tmp_path / "cache"))
    (tmp_path / "mirror").mkdir()
    return tmp_path / "mirror"


def test_the_mirror_is_tried_first(mirror: Path) -> None:
    write_table(mirror / "cifar10/train.parquet", [1, 2, 3], [0, 1, 0], ["a", "b"])
    source = open_source(dataset("cifar10"))
    assert (source.origin, source.class_names, source.test) == ("mirror", ("a", "b"), None)
    write_table(mirror / "cifar10/test.parquet", [4], [1], ["a", "b"])
    assert open_source(dataset("cifar10")).test is not None
    assert not (mirror.parent / "cache").exists()


def test_digits_are_never_mirrored(mirror: Path) -> None:
    write_table(mirror / "digits/train.parquet", [1, 2], [0, 1], ["a", "b"])
    assert open_source(dataset("digits")).origin == "scikit-learn"


def test_a_mirror_that_is_not_there_starts_no_download(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WELLCHECK_MIRROR", str(tmp_path / "typo"))
    with pytest.raises(InputError, match=r"WELLCHECK_MIRROR: found '.*typo', which is not a folder"):
        open_source(dataset("mnist"))


needs_real_mirror = pytest.mark.skipif(not REAL_MIRROR, reason="WELLCHECK_MIRROR is not set")


@needs_real_mirror
def test_the_real_mnist() -> None:
    if not Path(REAL_MIRROR, "mnist/test.parquet").exists():
        pytest.skip("the mirror has no mnist")
    # With size and channels given, the 60,000 training images are not even looked at.
    source = open_source(dataset("mnist", 28).model_copy(update={"channels": 1}))
    assert source.class_names == tuple("0123456789") and len(source.train) == 60_000 and source.image_shape == (1, 28, 28)
    assert source.test is not None and len(source.test) == 10_000
    images, labels = next(source.test.batches())
    assert labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert images[0].sum() == 18_454  # of the well-known first test image, from the original idx file


# the stage


def run_stage(folder: Path, **changes: Any) -> subprocess.CompletedProcess[str]:
    yaml = YAML()
    values = yaml.load((REPOSITORY / "params.yaml").read_text(encoding="utf-8"))
    values["dataset"].update({"path": "own", "size": None, **changes})
    with (folder / "params.yaml").open("w", encoding="utf-8") as file:
        yaml.dump(values, file)
    command = [sys.executable, str(REPOSITORY / "stages/download.py"), "--train", "out/train.parquet", "--test", "out/test.parquet"]
    command += ["--files", "out/files.parquet"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def test_where_your_images_lie_is_not_written_down(tmp_path: Path) -> None:
    write_table(tmp_path / "secret\n\u202e/own/train.parquet", [10, 20, 30], [1, 0, 1], ["cat", "dog"])
    done = run_stage(tmp_path, name="parquet", path=str(tmp_path / "secret\n\u202e/own"))
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1 and "\u202e" not in done.stdout
    assert samples.read_labels(tmp_path / "out/train.parquet").description.source == "own"


def test_the_stage_writes_both_splits(tmp_path: Path) -> None:
    write_table(tmp_path / "own/train.parquet", [10, 20, 30], [1, 0, 1], ["cat", "dog"])
    write_table(tmp_path / "own/test.parquet", [40, 50], [0, 1], ["cat", "dog"])
    done = run_stage(tmp_path, name="parquet")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("download: parquet from own: 3 training and 2 test images, 1x6x6, 2 classes (")
    train, test = (samples.read(tmp_path / f"out/{split}.parquet") for split in ("train", "test"))
    assert train.description == test.description == samples.Description(("cat", "dog"), "own")
    assert (train.sample_id.tolist(), test.sample_id.tolist()) == ([0, 1, 2], [3, 4])
    assert (train.labels.tolist(), test.labels.tolist()) == ([1, 0, 1], [0, 1])
    files = read_columns(tmp_path / "out/files.parquet")
    assert files["file"].tolist() == [*(f"train.parquet: row {row}" for row in range(3)), *(f"test.parquet: row {row}" for row in range(2))]
    assert train.images.shape == (3, 1, 6, 6) and train.images[:, 0, 3, 3].tolist() == [10, 20, 30]
    first = [(tmp_path / f"out/{split}.parquet").read_bytes() for split in ("train", "test")]
    assert run_stage(tmp_path, name="parquet").returncode == 0
    assert [(tmp_path / f"out/{split}.parquet").read_bytes() for split in ("train", "test")] == first


def test_the_stage_writes_an_empty_test_table(tmp_path: Path) -> None:
    for number, name in enumerate("ab"):
        (tmp_path / "own" / name).mkdir(parents=True)
        (tmp_path / "own" / name / "1.png").write_bytes(png(number))
    done = run_stage(tmp_path, name="folder", size=12, channels=3)
    assert done.returncode == 0, done.stderr
    assert "folder from own: 2 training images and no test split, 3x12x12, 2 classes" in done.stdout
    test = samples.read(tmp_path / "out/test.parquet")
    assert test.images.shape == (0, 3, 12, 12) and test.labels.shape == (0,)
    assert test.description.class_names == ("a", "b")
    files = read_columns(tmp_path / "out/files.parquet")
    assert (files["sample_id"].tolist(), files["file"].tolist()) == ([0, 1], ["a/1.png", "b/1.png"])


def test_the_stage_leaves_nothing_half_written(tmp_path: Path) -> None:
    write_table(tmp_path / "own/train.parquet", [10, 20], [1, 0], ["cat", "dog"])
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 6), np.uint8)).save(file, "PNG")
    # The header is fine: the fault shows after the training table is done.
    broken = {"bytes": file.getvalue()[:-40], "path": "dog/3.png"}
    pq.write_table(pa.table({"image": [broken], "label": [1]}), tmp_path / "own/test.parquet")
    done = run_stage(tmp_path, name="parquet")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("download: error: own/test.parquet: row 0 (dog/3.png): not a readable image: ")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []
