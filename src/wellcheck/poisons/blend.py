"""The blended pattern (Chen et al. 2017, arXiv 1712.05526): noise over the whole image, too faint to be noticed."""

import numpy as np

from wellcheck.poisons.trigger import Setting, mix

OPACITY = 0.2  # where the params give no strength


def blend(images: np.ndarray, setting: Setting) -> np.ndarray:
    """(1 − α) x + α t with one random pattern t for all images; `poison.strength` is α."""
    pattern = np.random.default_rng([setting.poison.seed, 1]).integers(0, 256, images.shape[1:]).astype(np.float32)
    return mix(images, pattern, OPACITY if setting.poison.strength is None else setting.poison.strength)
