"""What is learnt first (ABL's isolation step: Li et al. 2021, arXiv 2110.11571): a backdoor is easy, so its samples' loss falls at once."""

import numpy as np

from wellcheck.detectors.case import Case
from wellcheck.errors import InputError
from wellcheck.metrics import spread

LEAST_PER_LABEL = 4
FLOOR = float(np.finfo(np.float16).smallest_subnormal)  # losses are kept in half precision


def loss_ranking(case: Case) -> np.ndarray:
    """How far a sample's mean loss over the early epochs lies below its label's median, on a log scale, in robust standard deviations.

    Scores float64 [N]; 0 where a label's losses are alike, NaN in labels below four samples. A high loss, the sign of a wrong label, ranks
    last. Raises InputError if no early losses were kept, or they are not numbers.
    """
    if case.early_losses is None or len(case.early_losses) == 0:
        raise InputError("loss_ranking needs the losses of the first epochs, and the model has none: set train.early_epochs")
    if case.early_losses.shape[1] != len(case.labels):
        raise InputError(f"early losses of {case.early_losses.shape[1]:,} samples, but the set has {len(case.labels):,}")
    loss = case.early_losses.astype(np.float32).mean(0, dtype=np.float64)
    if not np.isfinite(loss).all():
        raise InputError(f"early losses: {np.count_nonzero(~np.isfinite(loss)):,} samples have one that is not finite")
    logs, scores = np.log(np.maximum(loss, FLOOR)), np.full(len(loss), np.nan)
    for _, rows in case.members(at_least=LEAST_PER_LABEL):
        deviation = spread(logs[rows])
        scores[rows] = (np.median(logs[rows]) - logs[rows]) / deviation if deviation > 1e-9 else 0.0
    return scores
