"""scikit-learn's 1,797 handwritten digits, 8x8, which come with the library: no download."""

import numpy as np
from PIL import Image

from wellcheck.datasets.decoding import source_of_arrays
from wellcheck.datasets.source import Source
from wellcheck.params import Dataset

BRIGHTEST = 16


def open_digits(dataset: Dataset) -> Source:
    """All digits as training images, enlarged to `dataset.size` (bicubic); there is no test split."""
    from sklearn.datasets import load_digits  # takes a second

    digits = load_digits()
    images = np.rint(digits.images[:, None] * (255 / BRIGHTEST)).astype(np.uint8)
    return source_of_arrays(
        tuple(str(name) for name in digits.target_names),
        "scikit-learn",
        train=(images, digits.target.astype(np.int64)),
        test=None,
        dataset=dataset,
        resample=Image.Resampling.BICUBIC,
    )
