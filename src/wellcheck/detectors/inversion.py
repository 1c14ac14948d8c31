"""Trigger inversion: for every label the smallest mask and pattern that turn any image into it, then a scan for samples that carry it.

Neural Cleanse (Wang et al. 2019, IEEE S&P, section IV) with all labels in one batched optimisation, on the delivered samples themselves: a
few poisoned ones among them do not hinder it. A label whose mask is much smaller than the others' has a short cut.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from wellcheck.detectors.case import Case
from wellcheck.metrics import spread
from wellcheck.models import Classifier
from wellcheck.progress import Advance, progress

STEPS = 400
BATCH = 32  # images a step, each with every label's trigger
AT_ONCE = 16  # labels in one optimisation: memory
RATE = 0.1  # of Adam, with the paper's betas
BETAS = (0.5, 0.9)
COST = 1e-3  # of the mask's L1 norm, at first
RAISED, LOWERED = 1.5, 1.5**1.5  # what it is multiplied and divided by, as the triggers succeed
WANTED = 0.95  # success that a trigger must have
PATIENCE = 8  # steps between two changes of the cost
FADING = 0.8  # of the running mean of the success
FILLERS = 4  # what the trigger's region is replaced by: so many other images' pixels
SCAN_BATCH = 1024
LEAST_SPREAD = 0.01  # of the image: labels whose search failed all have the same mask
LABELS_NEEDED = 4  # for a median among them to mean something


@dataclass(frozen=True)
class Triggers:
    """What was recovered, one per label."""

    masks: np.ndarray  # float32 [K, H, W] in [0, 1]
    patterns: np.ndarray  # float32 [K, C, H, W] in [0, 1]
    norms: np.ndarray  # float64 [K], the masks' L1 norms in pixels
    success: np.ndarray  # float64 [K], share of images turned

    @property
    def anomaly(self) -> np.ndarray:
        """How far a mask is below the median of all labels, in robust standard deviations, float64 [K]; 0 where it is above."""
        if len(self.norms) < LABELS_NEEDED:
            return np.zeros(len(self.norms))
        below = np.median(self.norms) - self.norms
        anomaly: np.ndarray = np.maximum(below, 0) / max(spread(self.norms), LEAST_SPREAD * self.masks[0].size)
        return anomaly


def trigger_inversion(case: Case) -> np.ndarray:
    """How much surer the model is of a sample's label than when the region of that label's trigger is filled from other images.

    Times the label's anomaly, so that labels compare. Scores float64 [N], in units of nats.
    """
    classifier, images = case.model()
    return scan(case, invert(classifier, images, case.labels, seed=case.seed, device=case.device))


def invert(classifier: Classifier, images: np.ndarray, labels: np.ndarray, *, seed: int, device: torch.device) -> Triggers:
    """Recover a trigger for every label from images uint8 [N, C, H, W] and their labels int64 [N]."""
    classifier.eval().requires_grad_(False).to(device)
    classes = len(classifier.description.class_names)
    groups = [torch.arange(start, min(start + AT_ONCE, classes)) for start in range(0, classes, AT_ONCE)]
    with progress("trigger inversion", STEPS * len(groups), "steps") as advance:
        parts = [_Search(classifier, group, images.shape[1:], device).run(images, labels, seed, advance) for group in groups]
    return Triggers(*(np.concatenate(values) for values in zip(*parts, strict=True)))


class _Search:
    """The masks and patterns of some labels while they are optimised, and the best so far."""

    def __init__(self, classifier: Classifier, targets: torch.Tensor, shape: tuple[int, ...], device: torch.device) -> None:
        channels, height, width = shape
        self.classifier, self.targets, self.device = classifier, targets.to(device), device
        self.mask = torch.full((len(targets), 1, height, width), -1.0, device=device, requires_grad=True)
        self.pattern = torch.zeros((len(targets), channels, height, width), device=device, requires_grad=True)
        self.optimizer = torch.optim.Adam([self.mask, self.pattern], lr=RATE, betas=BETAS)
        self.cost = torch.full((len(targets),), COST, device=device)
        self.running = torch.zeros(len(targets), device=device)
        # Until a trigger succeeds its norm is that of a mask over everything.
        self.best = [torch.ones_like(self.mask), torch.zeros_like(self.pattern), torch.full_like(self.cost, height * width), self.running]

    def run(self, images: np.ndarray, labels: np.ndarray, seed: int, advance: Advance) -> tuple[np.ndarray, ...]:
        rng = np.random.default_rng([seed, int(self.targets[0])])
        for step in range(STEPS):
            rows = rng.integers(0, len(images), BATCH)
            self._step(torch.from_numpy(images[rows]).to(self.device).float() / 255, torch.from_numpy(labels[rows]).to(self.device))
            if step % PATIENCE == PATIENCE - 1:
                self.cost = torch.where(self.running >= WANTED, self.cost * RAISED, self.cost / LOWERED)
            advance(1)
        mask, pattern, norm, success = (one.detach().cpu().numpy() for one in self.best)
        return mask[:, 0], pattern, norm.astype(np.float64), success.astype(np.float64)

    def _step(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        masks, patterns = torch.sigmoid(self.mask), torch.sigmoid(self.pattern)
        stamped = (1 - masks)[:, None] * images[None] + (masks * patterns)[:, None]
        wanted = self.targets.repeat_interleave(len(images))
        logits = self.classifier(stamped.flatten(0, 1))
        losses = nn.functional.cross_entropy(logits, wanted, reduction="none").view(len(masks), -1).mean(1)
        norms = masks.sum((1, 2, 3))
        self.optimizer.zero_grad(set_to_none=True)
        (losses + self.cost * norms).sum().backward()
        with torch.no_grad():
            others = labels[None] != self.targets[:, None]  # an image that has the label already shows nothing
            turned = (logits.argmax(1) == wanted).view_as(others)
            rate = (turned & others).sum(1) / others.sum(1).clamp(min=1)
            self.running = FADING * self.running + (1 - FADING) * rate
            better = (self.running >= WANTED) & (norms < self.best[2])
            now = (masks, patterns, norms, self.running)
            self.best = [torch.where(better.view(-1, *[1] * (new.dim() - 1)), new, old) for new, old in zip(now, self.best, strict=True)]
        self.optimizer.step()


@torch.inference_mode()
def scan(case: Case, triggers: Triggers) -> np.ndarray:
    """Score every sample for the trigger of its own label, float64 [N]."""
    classifier, images = case.model()
    anomaly = triggers.anomaly
    scores = np.zeros(len(images))
    rows = np.flatnonzero(anomaly[case.labels] > 0)
    fillers = images[np.random.default_rng(case.seed).integers(0, len(images), FILLERS)].astype(np.float32) / 255
    masks = torch.from_numpy(triggers.masks).to(case.device)
    with progress("trigger scan", len(rows), "images") as advance:
        for start in range(0, len(rows), SCAN_BATCH):
            part = rows[start : start + SCAN_BATCH]
            labels = torch.from_numpy(case.labels[part]).to(case.device)
            here = torch.from_numpy(images[part]).to(case.device).float() / 255
            mask = masks[labels][:, None]
            kept = [(1 - mask) * here + mask * torch.from_numpy(filler).to(case.device) for filler in fillers]
            own = [classifier(one).log_softmax(1).gather(1, labels[:, None])[:, 0] for one in (here, *kept)]
            scores[part] = (own[0] - torch.stack(own[1:]).mean(0)).double().cpu().numpy() * anomaly[case.labels[part]]
            advance(len(part))
    return scores
