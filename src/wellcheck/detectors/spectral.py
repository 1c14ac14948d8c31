"""Spectral signatures (Tran, Li and Madry 2018, arXiv 1811.00636, algorithm 1): the squared projection on the label's top direction."""

import numpy as np

from wellcheck.detectors.case import Case


def spectral_signatures(case: Case) -> np.ndarray:
    """Per label, (v·(h − μ))² with v the top right singular vector of the centred penultimate features, in squared units of the features.

    Scores float64 [N]; 0 in a label without spread, NaN for a sample that is alone in its label. Centred: the uncentred form that others
    ship projects on the mean itself.
    """
    axes, scores = case.leading("penultimate"), np.full(len(case.labels), np.nan)

    def score(label: int, rows: np.ndarray) -> None:
        scores[rows] = (axes(label).places[:, :1] ** 2).sum(1)

    case.by_label(score, at_least=2)
    return scores
