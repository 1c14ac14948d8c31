"""The user's own folder and Parquet files: what comes in, and what is refused with which words."""

import io
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from wellcheck.datasets import Source, Split, open_source
from wellcheck.errors import InputError
from wellcheck.params import Dataset


def png(grey: int, size: tuple[int, int] = (4, 4)) -> bytes:
    file = io.BytesIO()
    Image.new("L", size, grey).save(file, "PNG")
    return file.getvalue()


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def open_own(name: str, path: Path, size: int | None = None) -> Source:
    return open_source(Dataset.model_validate({"name": name, "path": str(path), "size": size, "channels": None}))


def contents(split: Split | None) -> list[tuple[int, int]]:
    """(grey value, label) of every image."""
    assert split is not None
    return [(int(image[0, 0, 0]), int(label)) for images, labels in split.batches() for image, label in zip(images, labels, strict=True)]


# folder


def test_a_folder_of_classes_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    for number, name in enumerate(["dog/b.png", "dog/a.png", "cat/10.PNG", "cat/2.png", "cat/sub/c.png"]):
        put(tmp_path / name, png(number))
    put(tmp_path / "README.md", b"ignored")
    put(tmp_path / "cat/notes.txt", b"ignored")
    put(tmp_path / "cat/.hidden.png", b"ignored")
    put(tmp_path / ".cache/x.png", b"ignored")
    source = open_own("folder", tmp_path)
    assert (source.class_names, source.origin, source.image_shape, source.test) == (("cat", "dog"), str(tmp_path), (1, 4, 4), None)
    assert contents(source.train) == [(2, 0), (3, 0), (4, 0), (1, 1), (0, 1)]


@pytest.mark.parametrize("test_name", ["test", "val", "validation", "valid"])
def test_a_folder_with_splits(tmp_path: Path, test_name: str) -> None:
    for number, name in enumerate(["train/a/1.png", "train/b/1.png", f"{test_name}/a/1.png", f"{test_name}/b/1.png"]):
        put(tmp_path / name, png(number))
    source = open_own("folder", tmp_path)
    assert contents(source.train) == [(0, 0), (1, 1)]
    assert contents(source.test) == [(2, 0), (3, 1)]


def test_test_goes_before_validation(tmp_path: Path) -> None:
    for number, name in enumerate(f"{split}/{label}/1.png" for split in ("train", "val", "test") for label in "ab"):
        put(tmp_path / name, png(number))
    assert contents(open_own("folder", tmp_path).test) == [(4, 0), (5, 1)]


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    for name in ("train/1.png", "plane/1.png"):
        put(tmp_path / name, png(1))
    assert open_own("folder", tmp_path).class_names == ("plane", "train")


def test_odd_names_stay_text(tmp_path: Path) -> None:
    for name in ("a\nb/1.png", "<script>/1.png"):
        put(tmp_path / name, png(1))
    assert open_own("folder", tmp_path).class_names == ("<script>", "a\ufffdb")


def test_the_size_is_taken_from_the_parameters(tmp_path: Path) -> None:
    put(tmp_path / "a/1.png", png(10, (9, 5)))
    put(tmp_path / "b/1.png", png(20, (50, 70)))
    source = open_own("folder", tmp_path, size=12)
    ((images, labels),) = source.train.batches()
    assert images.shape == (2, 1, 12, 12) and labels.dtype == np.int64
    assert (images[0] == 10).all() and (images[1] == 20).all()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (None, "own is not a folder; expected <class>/<image>"),
        ([], "own: no class folders"),
        (["1.png", "2.png"], "own: no class folders"),
        (["a/1.png"], "found 1 class, expected at least 2"),
        (["a/1.png", "b/readme.txt", "b/x.csv"], r"own: class folder 'b' has no images \(2 files of other kinds were skipped\)"),
        (["a/1.png", "b/.1.png"], "own: class folder 'b' has no images$"),
        (["train/a/1.png", "train/b/1.png", "test/a/1.png"], "own/train has a class folder 'b' that .*own/test lacks"),
        (["train/a/1.png", "train/b/1.png", "test/a/1.png", "test/b/1.png", "test/c/1.png"], "own/test has a class folder 'c'"),
        (["train/a/1.png", "train/b/1.png", "test/1.png"], "own/test: no class folders"),
        (["a/1.png", "b/broken.png"], r"own/b/broken.png: not a readable image"),
    ],
)
def test_bad_folders_are_refused(tmp_path: Path, files: list[str] | None, message: str) -> None:
    root = tmp_path / "own"
    if files is not None:
        root.mkdir()
        for name in files:
            put(root / name, b"broken" if "broken" in name else png(1))
    with pytest.raises(InputError, match=message):
        open_own("folder", root)


