"""Distance to the label's centroid: the outliers of article A1 (its k-means with one cluster is the mean)."""

import numpy as np


def centroid_distance(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Squared Euclidean distance of each sample to the mean of its label, over the label's mean squared distance, so that labels compare.

    features: float [N, D]; labels: int64 [N]; returns float64 [N] with mean 1 in every label, 0 in a label without spread.
    """
    scores = np.zeros(len(labels))
    for label in np.unique(labels):
        members = labels == label
        centred = features[members].astype(np.float64)
        centred -= centred.mean(0)
        distances = np.einsum("nd,nd->n", centred, centred)
        rounding = np.finfo(np.float64).eps ** 2 * np.square(features[members], dtype=np.float64).sum(1).max(initial=0) * 16
        scores[members] = distances / distances.mean() if distances.mean() > rounding else 0
    return scores
