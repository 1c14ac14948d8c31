"""Label-consistent poison (Turner, Tsipras and Madry 2019, arXiv 1912.02771): images of the target class that are hard to recognise as it.

They are changed by a little so that a surrogate, trained on the same data, no longer sees their class. A model trained on them then leans
on the trigger, which is easy, and their label is right all the while.
"""

import math

import numpy as np
import torch
from torch import nn

from wellcheck import training
from wellcheck.errors import InputError
from wellcheck.models import Classifier
from wellcheck.params import Poison, Train
from wellcheck.progress import progress
from wellcheck.samples import Samples

SURROGATE = Train(model="two_conv_cnn", epochs=8, batch_size=128, learning_rate=1e-3, precision="float32", early_epochs=0, seed=0)
STEPS = 30
STEP_SHARE = 2.5 / STEPS  # of epsilon (Madry et al. 2018)
BATCH = 512


def perturb(train: Samples, rows: np.ndarray, poison: Poison, device: torch.device) -> np.ndarray:
    """The images uint8 [n, C, H, W] of these rows, each moved away from its class: no pixel by more than `poison.epsilon` of white.

    Raises InputError if the surrogate cannot take images of this size.
    """
    recipe = SURROGATE.model_copy(update={"seed": poison.seed})
    training.make_repeatable(device)
    try:
        state = training.begin(train, recipe, device)
    except InputError as error:
        raise InputError(f"poison.policy: label_consistent needs a surrogate: {error}") from None
    images, labels = training.to_device(train, device)
    with progress("surrogate", recipe.epochs, "epochs") as advance:
        for epoch in range(recipe.epochs):
            training.run_epoch(state, images, labels, recipe, epoch)
            advance(1)
    state.classifier.eval().requires_grad_(False)
    # Pixels are whole numbers of 255: a ball that ends between two of them would be left by rounding.
    epsilon = math.floor(255 * poison.epsilon + 1e-9) / 255
    moved = [
        _ascend(state.classifier, images[part].float() / 255, labels[part], epsilon)
        for part in torch.from_numpy(rows).to(device).split(BATCH)
    ]
    return torch.cat(moved).mul(255).round().to(torch.uint8).cpu().contiguous().numpy() if moved else train.images[:0]


def _ascend(classifier: Classifier, clean: torch.Tensor, labels: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Projected gradient ascent on the loss, in the L∞ ball around clean float [n, C, H, W] in [0, 1]."""
    low, high = (clean - epsilon).clamp(min=0), (clean + epsilon).clamp(max=1)
    moved = clean.clone()
    for _ in range(STEPS):
        moved.requires_grad_(True)
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(classifier(moved), labels, reduction="sum"), moved)
        moved = torch.clamp(moved.detach() + STEP_SHARE * epsilon * gradient.sign(), low, high)
    return moved
