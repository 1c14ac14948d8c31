"""Files and folders are whole or absent, and the small formats say what is wrong with them."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import platformdirs
import pytest

from wellcheck import artifacts
from wellcheck.artifacts import read_columns, read_csv, read_json, remove, replacing, write_columns, write_csv, write_json, write_text
from wellcheck.errors import InputError


def fill_file(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def fill_folder(path: Path, text: str) -> None:
    path.mkdir()
    (path / "inner").mkdir()
    (path / "inner" / "file").write_text(text, encoding="utf-8")


def content(path: Path) -> dict[str, str]:
    """All files at a path and below it."""
    files = [path] if path.is_file() else [found for found in path.rglob("*") if found.is_file()]
    return {str(file.relative_to(path)): file.read_text(encoding="utf-8") for file in files}


fill = pytest.mark.parametrize("fill", [fill_file, fill_folder])


@fill
def test_what_was_written_takes_the_place(fill: Callable[[Path, str], None], tmp_path: Path) -> None:
    target = tmp_path / "deep" / "thing"
    for text in ("first", "second"):
        with replacing(target) as temporary:
            assert temporary.parent == target.parent  # a rename across file systems is a copy
            fill(temporary, text)
            if text == "second":
                assert list(content(target).values()) == ["first"]
        assert list(content(target).values()) == [text]
        assert list(target.parent.iterdir()) == [target]


@fill
@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("existed", [True, False])
def test_a_failure_leaves_what_was_there(
    fill: Callable[[Path, str], None], failure: type[BaseException], existed: bool, tmp_path: Path
) -> None:
    target = tmp_path / "thing"
    if existed:
        fill(target, "old")
    with pytest.raises(failure), replacing(target) as temporary:
        fill(temporary, "new")
        raise failure
    assert list(tmp_path.iterdir()) == ([target] if existed else [])
    if existed:
        assert list(content(target).values()) == ["old"]


def test_a_body_that_writes_nothing_is_a_mistake_and_keeps_the_old(tmp_path: Path) -> None:
    target = tmp_path / "thing"
    fill_file(target, "old")
    with pytest.raises(FileNotFoundError), replacing(target):
        pass
    assert content(target) == {".": "old"}


def test_an_old_folder_is_there_until_the_new_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "thing"
    fill_folder(target, "old")

    def refuse(self: Path, other: Path) -> Path:
        raise PermissionError(self, other)

    monkeypatch.setattr(Path, "replace", refuse)
    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(PermissionError), replacing(target) as temporary:
        fill_folder(temporary, "new")
    assert target.exists() and list(content(target).values()) == ["old"]


def test_remove_takes_files_and_folders_but_not_what_a_link_points_to(tmp_path: Path) -> None:
    fill_file(tmp_path / "file", "x")
    fill_folder(tmp_path / "folder", "x")
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    for name in ("file", "link", "absent"):
        remove(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    remove(tmp_path / "folder")
    assert list(tmp_path.iterdir()) == []


def test_text_is_utf_8(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "28×28 ∞\n")
    assert (tmp_path / "a.txt").read_bytes() == "28×28 ∞\n".encode()


def test_json_has_the_same_bytes_for_the_same_value(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1, "a": [0.1, None, "é"]})
    write_json(tmp_path / "b.json", {"a": [0.1, None, "é"], "b": 1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert (tmp_path / "a.json").read_text(encoding="utf-8").endswith("\n")
    assert read_json(tmp_path / "a.json") == {"a": [0.1, None, "é"], "b": 1}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_json_takes_no_number_that_is_none(value: float, tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"a": value})
    assert read_json(tmp_path / "a.json") == 1
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"a": 1} x'])
def test_damaged_json_names_the_file(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.json: not valid JSON"):
        read_json(tmp_path / "a.json")


def test_missing_json_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.json: not found"):
        read_json(tmp_path / "a.json")


def test_csv_keeps_odd_text(tmp_path: Path) -> None:
    odd = ['a,b "c"', "line\nbreak", "é", ""]
    write_csv(tmp_path / "a.csv", ["name", "value"], [(text, number) for number, text in enumerate(odd)])
    assert read_csv(tmp_path / "a.csv") == [{"name": text, "value": str(number)} for number, text in enumerate(odd)]
    write_csv(tmp_path / "b.csv", ["x", "y"], [(1, 0.5)])
    assert (tmp_path / "b.csv").read_bytes() == b"x,y\n1,0.5\n"


def test_columns_come_back_as_they_were(tmp_path: Path) -> None:
    columns = {
        "whole": np.array([3, -1, 2**62]),
        "real": np.array([0.1, np.nan, np.inf]),
        "half": np.array([1, 2, 3], np.float32),
        "flag": np.array([True, False, True]),
        "text": np.array(["a", "é", ""]),
    }
    write_columns(tmp_path / "a.parquet", columns)
    again = read_columns(tmp_path / "a.parquet")
    assert list(again) == list(columns)
    for name, values in columns.items():
        np.testing.assert_array_equal(again[name], values)
        assert name == "text" or again[name].dtype == values.dtype
    assert list(read_columns(tmp_path / "a.parquet", ["flag", "whole"])) == ["flag", "whole"]
    write_columns(tmp_path / "b.parquet", columns)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_columns_without_rows(tmp_path: Path) -> None:
    write_columns(tmp_path / "a.parquet", {"sample_id": np.empty(0, np.int64), "variant": np.full(0, "clean")})
    again = read_columns(tmp_path / "a.parquet")
    assert again["sample_id"].shape == (0,) and again["sample_id"].dtype == np.int64
    assert not (again["variant"] == "clean").any()


def test_columns_of_unequal_length_write_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="length"):
        write_columns(tmp_path / "a.parquet", {"a": np.arange(2), "b": np.arange(3)})
    assert list(tmp_path.iterdir()) == []


def test_unreadable_columns_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    with pytest.raises(InputError, match=r"a\.parquet: not a readable Parquet table"):
        read_columns(path)
    write_columns(path, {"a": np.arange(3)})
    with pytest.raises(InputError, match=r"a\.parquet: .*pixels_x"):
        read_columns(path, ["pixels_x"])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"a\.parquet: not a readable Parquet table"):
        read_columns(path)


def test_first_line() -> None:
    assert artifacts.first_line(ValueError("\none\ntwo")) == "one"
    assert artifacts.first_line(ValueError("")) == artifacts.first_line(ValueError(" \n ")) == "ValueError"


def test_the_cache_is_where_the_variable_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WELLCHECK_CACHE", str(tmp_path))
    assert artifacts.cache_folder() == tmp_path
    monkeypatch.setenv("WELLCHECK_CACHE", "")
    assert artifacts.cache_folder() == platformdirs.user_cache_path("wellcheck")
    monkeypatch.delenv("WELLCHECK_CACHE")
    assert artifacts.cache_folder() == platformdirs.user_cache_path("wellcheck")
