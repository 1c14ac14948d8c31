"""A case from its files: what a stage hands to the detectors."""

from pathlib import Path
from typing import get_args

import numpy as np
import torch

from wellcheck import embeddings, samples
from wellcheck.artifacts import read_columns
from wellcheck.detectors.case import Case
from wellcheck.embeddings.capture import capture_all
from wellcheck.errors import InputError
from wellcheck.models import Classifier, storage
from wellcheck.params import LayerName
from wellcheck.samples import Labels


def read_case(known: Labels, embedded: Path, model: Path, *, seed: int, device: torch.device, projection: Path | None = None) -> Case:
    """A known set as its model sees it, and its t-SNE map if there is one: without images, classifier and trusted samples.

    Raises InputError naming the file that is missing or does not fit the others.
    """
    columns = {} if projection is None else read_columns(projection)
    on_map = "pixels_x" in columns
    return Case(
        labels=known.labels,
        classes=len(known.description.class_names),
        layers={layer: embeddings.read(embedded, layer) for layer in embeddings.layers(embedded)},
        seed=seed,
        map_rows=np.searchsorted(known.sample_id, columns["sample_id"]) if on_map else None,
        map_places=np.column_stack([columns["pixels_x"], columns["pixels_y"]]) if on_map else None,
        early_losses=storage.load_early_losses(model),
        device=device,
    )


def read_trusted(path: Path, classifier: Classifier, *, like: Case) -> Case:
    """Samples somebody vouches for, as the same model sees them, with the layers of the case they are for.

    Raises InputError if there are none, or they have other classes.
    """
    vouched = samples.read(path)
    if len(vouched) == 0:
        raise InputError(f"{path}: no samples, but detect.trusted says that somebody vouches for them: set split.valid above 0")
    if vouched.description.class_names != classifier.description.class_names:
        raise InputError(f"{path}: classes {vouched.description.class_names}, but the model has {classifier.description.class_names}")
    layers = [layer for layer in get_args(LayerName) if layer in like.layers]
    return Case(
        labels=vouched.labels,
        classes=like.classes,
        layers=capture_all(classifier, vouched.images, layers=layers, device=like.device),
        seed=like.seed,
        images=vouched.images,
        classifier=classifier,
        device=like.device,
    )
