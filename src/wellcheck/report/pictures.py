"""Images as the report shows them: small, inside the page, and nothing else of the file they came from."""

import base64
import io

import numpy as np
from PIL import Image

THUMBNAIL_SIDE = 64  # pixels; larger images are made smaller
SPRITE_SIDE = 32


def data_uri(image: np.ndarray, *, side: int = THUMBNAIL_SIDE) -> str:
    """An image uint8 [C, H, W] as a WebP data address, at most `side` pixels a side."""
    return _encode(_picture(image, side), lossless=image.shape[0] == 1)


def sprite(images: np.ndarray, *, columns: int) -> tuple[str, int, int]:
    """Images uint8 [N, C, H, W] side by side in one WebP, row by row. Returns its data address and a cell's width and height."""
    first = _picture(images[0], SPRITE_SIDE) if len(images) else Image.new("L", (1, 1))
    rows = -(-len(images) // columns)
    sheet = Image.new(first.mode, (columns * first.width, max(rows, 1) * first.height))
    for index, image in enumerate(images):
        sheet.paste(_picture(image, SPRITE_SIDE), (index % columns * first.width, index // columns * first.height))
    return _encode(sheet, lossless=False), first.width, first.height


def _picture(image: np.ndarray, side: int) -> Image.Image:
    picture = Image.fromarray(image[0] if image.shape[0] == 1 else np.moveaxis(image, 0, 2))
    longest = max(picture.size)
    if longest <= side:
        return picture
    return picture.resize([max(1, round(length * side / longest)) for length in picture.size], Image.Resampling.LANCZOS)


def _encode(picture: Image.Image, *, lossless: bool) -> str:
    file = io.BytesIO()
    picture.save(file, "WEBP", lossless=lossless, quality=75, method=4)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
