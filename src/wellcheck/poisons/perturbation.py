"""Label-consistent poison (Turner, Tsipras and Madry 2019, arXiv 1912.02771): images of the target class that are hard to recognise as it.

They are changed by a little so that a surrogate, trained on the same data, no longer sees their class. A model trained on them then leans
on the trigger, which is easy, and their label is right all the while. The surrogate is adversarially trained, as in the paper: what fools a
plainly trained one is a feature itself, which a model learns in place of the trigger.
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

SURROGATE = Train.plain(model="two_conv_cnn", epochs=8, batch_size=128, learning_rate=1e-3, seed=0)
ROBUST_STEP = 1.25  # of the radius (Wong, Rice and Kolter 2020, arXiv 2001.03994: one step from a random start)
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
            _robust_epoch(state, images, labels, recipe, epoch, poison.epsilon / 2)
            advance(1)
    state.classifier.eval().requires_grad_(False)
    # Pixels are whole numbers of 255: a ball that ends between two of them would be left by rounding.
    epsilon = math.floor(255 * poison.epsilon + 1e-9) / 255
    moved = [
        _ascend(state.classifier, images[part].float() / 255, labels[part], epsilon)
        for part in torch.from_numpy(rows).to(device).split(BATCH)
    ]
    return torch.cat(moved).mul(255).round().to(torch.uint8).cpu().contiguous().numpy() if moved else train.images[:0]


def _robust_epoch(state: training.State, images: torch.Tensor, labels: torch.Tensor, recipe: Train, epoch: int, radius: float) -> None:
    """One pass over images that are moved within an L∞ ball against the classifier as it is."""
    state.classifier.train()
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + epoch)
    for batch in torch.randperm(len(labels), generator=generator).to(images.device).split(recipe.batch_size):
        clean = images[batch].float() / 255
        start = radius * (2 * torch.rand(clean.shape, generator=generator).to(clean.device) - 1)
        moved = (clean + start).clamp(0, 1).requires_grad_(True)
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(state.classifier(moved), labels[batch]), moved)
        moved = (start + ROBUST_STEP * radius * gradient.sign()).clamp(-radius, radius).add(clean).clamp(0, 1)
        loss = nn.functional.cross_entropy(state.classifier(moved), labels[batch])
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        state.optimizer.step()


def _ascend(classifier: Classifier, clean: torch.Tensor, labels: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Projected gradient ascent on the loss, in the L∞ ball around clean float [n, C, H, W] in [0, 1]."""
    low, high = (clean - epsilon).clamp(min=0), (clean + epsilon).clamp(max=1)
    moved = clean.clone()
    for _ in range(STEPS):
        moved.requires_grad_(True)
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(classifier(moved), labels, reduction="sum"), moved)
        moved = torch.clamp(moved.detach() + STEP_SHARE * epsilon * gradient.sign(), low, high)
    return moved
