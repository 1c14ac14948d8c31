"""AGPD (Yuan et al. 2025, arXiv 2312.06230): samples whose label the model reads from another cause pull at other channels.

The gradient of a sample's own logit, averaged over the image, points the same way for all clean samples of a label.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from wellcheck.detectors.case import Case
from wellcheck.detectors.scan import label_weights
from wellcheck.models import Classifier

BATCH = 256
LEAST_PER_LABEL = 4
FEW_CHANNELS = 8  # below which the average over the image would leave next to no direction: the map itself is taken, pooled
POOLED_SIDE = 16


def agpd(case: Case) -> np.ndarray:
    """How much nearer a sample's gradient is to its label's farthest one than to the trusted one, times the label's anomaly; float64 [N].

    With g₀ the trusted samples' mean direction, g* the label's gradient farthest from it and θ the angles to them: 1 − s = (1 − cos θ₀) /
    ((1 − cos θ₀) + (1 − cos θ*)), in [0, 1]; the label's weight is the robust z over labels of ρ = mean (cos θ₀ − cos θ*)², at least 0.1,
    so that the order inside a label stays what it is. Two passes over the images, so that no gradient is kept. NaN in labels of fewer than
    four samples or without a trusted one.
    """
    classifier, images = case.model()
    classifier.eval().to(case.device)
    anchors = _anchors(case, classifier)
    members = [(label, rows) for label, rows in case.members(at_least=LEAST_PER_LABEL) if label in anchors]
    found, spread = [], []
    for label, rows in members:
        near, far, lowest = np.empty(len(rows)), np.empty(len(rows)), np.inf
        farthest = anchors[label]
        for part, gradients in _gradients(classifier, images, case.labels, rows, case.device):
            near[part] = gradients @ anchors[label]
            if near[part].min() < lowest:
                lowest, farthest = near[part].min(), gradients[near[part].argmin()]
        for part, gradients in _gradients(classifier, images, case.labels, rows, case.device):
            far[part] = gradients @ farthest
        far_off, from_far = (np.maximum(1 - one.clip(-1, 1), 0) for one in (near, far))
        found.append(np.where(far_off > 1e-6, far_off / np.maximum(far_off + from_far, 1e-12), 0.0))
        spread.append(float(((near - far) ** 2).mean()))
    scores = np.full(len(case.labels), np.nan)
    for (_, rows), shares, weight in zip(members, found, label_weights(np.array(spread)), strict=True):
        scores[rows] = shares * weight
    return scores


def _anchors(case: Case, classifier: Classifier) -> dict[int, np.ndarray]:
    """The mean direction of the trusted samples' gradients, by label: unit float64 [C]."""
    trusted = case.vouched()
    _, images = trusted.model()
    anchors = {}
    for label, rows in trusted.members():
        total = sum(gradients.sum(0) for _, gradients in _gradients(classifier, images, trusted.labels, rows, case.device))
        length = np.linalg.norm(total)
        if length > 1e-9:
            anchors[label] = total / length
    return anchors


def _gradients(
    classifier: Classifier, images: np.ndarray, labels: np.ndarray, rows: np.ndarray, device: torch.device
) -> Iterator[tuple[slice, np.ndarray]]:
    """Unit gradients of each sample's own logit by the feature map, float64 [n, C], piece by piece; zero where nothing flows."""
    for start in range(0, len(rows), BATCH):
        some = rows[start : start + BATCH]
        with torch.enable_grad():
            # The images ask for a gradient so that there is one even where the weights are frozen; it ends at the feature map.
            shares = (torch.from_numpy(images[some]).to(device).float() / 255).requires_grad_()
            seen = classifier.activations(shares)
            own = seen.logits.gather(1, torch.from_numpy(labels[some]).to(device)[:, None]).sum()
            (gradient,) = torch.autograd.grad(own, seen.feature_map)
        if gradient.shape[1] < FEW_CHANNELS:
            height, width = (min(POOLED_SIDE, length) for length in gradient.shape[2:])
            flat = nn.functional.adaptive_avg_pool2d(gradient, (height, width)).flatten(1)
        else:
            flat = gradient.mean((2, 3))
        yield slice(start, start + len(some)), nn.functional.normalize(flat.double(), dim=1).cpu().numpy()
