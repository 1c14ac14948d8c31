"""Downloads against a server on this machine: whole, resumed, damaged, refused; and the archives that come out of them."""

import contextlib
import gzip
import hashlib
import io
import re
import socket
import struct
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from wellcheck.datasets import archives, cifar10, fetching, flower_photos, open_source, tiny_imagenet
from wellcheck.datasets.fetching import Archive, fetch
from wellcheck.errors import InputError
from wellcheck.params import Dataset, DatasetName

CONTENT = bytes(range(256)) * 4000


class Server(ThreadingHTTPServer):
    """Serves `files`; can ignore ranges, and can break off after so many bytes."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.ranges: list[str | None] = []
        self.obeys_ranges = True
        self.breaks_after: int | None = None
        self.shifts_ranges = False

    def archive(self, name: str, content: bytes) -> Archive:
        self.files[f"/{name}"] = content
        url = f"http://127.0.0.1:{self.server_port}/{name}"
        return Archive(url=url, size=len(content), algorithm="sha256", checksum=hashlib.sha256(content).hexdigest())


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.ranges.append(wanted)
        content = self.server.files.get(self.path)
        if content is None:
            self.send_error(404)
            return
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and self.server.obeys_ranges else 0  # type: ignore[index]
        self.send_response(206 if wanted and self.server.obeys_ranges else 200)
        shown = start + 1 if self.server.shifts_ranges else start
        self.send_header("Content-Range", f"bytes {shown}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = len(content) if self.server.breaks_after is None else start + self.server.breaks_after
        with contextlib.suppress(ConnectionError):  # a client that has seen enough hangs up
            self.wfile.write(content[start:end])

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    monkeypatch.setenv("WELLCHECK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("WELLCHECK_MIRROR", raising=False)
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def cached(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "cache").iterdir()} - {"data.bin.lock"}


def test_a_download_is_kept_and_reused(server: Server, tmp_path: Path) -> None:
    archive = server.archive("data.bin", CONTENT)
    path = fetch("mine", archive)
    assert path == tmp_path / "cache/data.bin" and path.read_bytes() == CONTENT
    assert fetch("mine", archive) == path
    assert server.ranges == [None]
    assert cached(tmp_path) == {"data.bin"}


def test_a_broken_download_is_resumed(server: Server) -> None:
    archive = server.archive("data.bin", CONTENT)
    server.breaks_after = 600_000
    assert fetch("mine", archive).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=600000-"]


def test_a_later_run_goes_on_where_the_last_one_stopped(server: Server, tmp_path: Path) -> None:
    archive = server.archive("data.bin", CONTENT)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/data.bin.part").write_bytes(CONTENT[:1000])
    assert fetch("mine", archive).read_bytes() == CONTENT
    assert server.ranges == ["bytes=1000-"]


@pytest.mark.parametrize("start", [CONTENT[:1000], CONTENT[::-1][:1000]])
def test_a_server_without_ranges_starts_over(server: Server, tmp_path: Path, start: bytes) -> None:
    archive = server.archive("data.bin", CONTENT)
    server.obeys_ranges = False
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/data.bin.part").write_bytes(start)
    assert fetch("mine", archive).read_bytes() == CONTENT


def test_a_server_without_ranges_that_always_breaks_is_given_up(server: Server) -> None:
    archive = server.archive("data.bin", CONTENT)
    server.obeys_ranges, server.breaks_after = False, 5000
    with pytest.raises(InputError, match=r"mine: cannot download .*data.bin: the connection ended early"):
        fetch("mine", archive)
    assert server.ranges == [None, "bytes=5000-"]


def test_another_range_than_asked_for_is_not_taken(server: Server, tmp_path: Path) -> None:
    archive = server.archive("data.bin", CONTENT)
    server.shifts_ranges = True
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/data.bin.part").write_bytes(CONTENT[:1000])
    with pytest.raises(InputError, match="another part of the file"):
        fetch("mine", archive)


@pytest.mark.parametrize(
    ("served", "message"),
    [
        (CONTENT[::-1], f"found sha256 {hashlib.sha256(CONTENT[::-1]).hexdigest()}, expected {hashlib.sha256(CONTENT).hexdigest()}"),
        (CONTENT * 2, "found 1,024,001 bytes, expected 1,024,000"),
    ],
)
def test_a_wrong_file_is_deleted(server: Server, tmp_path: Path, served: bytes, message: str) -> None:
    archive = server.archive("data.bin", CONTENT)
    server.files["/data.bin"] = served
    with pytest.raises(InputError, match=f"cache/data.bin: {message}"):
        fetch("mine", archive)
    assert cached(tmp_path) == set()


@pytest.mark.parametrize("damaged", [CONTENT[:-1], CONTENT[:-1] + b"x"])
def test_a_damaged_file_in_the_cache_is_fetched_again(server: Server, damaged: bytes) -> None:
    archive = server.archive("data.bin", CONTENT)
    fetch("mine", archive).write_bytes(damaged)
    assert fetch("mine", archive).read_bytes() == CONTENT
    assert len(server.ranges) == 2


def test_md5_is_checked_too(server: Server) -> None:
    archive = replace(server.archive("data.bin", CONTENT), algorithm="md5", checksum=hashlib.md5(CONTENT).hexdigest())
    assert fetch("mine", archive).read_bytes() == CONTENT
    with pytest.raises(InputError, match="found md5"):
        fetch("mine", replace(archive, checksum="0" * 32))


def test_two_downloads_at_once_do_not_mix(server: Server) -> None:
    archive = server.archive("data.bin", CONTENT)
    threads = [threading.Thread(target=fetch, args=("mine", archive)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert fetch("mine", archive).read_bytes() == CONTENT
    assert server.ranges == [None]


@pytest.mark.parametrize(
    ("mirror", "looked"),
    [(None, "WELLCHECK_MIRROR is not set"), ("empty", r"empty/cifar10/train.parquet is not there")],
)
def test_without_a_network_it_says_what_to_set(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mirror: str | None, looked: str
) -> None:
    if mirror:
        (tmp_path / mirror).mkdir()
        monkeypatch.setenv("WELLCHECK_MIRROR", str(tmp_path / mirror))
    monkeypatch.setattr(cifar10, "ARCHIVE", replace(cifar10.ARCHIVE, url="http://127.0.0.1:1/cifar.tar.gz"))
    told = r"cifar10: cannot download http://127.0.0.1:1/cifar.tar.gz: .*refused"
    advice = "set WELLCHECK_MIRROR=<mirror> to a folder with <mirror>/cifar10/train.parquet"
    with pytest.raises(InputError, match=f"{told}.*{advice} .*{looked}"):
        open_source(dataset("cifar10"))


def test_a_missing_page_is_told(server: Server) -> None:
    archive = replace(server.archive("data.bin", CONTENT), url=f"http://127.0.0.1:{server.server_port}/gone.bin")
    with pytest.raises(InputError, match=r"mine: cannot download .*gone.bin: Not Found"):
        fetch("mine", archive)


def test_a_silent_server_is_not_waited_for_without_end(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = server.archive("data.bin", CONTENT)
    monkeypatch.setattr(fetching, "TIMEOUT_SECONDS", 0.2)
    answer = threading.Event()
    monkeypatch.setattr(Handler, "do_GET", lambda self: answer.wait(10))
    with pytest.raises(InputError, match=r"cannot download .* timed out"):
        fetch("mine", archive)
    answer.set()


# the data sets


def dataset(name: DatasetName, size: int | None = None, channels: int | None = None) -> Dataset:
    return Dataset.model_validate({"name": name, "path": "unused", "size": size, "channels": channels})


def tar(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def jpeg(grey: int, width: int = 8, height: int = 8, mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.new(mode, (width, height), grey if mode == "L" else (grey, grey, grey)).save(file, "JPEG")
    return file.getvalue()


def serve(server: Server, monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str, content: bytes) -> None:
    monkeypatch.setattr(module, "ARCHIVE", server.archive(name, content))


def greys(split: object) -> list[tuple[int, int]]:
    batches = split.batches()  # type: ignore[attr-defined]
    return [(int(image[0, 0, 0]), int(label)) for images, labels in batches for image, label in zip(images, labels, strict=True)]


CIFAR_ROOT = "cifar-10-batches-bin"
CIFAR = {
    # Not in the order of their numbers, as in the real archive.
    **{f"{CIFAR_ROOT}/data_batch_{n}.bin": bytes([n % 2]) + bytes([n]) * 1024 + bytes([50]) * 2048 for n in (1, 3, 2, 5, 4)},
    f"{CIFAR_ROOT}/test_batch.bin": bytes([1]) + bytes([99]) * 3072,
    f"{CIFAR_ROOT}/batches.meta.txt": b"airplane\nautomobile\n\n",
    f"{CIFAR_ROOT}/readme.html": b"<html>",
}


def test_cifar10_records_are_parsed(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(server, monkeypatch, cifar10, "cifar.tar.gz", tar(CIFAR))
    source = open_source(dataset("cifar10"))
    assert (source.class_names, source.image_shape) == (("airplane", "automobile"), (3, 32, 32))
    assert greys(source.train) == [(1, 1), (2, 0), (3, 1), (4, 0), (5, 1)]
    assert source.test is not None and greys(source.test) == [(99, 1)]
    ((images, _),) = source.train.batches()
    assert (images[2, 0] == 3).all() and (images[2, 1:] == 50).all()  # planes: red, then green and blue


def test_cifar10_planes_are_rows_of_pixels() -> None:
    pixels = np.arange(3072).astype(np.uint8)
    images, labels = cifar10.parse_records(Path("x"), b"\x07" + pixels.tobytes())
    assert labels.tolist() == [7]
    assert images[0, 1, 2, 3] == pixels[1024 + 2 * 32 + 3]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({f"{CIFAR_ROOT}/test_batch.bin": b"short"}, "cifar.tar.gz: found 5 bytes of records, expected a multiple of 3,073"),
        ({f"{CIFAR_ROOT}/test_batch.bin": bytes([2]) + bytes(3072)}, "found labels 2 to 2, expected 0 to 1"),
        ({f"{CIFAR_ROOT}/test_batch.bin": None}, "cifar.tar.gz: 'test_batch.bin' is missing"),
    ],
)
def test_a_wrong_cifar10_is_refused(
    server: Server, monkeypatch: pytest.MonkeyPatch, changed: dict[str, bytes | None], message: str
) -> None:
    members = {name: content for name, content in {**CIFAR, **changed}.items() if content is not None}
    serve(server, monkeypatch, cifar10, "cifar.tar.gz", tar(members))
    with pytest.raises(InputError, match=message):
        open_source(dataset("cifar10"))


def tiny_members() -> dict[str, bytes]:
    root = "tiny-imagenet-200"
    wnids = [f"n0000000{number}" for number in range(8)]
    training = {
        f"{root}/train/{wnid}/images/{wnid}_{image}.JPEG": jpeg(10 * number + image, mode="L" if image else "RGB")
        for number, wnid in reversed(list(enumerate(wnids)))
        for image in range(2)
    }
    validation = {f"{root}/val/images/val_{number}.JPEG": jpeg(100 + number) for number in range(3)}
    annotations = "".join(f"val_{number}.JPEG\t{wnids[label]}\t0\t0\t5\t5\n" for number, label in enumerate((4, 1, 0)))
    words = "".join(f"{wnid}\tword {number}, synonym\n" for number, wnid in enumerate(wnids))
    boxes = {f"{root}/train/{wnids[0]}/{wnids[0]}_boxes.txt": b"0 0 1 1", f"{root}/test/images/test_0.JPEG": jpeg(1)}
    texts = {f"{root}/val/val_annotations.txt": annotations.encode(), f"{root}/words.txt": words.encode()}
    return {**training, **validation, **boxes, **texts}


@pytest.mark.parametrize(
    ("name", "classes", "train", "test"),
    [
        ("tiny_imagenet", range(8), [(10 * n + image, n) for n in range(8) for image in range(2)], [(100, 4), (101, 1), (102, 0)]),
        ("tiny_imagenet50", (0, 4), [(0, 0), (1, 0), (40, 1), (41, 1)], [(100, 1), (102, 0)]),
    ],
)
def test_tiny_imagenet_is_read_from_its_archive(
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    name: DatasetName,
    classes: list[int],
    train: list[tuple[int, int]],
    test: list[tuple[int, int]],
) -> None:
    serve(server, monkeypatch, tiny_imagenet, "tiny.zip", zipped(tiny_members()))
    source = open_source(dataset(name))
    assert source.class_names == tuple(f"n0000000{number} word {number}" for number in classes)
    assert source.image_shape == (3, 8, 8)
    assert greys(source.train) == train and greys(source.test) == test


@pytest.mark.parametrize(
    ("missing", "message"),
    [("words.txt", "'tiny-imagenet-200/words.txt' is missing"), ("val_0.JPEG", "val_0.JPEG' is missing")],
)
def test_an_incomplete_tiny_imagenet_is_refused(server: Server, monkeypatch: pytest.MonkeyPatch, missing: str, message: str) -> None:
    members = {name: content for name, content in tiny_members().items() if not name.endswith(missing)}
    serve(server, monkeypatch, tiny_imagenet, "tiny.zip", zipped(members))
    with pytest.raises(InputError, match=f"tiny.zip: .*{message}"):
        open_source(dataset("tiny_imagenet"))


def test_flower_photos_are_read_in_the_order_of_the_archive(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    members = {
        "flower_photos/LICENSE.txt": b"text",
        "flower_photos/roses/b.jpg": jpeg(1, 10, 6),
        "flower_photos/daisy/a.jpg": jpeg(2, 6, 12),
        "flower_photos/roses/._a.jpg": b"hidden",
        "../outside/x/a.jpg": b"not a photo",
    }
    serve(server, monkeypatch, flower_photos, "flowers.tgz", tar(members))
    source = open_source(dataset("flower_photos"))
    assert (source.class_names, source.image_shape, source.test) == (("daisy", "roses"), (3, 6, 6), None)
    assert greys(source.train) == [(1, 1), (2, 0)]


def test_a_corrupt_photo_in_an_archive_is_named(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    members = {"flower_photos/roses/b.jpg": b"broken", "flower_photos/daisy/a.jpg": jpeg(2)}
    serve(server, monkeypatch, flower_photos, "flowers.tgz", tar(members))
    with pytest.raises(InputError, match=r"flowers.tgz: flower_photos/roses/b.jpg: not a readable image"):
        open_source(dataset("flower_photos"))


@pytest.mark.parametrize("limit", ["MAX_MEMBER_BYTES", "MAX_TOTAL_BYTES"])
def test_what_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    monkeypatch.setattr(archives, limit, 999)
    members = {"a": bytes(500), "b": bytes(1000)}
    (tmp_path / "x.tar.gz").write_bytes(tar(members))
    (tmp_path / "x.zip").write_bytes(zipped(members))
    with pytest.raises(InputError, match=r"x.tar.gz: .*(1,000 bytes, expected at most 999|more than 999 bytes)"):
        list(archives.read_tar(tmp_path / "x.tar.gz", re.compile("a")))
    with pytest.raises(InputError, match=r"x.zip: .*(1,000 bytes, expected at most 999|more than 999 bytes)"):
        list(archives.read_zip(tmp_path / "x.zip", ["a", "b"]))


def test_links_in_a_tar_are_not_followed(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as archive:
        link = tarfile.TarInfo("a")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        archive.addfile(link)
    assert list(archives.read_tar(tmp_path / "x.tar.gz", re.compile("a"))) == []


@pytest.mark.parametrize("content", [b"junk", tar({"a": bytes(range(256)) * 99})[:300]])
def test_what_is_no_archive_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(InputError, match="x: not a readable archive"):
        list(archives.read_tar(tmp_path / "x", re.compile(".*")))
    with pytest.raises(InputError, match="x: not a readable archive"):
        archives.list_zip(tmp_path / "x", re.compile(".*"))


def idx(values: np.ndarray) -> bytes:
    return gzip.compress(struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes())


@pytest.fixture
def torchvision_files(server: Server, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """Ten training and two test images behind torchvision's own addresses, with their checksums."""
    import torchvision

    generator = np.random.default_rng(0)
    arrays = {
        "train-images-idx3-ubyte": generator.integers(0, 256, (10, 28, 28), np.uint8),
        "train-labels-idx1-ubyte": np.arange(10, dtype=np.uint8)[::-1].copy(),
        "t10k-images-idx3-ubyte": generator.integers(0, 256, (2, 28, 28), np.uint8),
        "t10k-labels-idx1-ubyte": np.array([3, 1], np.uint8),
    }
    server.files |= {f"/{name}.gz": idx(values) for name, values in arrays.items()}
    resources = [(f"{name}.gz", hashlib.md5(server.files[f"/{name}.gz"]).hexdigest()) for name in arrays]
    for kind in (torchvision.datasets.MNIST, torchvision.datasets.FashionMNIST):
        monkeypatch.setattr(kind, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        monkeypatch.setattr(kind, "resources", resources)
    return arrays


@pytest.mark.parametrize(("name", "first", "last"), [("mnist", "0", "9"), ("fashion_mnist", "T-shirt/top", "Ankle boot")])
def test_torchvision_downloads_mnist(
    server: Server, torchvision_files: dict[str, np.ndarray], name: DatasetName, first: str, last: str
) -> None:
    for _ in range(2):
        source = open_source(dataset(name))
        ((images, labels),) = source.train.batches()
        assert np.array_equal(images[:, 0], torchvision_files["train-images-idx3-ubyte"])
        assert labels.tolist() == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0] and labels.dtype == np.int64
        assert source.test is not None and source.test.labels.tolist() == [3, 1]
        assert (source.class_names[0], source.class_names[-1], source.origin) == (first, last, "torchvision")
        requests = len(server.ranges)
        assert socket.getdefaulttimeout() is None
        server.files.clear()  # the second time, all comes from the cache
    assert len(server.ranges) == requests


