"""What a classifier says of images: one pass in batches, nothing but the answer kept."""

from dataclasses import dataclass

import numpy as np
import torch

from wellcheck.errors import InputError
from wellcheck.models import Classifier
from wellcheck.progress import progress

BATCH = 256  # images in one pass: what more of them leave between layers is beyond a core's caches


@dataclass(frozen=True)
class Predictions:
    """log_probabilities float32 [N, K], and what follows from them."""

    log_probabilities: np.ndarray

    @property
    def labels(self) -> np.ndarray:
        """The predicted label, int64 [N]."""
        labels: np.ndarray = self.log_probabilities.argmax(1)
        return labels

    @property
    def confidences(self) -> np.ndarray:
        """The probability of the predicted label, float32 [N] in [0, 1]."""
        return np.exp(self.log_probabilities.max(1)) if len(self.log_probabilities) else np.empty(0, np.float32)

    def log_loss(self, labels: np.ndarray) -> float:
        """Mean cross-entropy in nats against labels int64 [N]."""
        return float(-self.log_probabilities[np.arange(len(labels)), labels].mean())


@torch.inference_mode()
def predict(classifier: Classifier, images: np.ndarray, *, device: torch.device, title: str) -> Predictions:
    """Classify images uint8 [N, C, H, W]. Raises InputError where the answer to one is no number."""
    classifier.eval().to(device)
    log_probabilities = np.empty((len(images), len(classifier.description.class_names)), np.float32)
    with progress(title, len(images), "images") as advance:
        for start in range(0, len(images), BATCH):
            logits = classifier(torch.from_numpy(images[start : start + BATCH]).to(device))
            log_probabilities[start : start + BATCH] = logits.float().log_softmax(1).cpu().numpy()
            advance(len(logits))
    broken = np.isnan(log_probabilities).any(1)
    if broken.any():
        raise InputError(f"{title}: the model's answers to {broken.sum():,} of {len(images):,} images are no numbers: train it again")
    return Predictions(log_probabilities)