@pytest.mark.parametrize("link", ["a/2.png", "c", "a/sub"])
def test_links_out_of_the_folder_are_refused(tmp_path: Path, link: str) -> None:
    root = tmp_path / "own"
    for name in ("a/1.png", "b/1.png"):
        put(root / name, png(1))
    outside = put(tmp_path / "outside/secret.png", png(2))
    (root / link).symlink_to(outside if link.endswith("png") else outside.parent)
    with pytest.raises(InputError, match=f"own/{link}: a symbolic link that leads out of"):
        open_own("folder", root)


def test_a_train_folder_that_leads_out_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "outside/a/1.png", png(1))
    (tmp_path / "own").mkdir()
    (tmp_path / "own/train").symlink_to(tmp_path / "outside")
    with pytest.raises(InputError, match="own/train: a symbolic link that leads out of"):
        open_own("folder", tmp_path / "own")


@pytest.mark.parametrize(("target", "message"), [("nowhere.png", "leads nowhere"), ("2.png", "leads nowhere"), ("..", "back to a folder")])
def test_broken_and_circular_links_are_refused(tmp_path: Path, target: str, message: str) -> None:
    for name in ("a/1.png", "b/1.png"):
        put(tmp_path / name, png(1))
    (tmp_path / "a/2.png").symlink_to(target)
    with pytest.raises(InputError, match=f"a/2.png: a symbolic link.*{message}"):
        open_own("folder", tmp_path)


def test_a_ring_of_folders_is_refused(tmp_path: Path) -> None:
    for name in ("a/sub/1.png", "b/1.png"):
        put(tmp_path / name, png(1))
    (tmp_path / "a/sub/ring").symlink_to(".")
    with pytest.raises(InputError, match=r"a/sub/ring: a symbolic link back to a folder it is in"):
        open_own("folder", tmp_path)


def test_links_within_the_folder_and_to_the_folder_are_followed(tmp_path: Path) -> None:
    for name in ("own/a/1.png", "own/b/1.png"):
        put(tmp_path / name, png(1))
    (tmp_path / "own/a/2.png").symlink_to("../b/1.png")
    (tmp_path / "link").symlink_to("own")
    assert contents(open_own("folder", tmp_path / "link").train) == [(1, 0), (1, 0), (1, 1)]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_not_read(tmp_path: Path) -> None:
    for name in ("a/1.png", "b/1.png"):
        put(tmp_path / name, png(1))
    os.mkfifo(tmp_path / "a/2.png")
    assert len(open_own("folder", tmp_path).train) == 2


# parquet


def rows(*greys: int) -> list[dict[str, object]]:
    return [{"bytes": png(grey), "path": f"dog/{grey}.png"} for grey in greys]


LABEL = pa.int64()
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write(
    path: Path,
    images: Sequence[object],
    labels: Sequence[object],
    names: object = ("a", "b"),
    *,
    key: str = "huggingface",
    label_type: pa.DataType = LABEL,
    image_type: pa.DataType = IMAGE,
) -> Path:
    table = pa.table({"image": pa.array(images, image_type), "label": pa.array(labels, label_type)})
    value = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}} if key == "huggingface" else names
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata({key: json.dumps(value)} if names is not None else None), path)
    return path


@pytest.mark.parametrize("key", ["huggingface", "class_names"])
def test_class_names_come_from_the_metadata(tmp_path: Path, key: str) -> None:
    write(tmp_path / "train.parquet", rows(1, 2, 3), [1, 0, 1], key=key)
    source = open_own("parquet", tmp_path)
    assert source.class_names == ("a", "b")
    assert contents(source.train) == [(1, 1), (2, 0), (3, 1)]


def test_hugging_face_goes_before_class_names(tmp_path: Path) -> None:
    path = write(tmp_path / "train.parquet", rows(1, 2), [0, 1])
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, b"class_names": b'["x", "y"]'}), path)
    assert open_own("parquet", tmp_path).class_names == ("a", "b")


