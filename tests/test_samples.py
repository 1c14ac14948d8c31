"""The samples file: what goes in comes out, the same content gives the same bytes, and what is damaged is named."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from wellcheck import samples
from wellcheck.errors import InputError
from wellcheck.samples import Description, Samples

MakeSamples = Callable[..., Samples]
ROWS = 4


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row groups of four images of 1×4×4."""
    monkeypatch.setattr(samples, "ROW_GROUP_BYTES", ROWS * 16 + 15)


def assert_same(found: Samples, wanted: Samples) -> None:
    for name in ("sample_id", "images", "labels"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
    assert [str(values.dtype) for values in (found.images, found.labels, found.sample_id)] == ["uint8", "int64", "int64"]
    assert found.description == wanted.description


def group_sizes(path: Path) -> list[int]:
    metadata = pq.read_metadata(path)
    return [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]


def write_pieces(path: Path, whole: Samples, sizes: list[int]) -> None:
    assert sum(sizes) == len(whole)
    shape = whole.images.shape[1:]
    with samples.writing(path, whole.description, (shape[0], shape[1], shape[2])) as writer:
        start = 0
        for size in sizes:
            writer.append(whole.take(np.arange(start, start + size)))
            start += size


@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 5, 7)])
@pytest.mark.parametrize("count", [1, 3, 4, 5, 13])
@pytest.mark.usefixtures("small_groups")
def test_what_goes_in_comes_out(count: int, shape: tuple[int, int, int], make_samples: MakeSamples, tmp_path: Path) -> None:
    whole = make_samples(count, shape=shape, first_id=100)
    samples.write(tmp_path / "a.parquet", whole)
    assert_same(samples.read(tmp_path / "a.parquet"), whole)
    known = samples.read_labels(tmp_path / "a.parquet")
    assert known.sample_id.tolist() == list(range(100, 100 + count)) and known.labels.tolist() == whole.labels.tolist()
    assert (known.description, known.image_shape, len(known)) == (whole.description, shape, count)


@pytest.mark.parametrize(("count", "sizes"), [(3, [3]), (5, [4, 1]), (11, [4, 4, 3])])
@pytest.mark.usefixtures("small_groups")
def test_a_file_is_read_a_row_group_at_a_time(count: int, sizes: list[int], make_samples: MakeSamples, tmp_path: Path) -> None:
    whole = make_samples(count)
    samples.write(tmp_path / "a.parquet", whole)
    assert group_sizes(tmp_path / "a.parquet") == sizes
    batches = list(samples.batches(tmp_path / "a.parquet"))
    assert [len(batch) for batch in batches] == sizes
    assert np.concatenate([batch.images for batch in batches]).tolist() == whole.images.tolist()
    assert np.concatenate([batch.sample_id for batch in batches]).tolist() == whole.sample_id.tolist()


@pytest.mark.usefixtures("small_groups")
def test_no_row_group_is_empty(make_samples: MakeSamples, tmp_path: Path) -> None:
    samples.write(tmp_path / "a.parquet", make_samples(2 * ROWS))
    assert group_sizes(tmp_path / "a.parquet") == [ROWS, ROWS]


def test_a_row_group_holds_32_mib_at_most(make_samples: MakeSamples, tmp_path: Path) -> None:
    rows = 32 * 2**20 // (1024 * 1024)
    blank = Samples(np.arange(33), np.zeros((33, 1, 1024, 1024), np.uint8), np.zeros(33, np.int64), Description(("a",), "x"))
    samples.write(tmp_path / "a.parquet", blank)
    assert group_sizes(tmp_path / "a.parquet") == [rows, 1]


def test_a_reader_may_write_into_what_it_gets(make_samples: MakeSamples, tmp_path: Path) -> None:
    samples.write(tmp_path / "a.parquet", make_samples(3))
    for found in (samples.read(tmp_path / "a.parquet"), next(samples.batches(tmp_path / "a.parquet"))):
        found.images[0] = 255
        found.labels[0] = 2
    known = samples.read_labels(tmp_path / "a.parquet")
    known.labels[0] = 2
    assert_same(samples.read(tmp_path / "a.parquet"), make_samples(3))


