"""A trained model on disk: `model.safetensors`, `model.json`, `history.csv` and, where they were kept,
`early_losses.safetensors` and `snapshots.safetensors`. No pickle is written or read.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialize

from wellcheck.artifacts import first_line, read_json, read_tensors, replacing, write_csv, write_json
from wellcheck.errors import InputError
from wellcheck.models import Classifier, ModelDescription

History = list[dict[str, float | int | None]]
Snapshots = list[tuple[int, dict[str, torch.Tensor]]]  # an epoch, counted from 0 as in the history, and the weights after it
EARLY_LOSSES = "early_losses.safetensors"
SNAPSHOTS = "snapshots.safetensors"


def save(
    folder: Path, classifier: Classifier, history: History, early_losses: np.ndarray | None = None, snapshots: Snapshots | None = None
) -> None:
    """Write the model folder, whole or not at all. early_losses: float16 [E, N]; without epochs, or snapshots, there is no such file."""
    with replacing(folder) as temporary:
        temporary.mkdir()
        write_state(temporary / "model.safetensors", classifier.state_dict())
        write_json(temporary / "model.json", asdict(classifier.description))
        header = list(history[0])
        write_csv(temporary / "history.csv", header, [["" if row[key] is None else row[key] for key in header] for row in history])
        if early_losses is not None and len(early_losses):
            write_state(temporary / EARLY_LOSSES, {"early_losses": torch.from_numpy(early_losses)})
        if snapshots:
            states = {f"{epoch}/{name}": tensor for epoch, weights in snapshots for name, tensor in weights.items()}
            write_state(temporary / SNAPSHOTS, states)


def write_state(path: Path, tensors: Mapping[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write safetensors as any other file: safetensors' own writer hides it from colleagues and has errors of its own for a full disk."""
    path.write_bytes(serialize({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, metadata))


def load(folder: Path) -> Classifier:
    """Read a model folder. Raises InputError naming the file that is missing, damaged or does not fit the other."""
    classifier, weights = _untrained(folder), folder / "model.safetensors"
    return _filled(classifier, _tensors(weights), weights)


def _untrained(folder: Path) -> Classifier:
    """What `model.json` describes. Raises InputError."""
    described = folder / "model.json"
    try:
        description = TypeAdapter(ModelDescription).validate_python(read_json(described))
    except ValidationError as error:
        problem = error.errors()[0]
        raise InputError(f"{described}: {'.'.join(map(str, problem['loc']))}: {problem['msg']}") from None
    try:
        return Classifier(description)
    except ValueError as error:
        raise InputError(f"{described}: {description.architecture} cannot take images of {description.input_shape}: {error}") from None
    except InputError as error:
        raise InputError(f"{described}: {error}") from None


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        tensors: dict[str, torch.Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: not readable ({first_line(error)})") from None
    return tensors


def _filled(classifier: Classifier, weights: Mapping[str, torch.Tensor], source: Path) -> Classifier:
    """The classifier with these weights, in evaluation mode. Raises InputError naming their file if they are not its own."""
    try:
        classifier.load_state_dict(weights)
    except RuntimeError as error:
        details = "; ".join(line.strip() for line in str(error).splitlines()[1:3])
        raise InputError(f"{source}: not the weights of {classifier.description.architecture}: {details}") from None
    return classifier.eval()


def load_snapshots(folder: Path) -> list[tuple[int, Classifier]]:
    """The classifier, in evaluation mode, as it was after some epochs, the earliest first; empty if none were kept. Raises InputError."""
    path = folder / SNAPSHOTS
    if not path.exists():
        return []
    states: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in _tensors(path).items():
        epoch, _, name = key.partition("/")
        if not epoch.isdecimal():
            raise InputError(f"{path}: found the tensor '{key}', expected '<epoch>/<name>'")
        states.setdefault(int(epoch), {})[name] = tensor
    return [(epoch, _filled(_untrained(folder), states[epoch], path)) for epoch in sorted(states)]


def load_early_losses(folder: Path) -> np.ndarray | None:
    """Each training sample's loss after each of the first epochs, float16 [E, N] in nats; None if none were kept. Raises InputError."""
    path = folder / EARLY_LOSSES
    if not path.exists():
        return None
    found = read_tensors(path)
    if "early_losses" not in found:
        raise InputError(f"{path}: not readable ('early_losses' is not among its tensors)")
    return found["early_losses"]
