"""Spectral signatures (Tran, Li and Madry 2018, arXiv 1811.00636, algorithm 1): the squared projection on the label's top direction."""

import numpy as np

from wellcheck.detectors.case import Case
from wellcheck.detectors.directions import principal


def spectral_signatures(case: Case) -> np.ndarray:
    """Per label, (v·(h − μ))² with v the top right singular vector of the centred penultimate features, in squared units of the features.

    Scores float64 [N]; 0 in a label without spread, NaN for a sample that is alone in its label. Centred: the uncentred form that others
    ship projects on the mean itself.
    """
    layer, scores = case.layer("penultimate"), np.full(len(case.labels), np.nan)

    def score(_: int, rows: np.ndarray) -> None:
        scores[rows] = (principal(layer, rows, count=1, seed=case.seed).places ** 2).sum(1)

    case.by_label(score, at_least=2)
    return scores
