"""Distance to the label's centroid: the outliers of article A1 (its k-means with one cluster is the mean)."""

import numpy as np

from wellcheck.detectors.case import Case
from wellcheck.detectors.directions import chunks, mean_of
from wellcheck.errors import InputError


def centroid_tsne(case: Case) -> np.ndarray:
    """Distance to the label's centroid on the t-SNE map of the pixels; scores float64 [N], NaN for samples that are not on the map."""
    if case.map_rows is None or case.map_places is None:
        raise InputError("centroid_tsne needs the t-SNE map of the pixels, and was given none")
    if not np.isfinite(case.map_places).all():
        raise InputError("the t-SNE map has places that are not finite")
    scores = np.full(len(case.labels), np.nan)
    scores[case.map_rows] = centroid_distance(case.map_places, case.labels[case.map_rows])
    return scores


def centroid_penultimate(case: Case) -> np.ndarray:
    """Distance to the label's centroid in the penultimate layer; scores float64 [N]."""
    return centroid_distance(case.layer("penultimate"), case.labels)


def centroid_distance(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Squared Euclidean distance of each sample to the mean of its label, over the label's mean squared distance, so that labels compare.

    features: float [N, D]; labels: int64 [N]; returns float64 [N] with mean 1 in every label, 0 in a label without spread, NaN for a sample
    that is alone in its label.
    """
    scores = np.full(len(labels), np.nan)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        if len(rows) > 1:
            scores[rows] = _distances(features, rows)
    return scores


def _distances(features: np.ndarray, rows: np.ndarray) -> np.ndarray:
    mean, distances, largest = mean_of(features, rows), np.empty(len(rows)), 0.0
    for part, values in chunks(features, rows):
        largest = max(largest, float(np.einsum("nd,nd->n", values, values).max(initial=0)))
        values -= mean
        distances[part] = np.einsum("nd,nd->n", values, values)
    rounding = np.finfo(np.float64).eps ** 2 * largest * 16
    spread = distances.mean()
    return distances / spread if spread > rounding else np.zeros(len(rows))
