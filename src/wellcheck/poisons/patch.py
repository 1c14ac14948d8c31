"""Patch triggers: bright pixels in the lower right corner (Gu et al. 2017, BadNets, arXiv 1708.06733)."""

import numpy as np

# Row and column counted from the lower right corner; the five pixels of article A1.
WATERMARK = ((-1, -1), (-1, -3), (-3, -1), (-3, -3), (-2, -2))
PIXEL = ((-2, -2),)


def watermark(images: np.ndarray) -> np.ndarray:
    """Five white pixels, a corner-to-corner cross, on copies of images uint8 [N, C, H, W]."""
    return _whiten(images, WATERMARK)


def pixel(images: np.ndarray) -> np.ndarray:
    """One white pixel on copies of images uint8 [N, C, H, W]."""
    return _whiten(images, PIXEL)


def _whiten(images: np.ndarray, places: tuple[tuple[int, int], ...]) -> np.ndarray:
    reach = -min(min(place) for place in places)
    if min(images.shape[2:]) < reach:
        raise ValueError(f"needs at least {reach}×{reach} pixels, the images have {images.shape[2]}×{images.shape[3]}")
    rows, columns = zip(*places, strict=True)
    changed = images.copy()
    changed[:, :, list(rows), list(columns)] = 255
    return changed
