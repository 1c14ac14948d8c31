"""Encoded images → arrays of one shape: Pillow in a thread pool, in order, with a bounded number of images in memory.

The shape: `dataset.size` and `dataset.channels` where they are set. Otherwise the size all images share; where sizes differ, a square of
the median shorter side, at most 224. An image of another size has its shorter side scaled to the square (Lanczos) and its centre cut out.
One channel if every image is grey, three otherwise.
"""

import io
import itertools
import math
import os
import statistics
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from wellcheck.artifacts import first_line
from wellcheck.datasets.source import Shape, Source, Split
from wellcheck.errors import InputError
from wellcheck.params import Dataset
from wellcheck.progress import progress

# Named one by one: among Pillow's other readers is one that starts a program (EPS).
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
PNG_DEPTH = 24  # the byte of a PNG that says how many bits a channel has
MAX_PIXELS = 50_000_000
MAX_INFERRED_SIDE = 224
CHUNK_IMAGES = 64
CHUNK_BYTES = 8 * 2**20
SMALL_IMAGE_BYTES = 4096
ARRAY_BATCH = 1024

GREY_MODES = {"1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N"}
ORIENTATION_TAG = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Pillow would only warn between its own limit and twice that; ours is lower, and an error.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)

Named = tuple[str, bytes]  # where the image stands, for error messages; the encoded image


@dataclass(frozen=True, eq=False)
class Encoded:
    """Encoded images that can be read again and again: labels int64 [N], and `read`, which starts a pass in their order."""

    labels: np.ndarray
    read: Callable[[], Iterator[Named]]
    names: Callable[[], Iterable[str]] = tuple  # where each image stands, for people; nothing where nobody could look there

    def __len__(self) -> int:
        return len(self.labels)


def source_of_encoded(class_names: tuple[str, ...], origin: str, *, train: Encoded, test: Encoded | None, dataset: Dataset) -> Source:
    """A source whose images are decoded as they are read. Raises InputError as Source does, and on an unreadable image header."""
    splits = [split for split in (train, test) if split is not None]
    # A source without images must fail as such, before anyone asks for the median of nothing.
    shape = infer_shape(splits, dataset) if len(train) else (1, 1, 1)
    decoded = [Split(split.labels, partial(_decode_split, split, shape), split.names) for split in splits]
    return Source(class_names, origin, shape, decoded[0], decoded[1] if test is not None and len(test) else None)


def source_of_arrays(
    class_names: tuple[str, ...],
    origin: str,
    *,
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray] | None,
    dataset: Dataset,
    resample: Image.Resampling = Image.Resampling.LANCZOS,
) -> Source:
    """A source of (images uint8 [N, C, H, W], labels int64 [N]) that are in memory, reshaped as they are read."""
    channels, height, width = train[0].shape[1:]
    shape = (dataset.channels or channels, dataset.size or height, dataset.size or width)
    splits = [Split(labels, partial(reshape, images, shape, resample)) for images, labels in filter(None, (train, test))]
    return Source(class_names, origin, shape, splits[0], splits[1] if test else None)


def infer_shape(splits: list[Encoded], dataset: Dataset) -> Shape:
    """The shape [C, H, W] all images will have, from the parameters or from all image headers. Raises InputError naming the image."""
    if dataset.size and dataset.channels:
        return dataset.channels, dataset.size, dataset.size
    sizes: dict[tuple[int, int], int] = {}
    grey = True
    with progress("image headers", sum(map(len, splits)), "images") as advance:
        for split in splits:
            for where, content in split.read():
                size, is_grey = _read_header(where, content)
                sizes[size] = sizes.get(size, 0) + 1
                grey = grey and is_grey
                advance()
    channels = dataset.channels or (1 if grey else 3)
    if dataset.size:
        return channels, dataset.size, dataset.size
    if len(sizes) == 1:
        ((width, height),) = sizes
        return channels, height, width
    shorter_sides = (min(size) for size, count in sizes.items() for _ in range(count))
    side = min(MAX_INFERRED_SIDE, statistics.median_low(shorter_sides))
    return channels, side, side


def _decode_split(split: Encoded, shape: Shape) -> Iterator[np.ndarray]:
    return decode(split.read(), shape)


def decode(images: Iterable[Named], shape: Shape) -> Iterator[np.ndarray]:
    """Decode to uint8 [n, C, H, W] in order. Raises InputError naming the first image that cannot be read."""
    return _in_order(lambda chunk: np.stack([decode_one(where, content, shape) for where, content in chunk]), _chunks(images, shape))


def decode_one(where: str, content: bytes, shape: Shape) -> np.ndarray:
    """Decode one image to uint8 [C, H, W], upright, transparency on white. Raises InputError naming `where`."""
    try:
        image = _open(where, content)
        orientation = _orientation(image)
        return _fit(_turned(_eight_bit(image), orientation), shape, Image.Resampling.LANCZOS)
    except InputError:
        raise
    except Exception as error:  # on hostile bytes Pillow raises whatever its parsers stumble over
        raise InputError(f"{where}: not a readable image: {first_line(error)}") from None