def test_a_set_without_samples(make_samples: MakeSamples, tmp_path: Path) -> None:
    nothing = make_samples(3, shape=(3, 4, 4)).take(np.empty(0, np.int64))
    samples.write(tmp_path / "a.parquet", nothing)
    with samples.writing(tmp_path / "b.parquet", nothing.description, (3, 4, 4)):
        pass
    for name in ("a.parquet", "b.parquet"):
        found = samples.read(tmp_path / name)
        assert found.images.shape == (0, 3, 4, 4) and len(found) == 0
        assert_same(found, nothing)
        assert sum(map(len, samples.batches(tmp_path / name))) == 0
        assert samples.read_labels(tmp_path / name).image_shape == (3, 4, 4)


def test_an_empty_piece_changes_no_byte(make_samples: MakeSamples, tmp_path: Path) -> None:
    write_pieces(tmp_path / "a.parquet", make_samples(0), [0])
    write_pieces(tmp_path / "b.parquet", make_samples(0), [])
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.usefixtures("small_groups")
def test_the_size_of_the_pieces_changes_no_byte(seed: int, make_samples: MakeSamples, tmp_path: Path) -> None:
    whole = make_samples(19)
    cuts = np.sort(np.random.default_rng(seed).integers(0, 20, 3 + seed))
    samples.write(tmp_path / "one.parquet", whole)
    write_pieces(tmp_path / "many.parquet", whole, np.diff([0, *cuts, 19]).tolist())
    assert (tmp_path / "many.parquet").read_bytes() == (tmp_path / "one.parquet").read_bytes()