def test_without_names_classes_are_numbered(tmp_path: Path) -> None:
    source = open_own("parquet", write(tmp_path / "mine.parquet", rows(1, 2, 3), [2, 0, 1], None))
    assert source.class_names == ("0", "1", "2") and source.test is None
    assert source.origin == str(tmp_path / "mine.parquet")


@pytest.mark.parametrize("label_type", [pa.int8(), pa.uint64(), pa.int32()])
def test_any_integer_is_a_label(tmp_path: Path, label_type: pa.DataType) -> None:
    write(tmp_path / "train.parquet", rows(1, 2), [1, 0], label_type=label_type)
    assert contents(open_own("parquet", tmp_path).train) == [(1, 1), (2, 0)]


@pytest.mark.parametrize("folder", ["", "data/"])
def test_shards_follow_each_other(tmp_path: Path, folder: str) -> None:
    write(tmp_path / f"{folder}train-00001-of-00002.parquet", rows(3, 4), [0, 1])
    write(tmp_path / f"{folder}train-00000-of-00002.parquet", rows(1, 2), [0, 1])
    write(tmp_path / f"{folder}validation-00000-of-00001.parquet", rows(9), [1])
    write(tmp_path / f"{folder}test-00000-of-00001.parquet", rows(5), [1])
    source = open_own("parquet", tmp_path)
    assert contents(source.train) == [(1, 0), (2, 1), (3, 0), (4, 1)]
    assert contents(source.test) == [(5, 1)]


def test_a_missing_shard_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "train-00000-of-00002.parquet", rows(1, 2), [0, 1])
    with pytest.raises(InputError, match=r"found train-00000-of-00002.parquet, expected 2 files"):
        open_own("parquet", tmp_path)


