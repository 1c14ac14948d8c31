"""One pass over the samples captures every wanted layer of a classifier."""

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from wellcheck import samples
from wellcheck.embeddings import creating
from wellcheck.errors import InputError
from wellcheck.models import Classifier
from wellcheck.params import LayerName
from wellcheck.progress import progress

BATCH = 256  # images in one pass: what more of them leave between layers is beyond a core's caches
WIDEST_MAP = 4096  # values of a feature map that are kept
HALF_RANGE = float(np.finfo(np.float16).max)


def embed(
    classifier: Classifier, source: Path, target: Path, *, layers: list[LayerName], device: torch.device, title: str
) -> dict[str, int]:
    """Write float16 [N, D] for every layer, in the row order of the samples file. Returns each layer's D.

    `pixels` are the image in [0, 1], flattened; `penultimate` is what the classifier's last linear layer reads; `feature_map` the deepest
    activations [C, h, w] before they are flattened, averaged over larger cells until C·h·w ≤ 4096, then flattened. Values beyond the half
    range are clipped to it. Raises InputError if the classifier was made for other images, or has no feature map.
    """
    known = samples.read_labels(source)
    if known.image_shape != classifier.description.input_shape:
        raise InputError(f"{source}: images of {known.image_shape}, but the model was made for {classifier.description.input_shape}")
    classifier.eval().to(device)
    blank = np.zeros((1, *known.image_shape), np.uint8)
    widths = {layer: values.shape[1] for layer, values in capture(classifier, blank, layers, device).items()}
    with (
        creating(target, {layer: (len(known), width) for layer, width in widths.items()}) as arrays,
        progress(title, len(known), "images") as advance,
    ):
        start = 0
        for group in samples.batches(source):
            for rows in range(0, len(group), BATCH):
                values = capture(classifier, group.images[rows : rows + BATCH], layers, device)
                count = len(group.images[rows : rows + BATCH])
                for layer, array in arrays.items():
                    array[start : start + count] = values[layer]
                start += count
                advance(count)
    return widths


def capture_all(classifier: Classifier, images: np.ndarray, *, layers: Iterable[LayerName], device: torch.device) -> dict[str, np.ndarray]:
    """The same layers of images uint8 [N, C, H, W] that are in memory, as `embed` would write them: float16 [N, D] each."""
    classifier.eval().to(device)
    parts = [capture(classifier, images[start : start + BATCH], layers, device) for start in range(0, max(len(images), 1), BATCH)]
    return {layer: np.concatenate([part[layer] for part in parts]) for layer in parts[0]}


@torch.inference_mode()
def capture(classifier: Classifier, images: np.ndarray, layers: Iterable[LayerName], device: torch.device) -> dict[str, np.ndarray]:
    """The layers of one batch of images uint8 [N, C, H, W], float16 [N, D] each; the classifier is on the device, in evaluation mode."""
    captured: dict[str, np.ndarray] = {}
    if "pixels" in layers:
        captured["pixels"] = images.reshape(len(images), math.prod(images.shape[1:])).astype(np.float32) / 255
    batch = torch.from_numpy(images).to(device)
    if "feature_map" in layers:
        seen = classifier.activations(batch)
        captured["feature_map"] = pooled(seen.feature_map).float().cpu().numpy()
        if "penultimate" in layers:
            captured["penultimate"] = seen.penultimate.float().cpu().numpy()
    elif "penultimate" in layers:
        captured["penultimate"] = classifier.embed(batch).float().cpu().numpy()
    return {layer: np.clip(values, -HALF_RANGE, HALF_RANGE).astype(np.float16) for layer, values in captured.items()}


def pooled(maps: torch.Tensor) -> torch.Tensor:
    """Feature maps [N, C, h, w] → [N, C·h'·w'] of at most 4096 values where C allows it, by adaptive average pooling of equal shape."""
    channels, height, width = maps.shape[1:]
    shrink = min(1.0, math.sqrt(WIDEST_MAP / (channels * height * width)))
    return nn.functional.adaptive_avg_pool2d(maps, (max(1, int(height * shrink)), max(1, int(width * shrink)))).flatten(1)
