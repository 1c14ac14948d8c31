"""Encoded images become arrays of one shape, and what is no image is named."""

import io
import os
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from wellcheck.datasets.decoding import Encoded, Named, decode, decode_one, decode_rgba, infer_shape, source_of_arrays, source_of_encoded
from wellcheck.datasets.source import Source, Split, class_name
from wellcheck.errors import InputError
from wellcheck.params import Dataset

Color = float | tuple[float, ...]


def dataset(size: int | None = None, channels: int | None = None) -> Dataset:
    return Dataset.model_validate({"name": "parquet", "path": "own", "size": size, "channels": channels})


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def picture(width: int, height: int, mode: str = "RGB", color: Color = 0) -> bytes:
    return encode(Image.new(mode, (width, height), color))


def encoded(*contents: bytes) -> Encoded:
    return Encoded(np.zeros(len(contents), np.int64), lambda: ((f"image {i}", content) for i, content in enumerate(contents)))


@pytest.mark.parametrize(
    ("contents", "wishes", "shape"),
    [
        ([picture(7, 5), picture(7, 5)], {}, (3, 5, 7)),  # one size: kept, though not square
        ([picture(7, 5, "L"), picture(7, 5, "L")], {}, (1, 5, 7)),
        ([picture(7, 5, "L"), picture(7, 5)], {}, (3, 5, 7)),
        ([picture(6, 6, "1"), picture(6, 6, "L"), picture(6, 6, "LA"), picture(6, 6, "I;16")], {}, (1, 6, 6)),
        ([picture(6, 6, "P")], {}, (3, 6, 6)),
        ([picture(9, 5), picture(5, 9), picture(30, 20)], {}, (3, 5, 5)),  # shorter sides 5, 5, 20
        ([picture(9, 8), picture(5, 9), picture(30, 20)], {}, (3, 8, 8)),  # shorter sides 5, 8, 20
        ([picture(9, 8), picture(5, 9)], {}, (3, 5, 5)),  # of two in the middle, the smaller
        ([picture(300, 301), picture(400, 300)], {}, (3, 224, 224)),
        ([picture(9, 5), picture(5, 9)], {"size": 16}, (3, 16, 16)),
        ([picture(7, 5)], {"channels": 1}, (1, 5, 7)),
        ([picture(7, 5, "L")], {"channels": 3}, (3, 5, 7)),
        ([b"not even looked at"], {"size": 8, "channels": 1}, (1, 8, 8)),
    ],
)
def test_shape_is_inferred_from_headers_and_wishes(contents: list[bytes], wishes: dict[str, int], shape: tuple[int, int, int]) -> None:
    assert infer_shape([encoded(*contents)], dataset(**wishes)) == shape


def test_both_splits_decide_the_shape() -> None:
    assert infer_shape([encoded(picture(4, 4, "L")), encoded(picture(4, 4, "RGB"))], dataset()) == (3, 4, 4)


def test_lossless_pixels_come_through_unchanged_in_order() -> None:
    images = np.random.default_rng(0).integers(0, 256, (200, 3, 6, 5), np.uint8)
    contents = [encode(Image.fromarray(image.transpose(1, 2, 0))) for image in images]
    assert np.array_equal(np.concatenate(list(decode(encoded(*contents).read(), (3, 6, 5)))), images)


def test_large_images_decoded_by_several_threads_stay_in_order() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (150, 48, 48, 3), np.uint8)  # above the size that is worth threads
    got = np.concatenate(list(decode(encoded(*(encode(Image.fromarray(image)) for image in noise)).read(), (3, 48, 48))))
    assert np.array_equal(got, noise.transpose(0, 3, 1, 2))


def test_highly_compressed_images_are_decoded_a_few_at_a_time() -> None:
    pieces = list(decode(encoded(*[picture(1024, 1024)] * 7).read(), (3, 1024, 1024)))  # a few kB each, 3 MiB when decoded
    assert [len(piece) for piece in pieces] == [2, 2, 2, 1]


