"""Images as the report shows them: small, inside the page, and nothing else of the file they came from."""

import base64
import io

import numpy as np
from PIL import Image

THUMBNAIL_SIDE = 64  # pixels, for images that are looked at one by one
SPRITE_SIDE = 32  # pixels, for images that come in hundreds
FOR, AGAINST = (222, 96, 28), (48, 118, 204)  # colours that are told apart by the colour-blind, on white and on black
LEVELS = 32  # of opacity: more could not be told apart, and would not compress


def shrink(images: np.ndarray, side: int) -> np.ndarray:
    """Images uint8 [N, C, H, W] made smaller to at most `side` pixels a side; smaller ones stay as they are."""
    _, channels, height, width = images.shape
    if max(height, width) <= side:
        return images
    size = [max(1, round(length * side / max(height, width))) for length in (width, height)]
    small = [np.asarray(_picture(image).resize(size, Image.Resampling.LANCZOS)) for image in images]
    shape = (len(images), size[1], size[0], channels)
    return np.moveaxis(np.array(small, np.uint8).reshape(shape), 3, 1)


def data_uri(image: np.ndarray, *, lossless: bool = False) -> str:
    """An image uint8 [C, H, W] as a WebP data address: grey (one channel), RGB or RGBA; grey ones lose nothing."""
    return _encode(_picture(image), lossless=lossless or image.shape[0] == 1)


def sprite(images: np.ndarray, *, columns: int) -> str:
    """Images uint8 [N, C, H, W] side by side in one WebP, row by row, as a data address."""
    count, channels, height, width = images.shape
    rows = max(1, -(-count // columns))
    cells = np.zeros((rows * columns, channels, height, width), np.uint8)
    cells[:count] = images
    sheet = cells.reshape(rows, columns, channels, height, width).transpose(2, 0, 3, 1, 4).reshape(channels, rows * height, columns * width)
    return _encode(_picture(sheet), lossless=False)


def signed(values: np.ndarray) -> tuple[np.ndarray, float]:
    """Signed values float [C, H, W] as an image uint8 on middle grey, and the factor that makes the largest just fit; 0 of zeros."""
    largest = float(np.abs(values).max())
    factor = 127 / largest if largest else 0.0
    return (128 + values * factor).round().astype(np.uint8), factor


def with_opacity(colour: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """An image float [C, H, W] in [0, 255] and its opacity float [H, W] in [0, 1] as RGBA uint8 [4, H, W]."""
    colours = np.broadcast_to(colour, (3, *weight.shape))
    return np.concatenate([colours, 255 * weight[None]]).round().clip(0, 255).astype(np.uint8)


def diverging(values: np.ndarray) -> np.ndarray:
    """Signed maps float [N, C, H, W] as RGBA uint8 [N, 4, H, W]: the sign of the channels' sum is a colour, its share of the map's largest
    the opacity. Nothing shows the ground, whichever the page has."""
    summed = values.sum(1, dtype=np.float32)
    largest = np.abs(summed).max(axis=(1, 2), keepdims=True, initial=0)
    share = summed / np.where(largest > 0, largest, 1)
    opacity = (np.abs(share) * (LEVELS - 1)).round() * (255 / (LEVELS - 1))
    colour = np.where(share[:, None] > 0, np.reshape(FOR, (1, 3, 1, 1)), np.reshape(AGAINST, (1, 3, 1, 1)))
    return np.concatenate([colour, opacity[:, None]], axis=1).round().astype(np.uint8)


def stacked(images: np.ndarray) -> np.ndarray:
    """Images uint8 [N, C, H, W] as one, uint8 [C, N·H, W], the first on top."""
    return np.concatenate(list(images), axis=1)


def film_uri(frames: np.ndarray, *, milliseconds: int) -> str:
    """Frames uint8 [F, C, H, W] as an animated WebP that begins again at its end, as a data address."""
    first, *others = [_picture(frame) for frame in frames]
    file = io.BytesIO()
    first.save(file, "WEBP", save_all=True, append_images=others, duration=milliseconds, loop=0, lossless=True, method=4)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


def _picture(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[0] if image.shape[0] == 1 else np.ascontiguousarray(np.moveaxis(image, 0, 2)))


def _encode(picture: Image.Image, *, lossless: bool) -> str:
    file = io.BytesIO()
    picture.save(file, "WEBP", lossless=lossless, quality=75, method=4)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