def test_the_content_hash_is_what_it_says_whatever_the_row_groups(
    make_samples: MakeSamples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make_samples(11)
    samples.write(tmp_path / "a.parquet", whole)
    monkeypatch.setattr(samples, "ROW_GROUP_BYTES", 40)
    samples.write(tmp_path / "b.parquet", whole)
    assert len(group_sizes(tmp_path / "a.parquet")) == 1 and len(group_sizes(tmp_path / "b.parquet")) > 4
    first, second = (samples.read_labels(tmp_path / name).content_hash for name in ("a.parquet", "b.parquet"))
    assert first == second and len(first) == 64


CHANGES: dict[str, Callable[[Samples], Samples]] = {
    "id": lambda whole: replace(whole, sample_id=whole.sample_id + (np.arange(len(whole)) == 5)),
    "label": lambda whole: replace(whole, labels=(whole.labels + (np.arange(len(whole)) == 5)) % 3),
    "pixel": lambda whole: replace(whole, images=whole.images ^ (np.arange(whole.images.size) == 77).reshape(whole.images.shape)),
    "class name": lambda whole: replace(whole, description=replace(whole.description, class_names=("class 0", "class 1", "dress"))),
    "order": lambda whole: whole.take(np.arange(len(whole))[::-1]),
    "one less": lambda whole: whole.take(np.arange(len(whole) - 1)),
    "joined names": lambda whole: replace(whole, description=replace(whole.description, class_names=("class 0class 1", "class 2"))),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_content_hash_sees_every_change(change: str, make_samples: MakeSamples, tmp_path: Path) -> None:
    whole = make_samples(11)
    other = CHANGES[change](whole)
    hashes = set()
    for name, some in (("a", whole), ("b", other), ("again", whole)):
        samples.write(tmp_path / name, some)
        hashes.add(samples.read_labels(tmp_path / name).content_hash)
    assert len(hashes) == 2


def test_the_content_hash_is_blind_to_the_source(make_samples: MakeSamples, tmp_path: Path) -> None:
    # The same images from the mirror and from the network are the same data.
    whole = make_samples(5)
    for name, source in (("a", "mirror"), ("b", "torchvision")):
        samples.write(tmp_path / name, replace(whole, description=replace(whole.description, source=source)))
    first, second = (samples.read_labels(tmp_path / name) for name in "ab")
    assert first.content_hash == second.content_hash
    assert (first.description.source, second.description.source) == ("mirror", "torchvision")


def test_the_content_hash_sees_the_shape(make_samples: MakeSamples, tmp_path: Path) -> None:
    tall = make_samples(5, shape=(1, 6, 2))
    samples.write(tmp_path / "a", tall)
    samples.write(tmp_path / "b", replace(tall, images=tall.images.reshape(5, 1, 2, 6)))
    assert samples.read_labels(tmp_path / "a").content_hash != samples.read_labels(tmp_path / "b").content_hash


def test_the_metadata_is_one_json_entry(make_samples: MakeSamples, tmp_path: Path) -> None:
    named = replace(make_samples(2), description=Description(("é", 'a "b"'), "my/folder"))
    samples.write(tmp_path / "a.parquet", named)
    stored = json.loads(pq.read_metadata(tmp_path / "a.parquet").metadata[b"wellcheck"])
    assert stored.pop("content_hash") == samples.read_labels(tmp_path / "a.parquet").content_hash
    assert stored == {"class_names": ["é", 'a "b"'], "source": "my/folder"}
    assert samples.read(tmp_path / "a.parquet").description == named.description


def test_others_can_read_the_file(make_samples: MakeSamples, tmp_path: Path) -> None:
    whole = make_samples(3, shape=(3, 4, 5))
    samples.write(tmp_path / "a.parquet", whole)
    table = pq.read_table(tmp_path / "a.parquet")
    assert table.schema.field("image").type == pa.fixed_shape_tensor(pa.uint8(), (3, 4, 5))
    assert [str(table.schema.field(name).type) for name in ("sample_id", "label")] == ["int64", "int64"]
    assert table.column("image").combine_chunks().to_numpy_ndarray().tolist() == whole.images.tolist()


def test_images_that_do_not_lie_in_order(make_samples: MakeSamples, tmp_path: Path) -> None:
    whole = make_samples(6, shape=(3, 4, 4))
    flipped = replace(whole, images=whole.images[..., ::-1])
    samples.write(tmp_path / "a.parquet", flipped)
    assert_same(samples.read(tmp_path / "a.parquet"), flipped)
    last_axis = replace(whole, images=np.ascontiguousarray(whole.images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2))
    samples.write(tmp_path / "b.parquet", last_axis)
    samples.write(tmp_path / "c.parquet", whole)
    assert (tmp_path / "b.parquet").read_bytes() == (tmp_path / "c.parquet").read_bytes()


def test_another_shape_is_refused(make_samples: MakeSamples, tmp_path: Path) -> None:
    whole = make_samples(3)
    with (
        pytest.raises(ValueError, match=r"images of shape \(3, 4, 4\) do not fit a file of \(1, 4, 4\)"),
        samples.writing(tmp_path / "a.parquet", whole.description, (1, 4, 4)) as writer,
    ):
        writer.append(whole)
        writer.append(make_samples(2, shape=(3, 4, 4)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
@pytest.mark.usefixtures("small_groups")
def test_a_failing_body_leaves_nothing_behind(failure: type[BaseException], make_samples: MakeSamples, tmp_path: Path) -> None:
    whole = make_samples(9)
    samples.write(tmp_path / "old.parquet", whole)
    before = (tmp_path / "old.parquet").read_bytes()
    for name in ("old.parquet", "new.parquet"):
        with pytest.raises(failure), samples.writing(tmp_path / name, whole.description, (1, 4, 4)) as writer:
            writer.append(whole)
            raise failure
    assert [path.name for path in tmp_path.iterdir()] == ["old.parquet"]
    assert (tmp_path / "old.parquet").read_bytes() == before


def test_unequal_columns_leave_nothing_behind(make_samples: MakeSamples, tmp_path: Path) -> None:
    whole = make_samples(3)
    with pytest.raises(ValueError, match="expected length"):
        samples.write(tmp_path / "a.parquet", replace(whole, labels=np.zeros(4, np.int64)))
    assert list(tmp_path.iterdir()) == []


READERS: list[Callable[[Path], object]] = [samples.read, samples.read_labels, lambda path: list(samples.batches(path))]
readers = pytest.mark.parametrize("reader", READERS, ids=["read", "read_labels", "batches"])


@readers
def test_a_missing_file(reader: Callable[[Path], object], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.parquet: not found"):
        reader(tmp_path / "a.parquet")


@readers
@pytest.mark.parametrize("content", [b"", b"PAR1", b"sample_id,label\n1,2\n", b"PAR1" + bytes(100) + b"PAR1"])
def test_a_file_that_is_no_parquet(reader: Callable[[Path], object], content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.parquet: not a readable Parquet file"):
        reader(tmp_path / "a.parquet")


@readers
def test_a_foreign_parquet_file_gets_advice(reader: Callable[[Path], object], tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [b""], "label": [1]}), tmp_path / "a.parquet")
    with pytest.raises(
        InputError, match=r"a\.parquet: not a samples file: found columns image.*label.*; for your own, set dataset\.name: parquet"
    ):
        reader(tmp_path / "a.parquet")


@readers
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file(reader: Callable[[Path], object], share: float, make_samples: MakeSamples, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    samples.write(path, make_samples(50))
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(InputError, match=r"a\.parquet: not a readable Parquet file"):
        reader(path)


def test_damage_in_the_middle_is_told_by_whoever_reads_it(make_samples: MakeSamples, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    samples.write(path, make_samples(500))
    start = pq.read_metadata(path).row_group(0).column(1).data_page_offset
    content = bytearray(path.read_bytes())
    content[start : start + 200] = bytes(200)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.parquet: damaged"):
        samples.read(path)


def test_a_flipped_bit_is_noticed(make_samples: MakeSamples, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    whole = make_samples(20)
    samples.write(path, whole)
    content = path.read_bytes()
    footer = pq.read_metadata(path).serialized_size
    for place in np.random.default_rng(0).integers(4, len(content) - footer - 8, 100):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        try:
            found = samples.read(path)
        except InputError as error:
            assert "a.parquet" in str(error)
        else:
            assert_same(found, whole)


@pytest.mark.parametrize("entry", [b"{}", b"no json", b'{"class_names": ["a"], "source": "x", "content_hash": "y"}'])
def test_a_file_that_only_pretends(entry: bytes, tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [1], "label": [1]}).replace_schema_metadata({b"wellcheck": entry}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"a\.parquet"):
        samples.read(tmp_path / "a.parquet")


def test_take_by_position_and_by_mask(make_samples: MakeSamples) -> None:
    whole = make_samples(5)
    assert whole.take(np.array([3, 0])).sample_id.tolist() == [3, 0]
    mask = np.array([True, False, False, True, False])
    some = whole.take(mask)
    assert (some.sample_id.tolist(), some.labels.tolist(), len(some)) == ([0, 3], [0, 0], 2)
    assert some.images.tolist() == whole.images[[0, 3]].tolist()


def test_the_content_hash_by_hand(tmp_path: Path) -> None:
    tiny = Samples(np.array([7]), np.array([[[[1, 2]]]], np.uint8), np.array([0]), Description(("a",), "x"))
    samples.write(tmp_path / "a.parquet", tiny)
    parts = ['[["a"], [1, 1, 2]]', *(hashlib.sha256(part).hexdigest() for part in ((7).to_bytes(8, "little"), b"\1\2", bytes(8)))]
    wanted = hashlib.sha256("".join(parts).encode()).hexdigest()
    assert samples.read_labels(tmp_path / "a.parquet").content_hash == wanted


def test_in_turns_every_class_has_its_turn_before_any_has_another() -> None:
    labels = np.array([0] * 30 + [3] * 3 + [5] * 2)
    rows = samples.in_turns(labels, 0)
    np.testing.assert_array_equal(np.sort(rows), np.arange(35))
    assert [set(labels[rows[start : start + 3]]) for start in (0, 3)] == [{0, 3, 5}] * 2
    assert set(labels[rows[6:8]]) == {0, 3} and set(labels[rows[8:]]) == {0}
    assert (rows != samples.in_turns(labels, 1)).any()
    assert set(samples.in_turns(np.arange(200), 0)[:10]) != set(range(10))  # of many classes not always the first ones
    assert len(samples.in_turns(labels[:0], 0)) == 0