def test_only_a_few_images_are_read_ahead() -> None:
    read = 0

    def count() -> Iterator[Named]:
        nonlocal read
        while read < 100_000:
            read += 1
            yield "x", picture(8, 8)

    batches = decode(count(), (3, 8, 8))
    next(batches)
    assert read <= 64 * (2 * (os.cpu_count() or 1) + 2)
    batches.close()  # type: ignore[attr-defined]


def test_sixteen_bits_are_scaled_to_eight() -> None:
    deep = np.array([[0, 257, 32768, 65535]], np.uint16)
    assert decode_one("x", encode(Image.fromarray(deep)), (1, 1, 4)).ravel().tolist() == [0, 1, 128, 255]
    assert decode_one("x", encode(Image.fromarray(deep), "TIFF"), (1, 1, 4)).ravel().tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize(
    ("mode", "color", "expected"),
    [
        ("RGBA", (255, 0, 0, 255), [255, 0, 0]),
        ("RGBA", (255, 0, 0, 0), [255, 255, 255]),
        ("RGBA", (0, 0, 0, 51), [204, 204, 204]),
        ("LA", (10, 0), [255, 255, 255]),
        ("LA", (10, 255), [10, 10, 10]),
        ("L", 77, [77, 77, 77]),
        ("1", 1, [255, 255, 255]),
    ],
)
def test_modes_become_colours_and_transparency_is_white(mode: str, color: Color, expected: list[int]) -> None:
    assert decode_one("x", picture(1, 1, mode, color), (3, 1, 1)).ravel().tolist() == expected


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("RGBA", (1, 1), (9, 8, 7, 51)), [9, 8, 7, 51]),
        (Image.new("LA", (1, 1), (10, 0)), [10, 10, 10, 0]),
        (Image.new("RGB", (1, 1), (9, 8, 7)), [9, 8, 7, 255]),
        (Image.new("L", (1, 1), 77), [77, 77, 77, 255]),
        (Image.fromarray(np.array([[32768]], np.uint16)), [128, 128, 128, 255]),
    ],
    ids=["RGBA", "LA", "RGB", "L", "16 bits"],
)
def test_transparency_can_be_kept(image: Image.Image, expected: list[int]) -> None:
    assert decode_rgba("x", encode(image)).tolist() == [[expected]]


@pytest.mark.parametrize("content", [b"", b"text", picture(9, 9)[:-30]])
def test_what_is_no_image_has_no_transparency_either(content: bytes) -> None:
    with pytest.raises(InputError, match=r"^x: not a readable image"):
        decode_rgba("x", content)


def test_a_transparent_palette_entry_is_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    assert decode_rgba("x", encode(image, transparency=0)).tolist() == [[[0, 0, 0, 0], [0, 0, 255, 255]]]
    assert decode_one("x", encode(image, transparency=0), (3, 1, 2)).transpose(1, 2, 0).tolist() == [[[255, 255, 255], [0, 0, 255]]]


def test_cmyk_becomes_rgb() -> None:
    red, green, blue = decode_one("x", encode(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95), (3, 8, 8))[:, 0, 0]
    assert red > 200 and green < 60 and blue < 60


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    upright = np.full((16, 32), 0, np.uint8)
    upright[:8, :16] = 255  # a white block at the top left of a wide image
    # How a camera stores it, so that a viewer that obeys the tag shows it upright (EXIF 2.32, table of orientations).
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encode(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif)
    assert infer_shape([encoded(content)], dataset()) == (1, 16, 32)
    assert np.abs(decode_one("x", content, (1, 16, 32))[0].astype(int) - upright).max() <= 10
    assert np.abs(decode_rgba("x", content)[:, :, 0].astype(int) - upright).max() <= 10


@pytest.mark.parametrize(("width", "height"), [(12, 6), (6, 12)])
def test_the_centre_is_cut_out(width: int, height: int) -> None:
    pixels = np.zeros((height, width), np.uint8)
    top, left = (height - 6) // 2, (width - 6) // 2
    pixels[top : top + 6, left : left + 6] = 200
    assert (decode_one("x", encode(Image.fromarray(pixels)), (1, 6, 6)) == 200).all()


