"""Spectral signatures (Tran, Li and Madry 2018, arXiv 1811.00636, algorithm 1): the squared projection on the label's top direction."""

import numpy as np


def spectral_signatures(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Per label, (v·(h − μ))² with v the top right singular vector of the centred features.

    features: float [N, D]; labels: int64 [N]; returns float64 [N]. v comes from the D × D scatter matrix: the same vector as the
    paper's SVD of N × D at a fraction of the cost.
    """
    scores = np.zeros(len(labels))
    for label in np.unique(labels):
        members = labels == label
        centred = features[members].astype(np.float64)
        centred -= centred.mean(0)
        _, directions = np.linalg.eigh(centred.T @ centred)
        scores[members] = (centred @ directions[:, -1]) ** 2
    return scores
