"""How an explanation forms: attributions after each of the first minibatches of a training (article A4)."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from wellcheck import training
from wellcheck.attributions import gradient_times_input, max_normed
from wellcheck.models import Classifier
from wellcheck.params import Train
from wellcheck.progress import progress
from wellcheck.samples import Samples

BATCH = 16  # samples: the article's


@dataclass(frozen=True)
class Film:
    """What is seen of n images in F + 1 frames, the first of which is taken before any minibatch."""

    maps: np.ndarray  # float16 [F + 1, n, C, H, W] in [-1, 1]: gradient × input, max-normed
    probability: np.ndarray  # float32 [F + 1, n]: of the class that is explained
    losses: np.ndarray  # float32 [F], nats: of each minibatch before its step


def record(train_set: Samples, recipe: Train, images: np.ndarray, labels: np.ndarray, *, minibatches: int, device: torch.device) -> Film:
    """Train from the recipe's first state with its optimiser and look at images uint8 [n, C, H, W] of classes int64 [n] after every step.

    The minibatches are of 16 samples as they are: the recipe's own batch size and augmentation do not count. Raises InputError where a
    gradient is no number.
    """
    state = training.begin(train_set, recipe, device)
    batches = _batches(len(train_set), recipe.seed)
    steps = recipe.epochs * -(-len(train_set) // BATCH)
    seen, losses = [_frame(state.classifier, images, labels, device)], []
    cuda = [device] if device.type == "cuda" else []
    with progress("film", minibatches, "minibatches") as advance, torch.random.fork_rng(devices=cuda):
        torch.manual_seed(recipe.seed)  # of dropout
        for step in range(minibatches):
            rate = recipe.learning_rate * training.rate_share(min(step, steps - 1), steps, recipe)
            state.classifier.train()
            loss, _ = training.learn(state, *training.to_device(train_set.take(next(batches)), device), recipe, rate)
            losses.append(loss.item())
            seen.append(_frame(state.classifier, images, labels, device))
            advance()
    maps, probability = (np.stack([frame[part] for frame in seen]) for part in (0, 1))
    return Film(maps, probability, np.array(losses, np.float32))


def _batches(count: int, seed: int) -> Iterator[np.ndarray]:
    """Rows of one whole minibatch after another, over as many epochs as are asked for."""
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(count)
        for start in range(0, max(count - BATCH, 0) + 1, BATCH):
            yield order[start : start + BATCH]


def _frame(classifier: Classifier, images: np.ndarray, labels: np.ndarray, device: torch.device) -> tuple[np.ndarray, np.ndarray]:
    """Maps float16 [n, C, H, W] and the probability of the classes float32 [n]."""
    classifier.eval()
    maps = max_normed(gradient_times_input(classifier, images, labels, device)).astype(np.float16)
    with torch.inference_mode():
        sure = classifier(torch.from_numpy(images).to(device)).float().softmax(1).cpu().numpy()
    return maps, sure[np.arange(len(labels)), labels]
