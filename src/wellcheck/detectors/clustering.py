"""Activation clustering (Chen et al. 2018, arXiv 1811.03728): every label's activations in two clusters; poison is the smaller one."""

from dataclasses import dataclass

import numpy as np

from wellcheck.detectors.case import Case
from wellcheck.detectors.two_means import margins, silhouette, two_means

LEAST_PER_LABEL = 10
LARGEST_SHARE = 0.35  # of the label in the smaller cluster: two halves are two kinds of the same class
LEAST_SILHOUETTE = 0.10  # the paper's range is 0.10 to 0.15


@dataclass(frozen=True)
class Clusters:
    """One label's two clusters."""

    label: int
    rows: np.ndarray  # int64 [n], all samples of the label
    smaller: np.ndarray  # bool [n]
    margins: np.ndarray  # float64 [n], −1 at the larger cluster's centre, 1 at the smaller one's
    silhouette: float | None  # None where the smaller cluster is too large, or empty, and nobody needs to ask

    @property
    def share(self) -> float:
        """Of the label in the smaller cluster."""
        return float(self.smaller.mean())

    @property
    def suspicious(self) -> bool:
        """Whether the smaller cluster is small, and the two lie apart."""
        return self.silhouette is not None and self.silhouette > LEAST_SILHOUETTE

    @property
    def suspects(self) -> np.ndarray:
        """The rows of the smaller cluster, int64."""
        rows: np.ndarray = self.rows[self.smaller]
        return rows


def activation_clustering(case: Case) -> np.ndarray:
    """Margin towards the smaller cluster in labels whose clusters are suspicious, 0 in the others; float64 [N], NaN below ten samples."""
    scores = np.full(len(case.labels), np.nan)
    for found in clusters(case):
        scores[found.rows] = found.margins if found.suspicious else 0.0
    return scores


def clusters(case: Case, layer: str = "penultimate") -> list[Clusters]:
    """Two clusters of every label of at least ten samples, by 2-means on its ten principal directions.

    Exclusionary reclassification, the paper's third test, needs a second model: whoever has one applies it to these clusters.
    """
    axes = case.leading(layer)

    def split(label: int, rows: np.ndarray) -> Clusters:
        points = axes(label).places
        smaller = two_means(points, seed=case.seed) if points.size else np.zeros(len(rows), bool)
        small = 0 < smaller.mean() < LARGEST_SHARE
        apart = silhouette(points, smaller, seed=case.seed) if small else None
        return Clusters(label, rows, smaller, margins(points, smaller), apart)

    return case.by_label(split, at_least=LEAST_PER_LABEL)