def test_torchvision_images_take_the_wanted_shape(torchvision_files: dict[str, np.ndarray]) -> None:
    ((images, _),) = open_source(dataset("mnist", size=14, channels=3)).train.batches()
    assert images.shape == (10, 3, 14, 14) and (images[:, 0] == images[:, 2]).all()


def test_a_damaged_archive_of_torchvision_is_fetched_again(torchvision_files: dict[str, np.ndarray], tmp_path: Path) -> None:
    open_source(dataset("mnist"))
    kept = tmp_path / "cache/torchvision/MNIST/train-images-idx3-ubyte.gz"
    whole = kept.read_bytes()
    kept.write_bytes(whole[:-5])
    open_source(dataset("mnist"))
    assert kept.read_bytes() == whole
    assert {path.name for path in (tmp_path / "cache/torchvision").iterdir()} == {"MNIST"}


@pytest.mark.parametrize("fault", ["missing", "wrong", "refused"])
def test_what_torchvision_cannot_download_is_told(
    server: Server, torchvision_files: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    import torchvision

    if fault == "missing":
        server.files.clear()
    elif fault == "wrong":
        server.files["/t10k-labels-idx1-ubyte.gz"] = b"wrong"
    else:
        monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", ["http://127.0.0.1:1/"])
    advice = "set WELLCHECK_MIRROR=<mirror> to a folder with <mirror>/mnist/train.parquet"
    with pytest.raises(InputError, match=f"mnist: torchvision cannot download it: .*{advice}") as raised:
        open_source(dataset("mnist"))
    assert "\n" not in str(raised.value)
