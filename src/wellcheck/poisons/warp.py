"""The warp of WaNet (Nguyen and Tran 2021, arXiv 2102.10369): a smooth distortion that is the same for all images, and no pixel pattern."""

import numpy as np

from wellcheck.poisons.trigger import Setting, check_room

CONTROL_POINTS = 4  # a side, the paper's k
STRENGTH = 0.5  # where the params give none, the paper's s


def warp(images: np.ndarray, setting: Setting) -> np.ndarray:
    """Images resampled (bilinear) along one random smooth field.

    `poison.strength` is the paper's s: the field's control points shift by s / 2 pixels on average.
    A cover sample gets the field plus jitter of its own of up to half a pixel, the paper's noise mode: then only the exact field is a
    trigger.
    """
    check_room(images, 2)
    height, width = images.shape[2:]
    strength = STRENGTH if setting.poison.strength is None else setting.poison.strength
    shift = strength / 2 * smooth_field(height, width, setting.poison.seed)
    if not setting.cover:
        return _resample(images, shift[None])
    jitter = setting.draws(2 * height * width).reshape(len(images), 2, height, width) - 0.5
    return _resample(images, shift + jitter)


def smooth_field(height: int, width: int, seed: int) -> np.ndarray:
    """Shifts [2, H, W] of rows and columns: k × k random control points, of mean absolute value 1, and cubic splines between them."""
    from scipy.ndimage import map_coordinates

    coarse = np.random.default_rng([seed, 2]).uniform(-1, 1, (2, CONTROL_POINTS, CONTROL_POINTS))
    sides = [np.linspace(0, CONTROL_POINTS - 1, side) for side in (height, width)]
    places = np.stack(np.meshgrid(*sides, indexing="ij"))
    field: np.ndarray = np.stack([map_coordinates(values, places, order=3) for values in coarse]) / np.abs(coarse).mean()
    return field


def _resample(images: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Images uint8 [N, C, H, W] read at their pixels' places plus shifts [N or 1, 2, H, W]; outside, the edge is repeated."""
    height, width = images.shape[2:]
    flat = images.reshape(*images.shape[:2], height * width)
    rows = (np.arange(height)[:, None] + shifts[:, 0]).clip(0, height - 1)
    columns = (np.arange(width) + shifts[:, 1]).clip(0, width - 1)
    top, left = (np.minimum(np.floor(at), side - 2).astype(np.int64) for at, side in ((rows, height), (columns, width)))

    def at(row: np.ndarray, column: np.ndarray) -> np.ndarray:
        places = (row * width + column).reshape(len(shifts), 1, height * width)
        return np.take_along_axis(flat, places, 2).reshape(images.shape).astype(np.float64)

    down, right = (rows - top)[:, None], (columns - left)[:, None]
    upper = at(top, left) * (1 - right) + at(top, left + 1) * right
    lower = at(top + 1, left) * (1 - right) + at(top + 1, left + 1) * right
    changed: np.ndarray = np.rint(upper * (1 - down) + lower * down).clip(0, 255).astype(np.uint8)
    return changed
