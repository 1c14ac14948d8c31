"""STRIP (Gao et al. 2019, arXiv 1902.06531): a trigger keeps its hold on an image that is laid over others, what is natural does not."""

import numpy as np
import torch

from wellcheck.detectors.case import Case
from wellcheck.errors import InputError

OVERLAYS = 32  # trusted images laid over each sample
PIXELS_AT_ONCE = 2**21  # of all overlaid images in one pass of the model


@torch.inference_mode()
def strip(case: Case) -> np.ndarray:
    """Minus the mean entropy, in nats, of the model's answers to a sample laid over 32 trusted images; scores float64 [N], at most 0.

    As in the paper the two images are added and cut at white. Each of the 32 is drawn once by `case.seed`, and serves every sample.
    """
    classifier, images = case.model()
    _, trusted = case.vouched().model()
    if len(trusted) == 0:
        raise InputError("strip needs trusted images to lay over others, and found none")
    classifier.eval().to(case.device)
    drawn = np.sort(np.random.default_rng(case.seed).permutation(len(trusted))[:OVERLAYS])
    overlays = torch.from_numpy(trusted[drawn]).to(case.device).float() / 255
    step = max(1, PIXELS_AT_ONCE // overlays.numel())
    scores = np.empty(len(images))
    for start in range(0, len(images), step):
        some = torch.from_numpy(images[start : start + step]).to(case.device).float() / 255
        mixed = (some[:, None] + overlays).clamp_(max=1).flatten(0, 1)
        logs = classifier(mixed).float().log_softmax(1)
        entropy = -(logs.exp() * logs).sum(1).view(len(some), len(overlays)).mean(1)
        scores[start : start + step] = -entropy.double().cpu().numpy()
    return scores
