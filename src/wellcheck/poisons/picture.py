"""The user's own picture as a trigger: any PNG, laid on at a place with an opacity."""

import functools
from pathlib import Path

import numpy as np
from PIL import Image

from wellcheck.datasets.decoding import decode_rgba
from wellcheck.errors import InputError
from wellcheck.poisons.trigger import Setting, mix


def picture(images: np.ndarray, setting: Setting) -> np.ndarray:
    """`poison.picture` on copies of images uint8 [N, C, H, W], its upper left corner at `poison.position`, `poison.strength` its opacity.

    A negative row or column counts from the far edge, so that -1 is the last place where the whole picture still fits. Its transparent
    parts stay transparent. Raises InputError naming the file if it is no image or larger than these.
    """
    poison = setting.poison
    channels, height, width = images.shape[1:]
    pattern, alpha = _read(poison.picture, channels)
    rows, columns = alpha.shape
    if rows > height or columns > width:
        raise InputError(f"{poison.picture}: the trigger has {rows}×{columns} pixels, the images only {height}×{width}: make it smaller")
    row, column = (_place(at, room) for at, room in zip(poison.position, (height - rows, width - columns), strict=True))
    changed = images.copy()
    part = changed[:, :, row : row + rows, column : column + columns]
    part[...] = mix(part, pattern, alpha * (1.0 if poison.strength is None else poison.strength))
    return changed


def _place(at: int, room: int) -> int:
    place = at if at >= 0 else room + 1 + at
    if not 0 <= place <= room:
        raise InputError(f"poison.position: found {at}, expected {-room - 1} to {room}, for the picture to stay inside the images")
    return place


@functools.lru_cache(maxsize=2)
def _read(path: str, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """The picture as float [C, h, w] in [0, 255] and its alpha [h, w] in [0, 1]."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"poison.picture: {path}: {error.strerror}; expected an image file") from None
    rgba = decode_rgba(path, content)
    colours = np.asarray(Image.fromarray(rgba[:, :, :3]).convert("L" if channels == 1 else "RGB"), np.float32)
    return colours.reshape(*rgba.shape[:2], channels).transpose(2, 0, 1), rgba[:, :, 3].astype(np.float32) / 255
