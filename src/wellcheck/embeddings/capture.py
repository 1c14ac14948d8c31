"""One pass over the samples captures every wanted layer of a classifier."""

from pathlib import Path

import numpy as np
import torch

from wellcheck import samples
from wellcheck.embeddings import creating
from wellcheck.errors import InputError
from wellcheck.models import Classifier
from wellcheck.params import LayerName
from wellcheck.progress import progress

BATCH = 1024
HALF_RANGE = float(np.finfo(np.float16).max)


def embed(
    classifier: Classifier, source: Path, target: Path, *, layers: list[LayerName], device: torch.device, title: str
) -> dict[str, int]:
    """Write float16 [N, D] for every layer, in the row order of the samples file. Returns each layer's D.

    `pixels` are the image in [0, 1], flattened; `penultimate` is what the classifier's last linear layer reads. Values beyond the half
    range are clipped to it. Raises InputError if the classifier was made for other images.
    """
    known = samples.read_labels(source)
    if known.image_shape != classifier.description.input_shape:
        raise InputError(f"{source}: images of {known.image_shape}, but the model was made for {classifier.description.input_shape}")
    classifier.eval().to(device)
    blank = np.zeros((1, *known.image_shape), np.uint8)
    widths = {layer: values.shape[1] for layer, values in _capture(classifier, blank, layers, device).items()}
    with (
        creating(target, {layer: (len(known), width) for layer, width in widths.items()}) as arrays,
        progress(title, len(known), "images") as advance,
    ):
        start = 0
        for group in samples.batches(source):
            for rows in range(0, len(group), BATCH):
                values = _capture(classifier, group.images[rows : rows + BATCH], layers, device)
                count = len(group.images[rows : rows + BATCH])
                for layer, array in arrays.items():
                    array[start : start + count] = np.clip(values[layer], -HALF_RANGE, HALF_RANGE)
                start += count
                advance(count)
    return widths


@torch.inference_mode()
def _capture(classifier: Classifier, images: np.ndarray, layers: list[LayerName], device: torch.device) -> dict[str, np.ndarray]:
    captured: dict[str, np.ndarray] = {}
    if "pixels" in layers:
        captured["pixels"] = images.reshape(len(images), -1).astype(np.float32) / 255
    if "penultimate" in layers:
        captured["penultimate"] = classifier.embed(torch.from_numpy(images).to(device)).float().cpu().numpy()
    return captured
