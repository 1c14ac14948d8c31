"""Patch triggers: bright pixels in the lower right corner, or somewhere (Gu et al. 2017, BadNets, arXiv 1708.06733)."""

import numpy as np

from wellcheck.poisons.trigger import Setting, check_room

# Row and column counted from the lower right corner; the five pixels of article A1.
WATERMARK = ((-1, -1), (-1, -3), (-3, -1), (-3, -3), (-2, -2))
PIXEL = ((-2, -2),)
REACH = 3  # rows and columns of the watermark


def watermark(images: np.ndarray, setting: Setting) -> np.ndarray:
    """Five white pixels, a corner-to-corner cross, on copies of images uint8 [N, C, H, W]."""
    return _whiten(images, WATERMARK)


def pixel(images: np.ndarray, setting: Setting) -> np.ndarray:
    """One white pixel on copies of images uint8 [N, C, H, W]."""
    return _whiten(images, PIXEL)


def random_patch(images: np.ndarray, setting: Setting) -> np.ndarray:
    """The watermark at a place of its own in every image (Salem et al. 2022, Dynamic backdoor attacks, arXiv 2003.03675)."""
    height, width = images.shape[2:]
    check_room(images, REACH)
    draws = setting.draws(2)
    rows = REACH + np.floor(draws[:, 0] * (height - REACH + 1)).astype(np.int64)
    columns = REACH + np.floor(draws[:, 1] * (width - REACH + 1)).astype(np.int64)
    changed = images.copy()
    every = np.arange(len(images))
    for row, column in WATERMARK:
        changed[every, :, rows + row, columns + column] = 255
    return changed


def _whiten(images: np.ndarray, places: tuple[tuple[int, int], ...]) -> np.ndarray:
    check_room(images, -min(min(place) for place in places))
    rows, columns = zip(*places, strict=True)
    changed = images.copy()
    changed[:, :, list(rows), list(columns)] = 255
    return changed