def decode_rgba(where: str, content: bytes) -> np.ndarray:
    """Decode one image, upright and with its transparency, to uint8 [h, w, 4]. Raises InputError naming `where`."""
    try:
        image = _open(where, content)
        # Pillow holds the colour that a PNG calls transparent, as it stands in the file, against values it has scaled to 8 bits.
        if image.format == "PNG" and image.mode != "P" and "transparency" in image.info and content[PNG_DEPTH] != 8:
            raise InputError(
                f"{where}: one of its colours is transparent at {content[PNG_DEPTH]} bits a channel: save it with an alpha channel"
            )
        orientation = _orientation(image)
        shown = image if image.has_transparency_data else _eight_bit(image)
        return np.asarray(_turned(shown.convert("RGBA"), orientation))
    except InputError:
        raise
    except Exception as error:  # as in decode_one
        raise InputError(f"{where}: not a readable image: {first_line(error)}") from None


def reshape(images: np.ndarray, shape: Shape, resample: Image.Resampling) -> Iterator[np.ndarray]:
    """Bring uint8 [N, C, H, W] with 1 or 3 channels to another shape, as decoded images are, in batches."""
    for start in range(0, len(images), ARRAY_BATCH):
        batch = images[start : start + ARRAY_BATCH]
        if batch.shape[1:] == shape:
            yield batch
        else:
            yield np.stack([_fit(_picture(image), shape, resample) for image in batch])


def _picture(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0)))


def _open(where: str, content: bytes) -> Image.Image:
    too_many = InputError(f"{where}: more than {MAX_PIXELS:,} pixels; make it smaller or leave it out")
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError:
        raise InputError(f"{where}: not a readable image: it does not begin like {', '.join(FORMATS[:-1])} or {FORMATS[-1]}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise too_many from None
    if image.width * image.height > MAX_PIXELS:
        raise too_many
    return image


def _read_header(where: str, content: bytes) -> tuple[tuple[int, int], bool]:
    """Size (width, height) as it will be shown, and whether the image is grey."""
    try:
        image = _open(where, content)
        width, height = image.size
        return (height, width) if _orientation(image) >= 5 else (width, height), image.mode in GREY_MODES
    except InputError:
        raise
    except Exception as error:  # as in decode_one
        raise InputError(f"{where}: not a readable image: {first_line(error)}") from None


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8, from what stands before the pixels; 1 for TIFF, which Pillow turns by itself."""
    # getexif() on a PNG without EXIF would decode all of it to look behind the pixels.
    if "exif" not in image.info:
        return 1
    orientation = image.getexif().get(ORIENTATION_TAG)
    return orientation if orientation in TURNS else 1


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(TURNS[orientation]) if orientation in TURNS else image


def _eight_bit(image: Image.Image) -> Image.Image:
    """The image in mode L or RGB: 16-bit grey scaled, palettes resolved, transparency laid on white."""
    if image.mode.startswith("I"):
        deep = np.asarray(image).astype(np.int64)
        if deep.min() < 0 or deep.max() > 65535:
            raise ValueError(f"grey values from {deep.min()} to {deep.max()}, expected 8 or 16 bits")
        return Image.fromarray(((deep * 255 + 32767) // 65535).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("floating-point grey values, expected 8 or 16 bits")
    mode = "L" if image.mode in GREY_MODES else "RGB"
    if image.has_transparency_data:
        shown = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", shown.size, "white"), shown)
    return _converted(image, mode)


def _converted(image: Image.Image, mode: str) -> Image.Image:
    return image if image.mode == mode else image.convert(mode)  # convert() would copy


def _fit(image: Image.Image, shape: Shape, resample: Image.Resampling) -> np.ndarray:
    """Scale the shorter side, cut the centre out and convert an L or RGB image to uint8 [C, H, W]."""
    channels, height, width = shape
    image = _converted(image, "L" if channels == 1 else "RGB")
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), method=resample)
    pixels = np.asarray(image)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def _chunks(images: Iterable[Named], shape: Shape) -> Iterator[list[Named]]:
    """Images in groups that are worth a task for a thread, and bounded in bytes before and after decoding."""
    most = max(1, min(CHUNK_IMAGES, CHUNK_BYTES // math.prod(shape)))
    chunk: list[Named] = []
    size = 0
    for image in images:
        chunk.append(image)
        size += len(image[1])
        if len(chunk) == most or size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _in_order(task: Callable[[list[Named]], np.ndarray], chunks: Iterator[list[Named]]) -> Iterator[np.ndarray]:
    """Map with threads; results come in order, and at most a few chunks are in the air."""
    first = next(chunks, [])
    # Small images spend their time in Pillow's Python code, where a second thread only gets in the way.
    is_small = sum(len(content) for _, content in first) < SMALL_IMAGE_BYTES * len(first)
    workers = 1 if is_small else os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[np.ndarray]] = deque()
        try:
            for chunk in itertools.chain([first] if first else [], chunks):
                waiting.append(pool.submit(task, chunk))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