def test_shrinking_is_smooth() -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    assert np.abs(decode_one("x", encode(Image.fromarray(stripes)), (1, 8, 8)).astype(int) - 128).max() < 10


def oversized_png() -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 8000, 8000, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(10))) + chunk(b"IEND", b"")


NOISE = Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 40, 3), np.uint8))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a readable image"),
        (b"<html>404</html>", "does not begin like PNG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "does not begin like PNG"),
        (encode(NOISE)[:700], "not a readable image"),
        (encode(NOISE, "JPEG")[:700], "not a readable image"),
        (encode(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), "floating-point"),
        (encode(Image.fromarray(np.full((4, 4), 70000, np.int32)), "TIFF"), "grey values"),
        (oversized_png(), "more than 50,000,000 pixels"),
    ],
)
def test_what_is_no_image_is_named(content: bytes, message: str) -> None:
    good = picture(4, 4)
    with pytest.raises(InputError, match=message) as raised:
        list(decode(encoded(good, content, good).read(), (3, 4, 4)))
    assert str(raised.value).startswith("image 1: ")
    assert "\n" not in str(raised.value) and " at 0x" not in str(raised.value)


def test_a_pixel_bomb_is_refused_by_its_header() -> None:
    with pytest.raises(InputError, match="image 0: more than 50,000,000 pixels"):
        infer_shape([encoded(oversized_png())], dataset())


def test_a_source_can_be_read_twice() -> None:
    images = Encoded(np.array([0, 1]), encoded(picture(4, 4), picture(4, 4, color=9)).read)
    source = source_of_encoded(("a", "b"), "here", train=images, test=None, dataset=dataset())
    first, second = (list(source.train.batches()) for _ in range(2))
    assert source.test is None and source.image_shape == (3, 4, 4)
    assert all(np.array_equal(a, b) for one, two in zip(first, second, strict=True) for a, b in zip(one, two, strict=True))
    assert np.concatenate([labels for _, labels in first]).tolist() == [0, 1]


def test_arrays_are_reshaped_like_images() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 12, 6), np.uint8)
    source = source_of_arrays(("a", "b"), "here", train=(pixels, np.array([0, 1])), test=None, dataset=dataset(size=4, channels=1))
    ((got, _),) = source.train.batches()
    assert np.array_equal(got, np.stack([decode_one("x", encode(Image.fromarray(p.transpose(1, 2, 0))), (1, 4, 4)) for p in pixels]))


def split(*labels: int) -> Split:
    return Split(np.array(labels, np.int64), lambda: iter([np.zeros((len(labels), 1, 2, 2), np.uint8)]))


@pytest.mark.parametrize(
    ("names", "train", "test", "message"),
    [
        (("a", "b"), split(), None, "own: no training images"),
        (("a",), split(0), None, "own: found 1 class, expected at least 2"),
        (("a", "b", "a"), split(0, 1, 2), None, "own: 2 classes have the same name 'a'"),
        (("a", "b", "c"), split(0, 0, 2), None, r"own: class 'b' \(label 1\) has no training image; 1 of 3 classes are empty"),
        (("a", "b"), split(0, 1, 2), None, "own: found labels 0 to 2, expected 0 to 1"),
        (("a", "b"), split(0, 1), split(-1, 1), "own: found labels -1 to 1, expected 0 to 1"),
    ],
)
def test_a_source_is_checked(names: tuple[str, ...], train: Split, test: Split | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Source(names, "own", (1, 2, 2), train, test)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("T-shirt/top", "T-shirt/top"),
        ("Grüße 猫", "Grüße 猫"),
        ("a\nb\x1b[31m", "a\ufffdb\ufffd[31m"),
        ("evil\u202egnp.", "evil\ufffdgnp."),
        ("caf\udce9", "caf\ufffd"),
        ("x" * 81, "x" * 79 + "…"),
        ("<b>", "<b>"),
    ],
)
def test_class_names_stay_text(text: str, name: str) -> None:
    assert class_name(text) == name
