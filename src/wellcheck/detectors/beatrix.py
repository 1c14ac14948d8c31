"""Beatrix (Ma et al. 2023, arXiv 2209.11715): Gram matrices of the activations, of several orders, against those of trusted samples."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from wellcheck.detectors.case import Case
from wellcheck.models import Classifier

ORDERS = (1, 2, 3, 4)  # the paper goes to 8, at twice the cost
BOUND = 10.0  # median absolute deviations to either side that count as usual
LEAST_TRUSTED = 5  # of a label: its median and deviation need some; the paper takes 30
MOST_TRUSTED = 200
MOST_CHANNELS = 128  # drawn by seed, for a Gram matrix has as many entries as channels squared
FEW_CHANNELS = 8  # below which rows of the map stand in for channels
GRAM_VALUES = 2**23  # held at once: 32 MiB


@torch.inference_mode()
def beatrix(case: Case) -> np.ndarray:
    """Mean relative overshoot of a sample's Gram features beyond median ± 10 deviations of its label's trusted samples; float64 [N], ≥ 0.

    Gram features of order p: the upper triangle of (Fᵖ Fᵖ′) with its |·|^(1/p) and its sign, F the feature map [C, h·w]. NaN in labels with
    fewer than five trusted samples.
    """
    classifier, images = case.model()
    trusted = case.vouched()
    _, trusted_images = trusted.model()
    classifier.eval().to(case.device)
    rng = np.random.default_rng(case.seed)
    known = {label: np.sort(rng.permutation(rows)[:MOST_TRUSTED]) for label, rows in trusted.members(at_least=LEAST_TRUSTED)}
    scores = np.full(len(case.labels), np.nan)
    for label, rows in case.members():
        if label not in known:
            continue
        usual = torch.cat([grams for _, grams in _grams(classifier, trusted_images, known[label], case)])
        middle = usual.median(0).values
        deviation = (usual - middle).abs().median(0).values
        low, high = middle - BOUND * deviation, middle + BOUND * deviation
        typical = usual.abs().mean().clamp(min=1e-12)  # so that a channel that is dead in all trusted samples divides by something
        for part, grams in _grams(classifier, images, rows, case):
            over = (grams - high).clamp(min=0) / (high.abs() + typical) + (low - grams).clamp(min=0) / (low.abs() + typical)
            scores[rows[part]] = over.double().mean(1).cpu().numpy()
    return scores


def _grams(classifier: Classifier, images: np.ndarray, rows: np.ndarray, case: Case) -> Iterator[tuple[slice, torch.Tensor]]:
    """Gram features float32 [n, orders · C (C + 1) / 2] of some rows, piece by piece."""
    step, start = 1, 0  # one image tells how many fit
    while start < len(rows):
        some = rows[start : start + step]
        maps = _channels(classifier.activations(torch.from_numpy(images[some]).to(case.device)).feature_map.float(), case.seed)
        upper = torch.triu_indices(maps.shape[1], maps.shape[1], device=maps.device)
        features = []
        for order in ORDERS:
            powers = maps**order
            gram = (powers @ powers.mT)[:, upper[0], upper[1]]
            features.append(gram.sign() * gram.abs() ** (1 / order))
        yield slice(start, start + len(some)), torch.cat(features, 1)
        start += len(some)
        step = int(np.clip(GRAM_VALUES // (len(ORDERS) * upper.shape[1]), 1, 512))


def _channels(maps: torch.Tensor, seed: int) -> torch.Tensor:
    """Feature maps [n, C, h, w] as [n, channels, places], at most 128 channels; a map of few channels by its rows."""
    if maps.shape[1] < FEW_CHANNELS:
        height, width = (min(MOST_CHANNELS // FEW_CHANNELS, length) for length in maps.shape[2:])
        return nn.functional.adaptive_avg_pool2d(maps, (height, width)).flatten(1, 2)
    if maps.shape[1] > MOST_CHANNELS:
        drawn = np.sort(np.random.default_rng(seed).permutation(maps.shape[1])[:MOST_CHANNELS])
        maps = maps[:, torch.from_numpy(drawn).to(maps.device)]
    return maps.flatten(2)
