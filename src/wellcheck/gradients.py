"""A classifier's answers as something to differentiate by the image: what attacks and attributions share."""

import numpy as np
import torch

from wellcheck.errors import InputError
from wellcheck.models import Classifier


def ready(classifier: Classifier, device: torch.device) -> Classifier:
    """The classifier on the device. Raises InputError if any part is in train mode: dropout and batch statistics blur every answer."""
    if any(part.training for part in classifier.modules()):
        raise InputError("the model is in train mode: call its eval() first")
    return classifier.to(device)


def as_pixels(images: np.ndarray, device: torch.device) -> torch.Tensor:
    """Images uint8 [N, C, H, W] as float in [0, 1] on the device. Raises InputError for another type: it may be scaled already."""
    if images.dtype != np.uint8:
        raise InputError(f"images must be uint8 in 0…255, found {images.dtype}")
    return torch.from_numpy(images).to(device).float() / 255


def by_image(scores: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """∂ score / ∂ image of every image, float [n, C, H, W], where scores float [n] were made of images that ask for gradients.

    Raises InputError where one is no number.
    """
    (gradient,) = torch.autograd.grad(scores.sum(), images)
    broken = ~gradient.flatten(1).isfinite().all(1)
    if broken.any():
        raise InputError(f"the model: the gradient of {int(broken.sum())} of {len(images)} images is not finite")
    return gradient
