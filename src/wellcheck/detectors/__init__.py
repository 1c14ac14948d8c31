"""Detectors of poisoned training samples: features and received labels in, scores out, higher = more suspicious.

None of them sees what was planted. A new one is a file with one function, a line here, a name in params.py, its tests, a line in the docs.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from wellcheck.detectors.centroid import centroid_distance
from wellcheck.detectors.spectral import spectral_signatures
from wellcheck.params import DetectorName


@dataclass(frozen=True)
class Detector:
    """A score, and the features it is computed from: a layer of the embeddings, or `tsne`, the map of the pixels."""

    score: Callable[[np.ndarray, np.ndarray], np.ndarray]  # features [N, D], labels int64 [N] → scores float64 [N]
    features: str


DETECTORS: dict[DetectorName, Detector] = {
    "centroid_tsne": Detector(centroid_distance, "tsne"),
    "centroid_penultimate": Detector(centroid_distance, "penultimate"),
    "spectral_signatures": Detector(spectral_signatures, "penultimate"),
}