def test_a_test_file_without_rows_is_no_test_split(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", rows(1, 2), [0, 1])
    write(tmp_path / "test.parquet", [], [])
    assert open_own("parquet", tmp_path).test is None


@pytest.mark.parametrize(
    ("images", "labels", "options", "message"),
    [
        (rows(1, 2, 3), [0, 1, 2], {}, "train.parquet: row 2: label is 2, expected 0 to 1"),
        (rows(1, 2, 3), [0, -1, 1], {}, "train.parquet: row 1: label is -1, expected 0 to 1"),
        (rows(1, 2, 3), [0, None, 1], {}, "train.parquet: row 1: label is null"),
        (rows(1, 2), [-1, 0], {"names": None}, "train.parquet: row 0: label is -1, expected at least 0"),
        (rows(1, 2), [0, 2**64 - 1], {"names": None, "label_type": pa.uint64()}, "train.parquet: row 1: label is 18446744073709551615"),
        (rows(1, 2), [0, 10**12], {"names": None}, "no training image has label 1, though labels go up to 1000000000000"),
        (rows(1, 2), ["0", "1"], {"label_type": pa.string()}, "train.parquet: column 'label' is string, expected int64"),
        (rows(1, 2), [0.0, 1.0], {"label_type": pa.float64()}, "column 'label' is double, expected int64"),
        ([png(1), png(2)], [0, 1], {"image_type": pa.binary()}, "column 'image' is binary, expected struct<bytes"),
        ([{"path": "1.png"}], [0], {"image_type": pa.struct([("path", pa.string())])}, "column 'image' is struct<path: string>"),
        ([*rows(1), None], [0, 1], {}, "train.parquet: row 1: no image bytes"),
        ([*rows(1), {"bytes": None, "path": "x.png"}], [0, 1], {}, r"train.parquet: row 1 \(x.png\): no image bytes"),
        ([*rows(1), {"bytes": b"broken", "path": "dog/3.png"}], [0, 1], {}, r"train.parquet: row 1 \(dog/3.png\): not a readable image"),
        ([*rows(1), {"bytes": b"broken", "path": "a\nb"}], [0, 1], {}, "row 1 \\(a\ufffdb\\): not a readable image"),
        (rows(1, 2), [0, 1], {"names": ["a", "b", "c"]}, r"class 'c' \(label 2\) has no training image; 1 of 3 classes"),
        (rows(1, 2), [0, 1], {"names": ["a", "a"]}, "2 classes have the same name 'a'"),
        (rows(1, 2), [0, 1], {"names": ["a", 5]}, "'huggingface' has no list of class names"),
        (rows(1, 2), [0, 1], {"names": "ab", "key": "class_names"}, "'class_names' has no list of class names"),
        (rows(1, 2), [0, 0], {"names": ["a"]}, "found 1 class, expected at least 2"),
        ([], [], {}, "no training images"),
        ([], [], {"names": None}, "no training images"),
    ],
)
def test_bad_tables_are_refused(
    tmp_path: Path, images: list[object], labels: list[object], options: dict[str, object], message: str
) -> None:
    write(tmp_path / "train.parquet", images, labels, **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=message):
        list(open_own("parquet", tmp_path).train.batches())


@pytest.mark.parametrize("column", ["image", "label"])
def test_a_missing_column_is_named(tmp_path: Path, column: str) -> None:
    path = write(tmp_path / "train.parquet", rows(1, 2), [0, 1])
    renamed = pq.read_table(path).rename_columns({column: "other"})
    pq.write_table(renamed, path)
    with pytest.raises(InputError, match=f"train.parquet: no column '{column}'; found .*other"):
        open_own("parquet", tmp_path)


def test_the_row_is_counted_within_its_file(tmp_path: Path) -> None:
    write(tmp_path / "train-00000-of-00002.parquet", rows(*range(100)), [0, 1] * 50)
    write(tmp_path / "train-00001-of-00002.parquet", [*rows(*range(70)), {"bytes": b"x", "path": "p"}], [0] * 71)
    with pytest.raises(InputError, match=r"train-00001-of-00002.parquet: row 70 \(p\)"):
        open_own("parquet", tmp_path)


def test_damage_found_while_decoding_names_the_row(tmp_path: Path) -> None:
    cut = png(1, (60, 60))
    cut = cut[: len(cut) - 30]  # the header is fine
    write(tmp_path / "train.parquet", [{"bytes": png(1, (60, 60)), "path": "a"}, {"bytes": cut, "path": "b"}], [0, 1])
    source = open_own("parquet", tmp_path)
    with pytest.raises(InputError, match=r"train.parquet: row 1 \(b\): not a readable image"):
        list(source.train.batches())


def test_class_names_must_agree_between_files(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", rows(1, 2), [0, 1])
    write(tmp_path / "test.parquet", rows(1, 2), [0, 1], ["b", "a"])
    with pytest.raises(InputError, match=r"test.parquet: other class names than in .*train.parquet: label 0 is 'b', expected 'a'"):
        open_own("parquet", tmp_path)


def test_a_label_of_the_test_split_must_be_known(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", rows(1, 2), [0, 1], None)
    write(tmp_path / "test.parquet", rows(1, 2), [0, 2], None)
    with pytest.raises(InputError, match=r"test.parquet: row 1: label is 2, expected 0 to 1"):
        open_own("parquet", tmp_path)


@pytest.mark.parametrize(("content", "message"), [(b"", "not a readable Parquet file"), (b"PAR1junkPAR1", "not a readable Parquet file")])
def test_what_is_no_parquet_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    put(tmp_path / "train.parquet", content)
    with pytest.raises(InputError, match=f"train.parquet: {message}"):
        open_own("parquet", tmp_path)


def test_metadata_that_is_not_json_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "train.parquet", rows(1, 2), [0, 1])
    pq.write_table(pq.read_table(path).replace_schema_metadata({"huggingface": "{"}), path)
    with pytest.raises(InputError, match=r"train.parquet: metadata 'huggingface' is not JSON"):
        open_own("parquet", tmp_path)


@pytest.mark.parametrize(("make", "message"), [(False, "is neither a .parquet file nor a folder"), (True, "has neither train.parquet nor")])
def test_a_missing_path_is_named(tmp_path: Path, make: bool, message: str) -> None:
    if make:
        (tmp_path / "own").mkdir()
    with pytest.raises(InputError, match=f"dataset.path: .*own {message}"):
        open_own("parquet", tmp_path / "own")


def test_a_linked_file_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "outside.parquet", rows(1, 2), [0, 1])
    (tmp_path / "own").mkdir()
    (tmp_path / "own/train.parquet").symlink_to(tmp_path / "outside.parquet")
    with pytest.raises(InputError, match=r"own/train.parquet: a symbolic link that leads out of"):
        open_own("parquet", tmp_path / "own")
