"""A trained model on disk: `model.safetensors`, `model.json`, `history.csv`. No pickle is written or read."""

import errno
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from wellcheck.artifacts import first_line, read_json, replacing, write_csv, write_json
from wellcheck.errors import InputError
from wellcheck.models import Classifier, ModelDescription

History = list[dict[str, float | int | None]]


def save(folder: Path, classifier: Classifier, history: History) -> None:
    """Write the model folder, whole or not at all."""
    with replacing(folder) as temporary:
        temporary.mkdir()
        write_tensors(temporary / "model.safetensors", classifier.state_dict())
        write_json(temporary / "model.json", asdict(classifier.description))
        header = list(history[0])
        write_csv(temporary / "history.csv", header, [["" if row[key] is None else row[key] for key in header] for row in history])


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write safetensors; a full disk is the OSError that every other writer raises."""
    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path, metadata)
    except SafetensorError as error:
        if "os error 28" not in str(error):
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from None


def load(folder: Path) -> Classifier:
    """Read a model folder. Raises InputError naming the file that is missing, damaged or does not fit the other."""
    described, weights = folder / "model.json", folder / "model.safetensors"
    try:
        description = TypeAdapter(ModelDescription).validate_python(read_json(described))
    except ValidationError as error:
        problem = error.errors()[0]
        raise InputError(f"{described}: {'.'.join(map(str, problem['loc']))}: {problem['msg']}") from None
    classifier = Classifier(description)
    try:
        classifier.load_state_dict(load_file(weights))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise InputError(f"{weights}: not the weights of {description.architecture} ({first_line(error)})") from None
    return classifier.eval()
