"""Detectors of poisoned training samples: a delivered set and its model in, scores out, higher = more suspicious.

None of them sees what was planted. A new one is a file with one function, a line here, its name and layers in params.py, its tests, and a
line in docs/detectors.md.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from wellcheck.detectors.agpd import agpd
from wellcheck.detectors.beatrix import beatrix
from wellcheck.detectors.case import Case
from wellcheck.detectors.centroid import centroid_penultimate, centroid_tsne
from wellcheck.detectors.clustering import activation_clustering
from wellcheck.detectors.inversion import trigger_inversion
from wellcheck.detectors.knn import knn_disagreement
from wellcheck.detectors.loss_ranking import loss_ranking
from wellcheck.detectors.mixture import mixture
from wellcheck.detectors.scan import scan
from wellcheck.detectors.spectral import spectral_signatures
from wellcheck.detectors.spectre import spectre
from wellcheck.detectors.strip import strip
from wellcheck.params import LAYERS_READ, NEED_TRUSTED, DetectorName, LayerName

Score = Callable[[Case], np.ndarray]


@dataclass(frozen=True)
class Detector:
    """A score, and what it needs. It gives float64 [N]; NaN where the method did not look."""

    name: DetectorName
    score: Score
    source: str  # the paper
    images: bool = False  # whether it asks the model about the images

    @property
    def layers(self) -> tuple[LayerName, ...]:
        """The layers of the embeddings that it reads."""
        return LAYERS_READ.get(self.name, ())

    @property
    def trusted(self) -> bool:
        """Whether it needs samples somebody vouches for."""
        return self.name in NEED_TRUSTED


_ALL = [
    Detector("centroid_tsne", centroid_tsne, "article A1"),
    Detector("centroid_penultimate", centroid_penultimate, "article A1, in the penultimate layer"),
    Detector("knn_disagreement", knn_disagreement, "Wilson 1972; Peri et al. 2020, arXiv 1909.13374"),
    Detector("spectral_signatures", spectral_signatures, "Tran, Li and Madry 2018, arXiv 1811.00636"),
    Detector("activation_clustering", activation_clustering, "Chen et al. 2018, arXiv 1811.03728"),
    Detector("spectre", spectre, "Hayase et al. 2021, arXiv 2104.11315"),
    Detector("scan", scan, "Tang et al. 2021, arXiv 1908.00686"),
    Detector("loss_ranking", loss_ranking, "Li et al. 2021 (ABL), arXiv 2110.11571"),
    Detector("mixture", mixture, "ours, after SCAn"),
    Detector("trigger_inversion", trigger_inversion, "ours, after Wang et al. 2019 (Neural Cleanse)", images=True),
    Detector("strip", strip, "Gao et al. 2019, arXiv 1902.06531", images=True),
    Detector("agpd", agpd, "Yuan et al. 2025, arXiv 2312.06230", images=True),
    Detector("beatrix", beatrix, "Ma et al. 2023, arXiv 2209.11715", images=True),
]
DETECTORS: dict[DetectorName, Detector] = {detector.name: detector for detector in _ALL}
