"""Spectral signatures (Tran, Li and Madry 2018, arXiv 1811.00636, algorithm 1): the squared projection on the label's top direction."""

import numpy as np


def spectral_signatures(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Per label, (v·(h − μ))² with v the top right singular vector of the centred features.

    features: float [N, D]; labels: int64 [N]; returns float64 [N]. The scores come from the D × D scatter matrix, or from the n × n matrix
    of products where the label has fewer samples than features: the same as from the paper's SVD of n × D, at a fraction of the cost.
    """
    scores = np.zeros(len(labels))
    for label in np.unique(labels):
        members = labels == label
        centred = features[members].astype(np.float64)
        centred -= centred.mean(0)
        samples, width = centred.shape
        if samples < width:
            # With X = U S V', (X v)² is s² u², and X X' = U S² U'.
            squares, directions = np.linalg.eigh(centred @ centred.T)
            scores[members] = max(squares[-1], 0) * directions[:, -1] ** 2
        else:
            _, directions = np.linalg.eigh(centred.T @ centred)
            scores[members] = (centred @ directions[:, -1]) ** 2
    return scores
