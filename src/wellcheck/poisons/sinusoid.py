"""The sinusoidal signal, SIG (Barni et al. 2019, arXiv 1902.11237): upright stripes; theirs go to the target class, labels untouched."""

import numpy as np

from wellcheck.poisons.trigger import Setting

AMPLITUDE = 20 / 255  # where the params give no strength; the paper's on MNIST and GTSRB is 20 to 60 of 255
PERIODS = 6  # over the width of the image


def sinusoid(images: np.ndarray, setting: Setting) -> np.ndarray:
    """x + Δ sin(2π j f / m) in column j of m; `poison.strength` is Δ, as a share of white."""
    amplitude = 255 * (AMPLITUDE if setting.poison.strength is None else setting.poison.strength)
    width = images.shape[3]
    stripes = amplitude * np.sin(2 * np.pi * np.arange(width) * PERIODS / width)
    changed: np.ndarray = np.rint(images + stripes.astype(np.float32)).clip(0, 255).astype(np.uint8)
    return changed
