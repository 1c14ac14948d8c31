"""The training loop: the whole set as uint8 on the device, no per-sample Python, resumable, byte-identical for the same seed.

Whatever is random in an epoch is drawn from (seed, epoch) alone, and the learning rate hangs on the number of the step, so a run that was
killed and resumed ends with the bytes of one that was not.
"""

import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from wellcheck import memory, models
from wellcheck.artifacts import first_line, replacing
from wellcheck.errors import InputError
from wellcheck.models import Classifier, ModelDescription, build
from wellcheck.models.storage import History, Snapshots, write_state
from wellcheck.params import Train
from wellcheck.progress import progress
from wellcheck.samples import Samples

CHECKPOINT_SECONDS = 10.0  # at most so much work is lost to a kill
CHECKPOINTS_KEPT = 20  # finished ones too: the same data and recipe are never trained twice
EVALUATION_BATCH = 256
WARM_UP = 0.2  # of all steps, with a one_cycle schedule
FARTHEST_SHIFT = 8  # an eighth of the side, when augmenting


@dataclass
class State:
    """Everything that changes while training."""

    classifier: Classifier
    optimizer: torch.optim.Adam
    history: History
    seconds: float  # spent on it so far, interrupted runs included
    early_losses: torch.Tensor  # float16 [E, N] on the CPU, one row for each early epoch so far
    snapshots: Snapshots  # so far, on the CPU


@dataclass(frozen=True)
class Trained:
    """What training gives."""

    classifier: Classifier
    history: History  # one row an epoch: epoch, train_loss, train_accuracy, valid_loss and valid_accuracy
    seconds: float  # interrupted runs included
    early_losses: np.ndarray  # float16 [E, N], nats: each training sample's cross-entropy after each of the first epochs
    snapshots: Snapshots  # the weights after some epochs, the last one among them


def train(train_set: Samples, valid_set: Samples, recipe: Train, *, device: torch.device, checkpoint: Path, title: str) -> Trained:
    """Train a classifier.

    Losses are cross-entropy in nats; the history's training figures are means over what was seen while the epoch's steps were taken; the
    valid ones are None where there is no valid part. After each of the first `recipe.early_epochs` the loss of every training sample is
    taken, in the order of the set, of images as they are even where `recipe.augment` changes those that are learnt from. An interrupted
    training goes on from `checkpoint`. Raises InputError if the loss diverges, or if a batch of one image is too few to normalise.
    """
    memory.keep_freed()
    make_repeatable(device)
    state = begin(train_set, recipe, device)
    if checkpoint.exists() and not _restore(state, checkpoint, recipe, device):
        state = begin(train_set, recipe, device)
    images, labels = to_device(train_set, device)
    valid = to_device(valid_set, device)
    started = saved = time.monotonic()
    earlier = state.seconds
    with progress(title, recipe.epochs, "epochs", done=len(state.history)) as advance:
        for epoch in range(len(state.history), recipe.epochs):
            row = {"epoch": epoch, **run_epoch(state, images, labels, recipe, epoch), **_valid_figures(state.classifier, *valid, recipe)}
            if not all(math.isfinite(value) for value in row.values() if value is not None) or not _is_finite(state.classifier):
                raise InputError(f"training diverged in epoch {epoch}: lower train.learning_rate (found {recipe.learning_rate})")
            state.history.append(row)
            if epoch < recipe.early_epochs:
                state.early_losses = torch.cat([state.early_losses, _losses(state.classifier, images, labels, recipe)[None]])
            if epoch in snapshot_epochs(recipe):
                state.snapshots.append((epoch, _weights(state.classifier)))
            advance(1, f"loss {row['train_loss']:.4f}  accuracy {row['train_accuracy']:.4f}")
            if time.monotonic() - saved > CHECKPOINT_SECONDS or epoch + 1 == recipe.epochs:
                saved = time.monotonic()
                state.seconds = earlier + saved - started
                _save(state, checkpoint)
    return Trained(state.classifier.eval(), state.history, state.seconds, state.early_losses.numpy(), state.snapshots)


def train_again(train_set: Samples, recipe: Train, *, device: torch.device, cache: Path, title: str) -> Trained:
    """Train without a valid part, by a checkpoint in `cache` that is this set's and this recipe's own. Raises InputError as `train`."""
    nobody = train_set.take(np.empty(0, np.int64))
    checkpoint = cache / checkpoint_name(train_set.digest(), "", recipe, device)
    return train(train_set, nobody, recipe, device=device, checkpoint=checkpoint, title=title)


def checkpoint_name(train_hash: str, valid_hash: str, recipe: Train, device: torch.device) -> str:
    """A file name that is the same only where training would give the same bytes: data, recipe, device, PyTorch's version and this code."""
    threads = torch.get_num_threads() if device.type == "cpu" else 0
    code = [Path(__file__), *sorted(Path(models.__file__).parent.glob("*.py"))]
    facts = [train_hash, valid_hash, recipe.model_dump(), device.type, threads, torch.__version__, metadata.version("torchvision")]
    facts += [path.read_text(encoding="utf-8") for path in code]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32] + ".safetensors"


def to_device(samples: Samples, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Images uint8 [N, C, H, W] in channels-last order, and labels int64 [N], on the device."""
    images = torch.from_numpy(samples.images).contiguous(memory_format=torch.channels_last)
    return images.to(device), torch.from_numpy(samples.labels).to(device)


def make_repeatable(device: torch.device) -> None:
    """The same seed shall give the same bytes on CUDA too."""
    if device.type == "cuda":
        torch.backends.cudnn.deterministic = True
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS asks for if its sums are to have one order


def autocast(recipe: Train, device: torch.device) -> torch.autocast | nullcontext[None]:
    """bfloat16 arithmetic where the recipe asks for it, or by itself on CUDA; weights and loss stay float32."""
    wanted = recipe.precision == "bfloat16" or (recipe.precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, torch.bfloat16) if wanted else nullcontext()


def begin(train_set: Samples, recipe: Train, device: torch.device) -> State:
    """A freshly initialised classifier and its optimizer."""
    channels, height, width = train_set.images.shape[1:]
    description = ModelDescription(recipe.model, train_set.description.class_names, (channels, height, width))
    classifier = build(description, seed=recipe.seed).to(device)
    optimizer = torch.optim.Adam(classifier.parameters(), lr=recipe.learning_rate)
    return State(classifier, optimizer, [], 0.0, torch.empty((0, len(train_set)), dtype=torch.float16), [])


def run_epoch(state: State, images: torch.Tensor, labels: torch.Tensor, recipe: Train, epoch: int) -> dict[str, float | int | None]:
    """One pass over the training set: train_loss and train_accuracy. Sums stay on the device, so that no step waits for a read."""
    loss_sum = torch.zeros((), device=images.device)
    correct = torch.zeros((), dtype=torch.int64, device=images.device)
    state.classifier.train()
    batches = _batches(len(labels), recipe, epoch, images.device)
    seen = _augmented(images, batches, recipe, epoch) if recipe.augment else (images[batch] for batch in batches)
    with _own_random_numbers(recipe, epoch, images.device):
        for step, (batch, shown) in enumerate(zip(batches, seen, strict=True), epoch * len(batches)):
            rate = recipe.learning_rate * rate_share(step, recipe.epochs * len(batches), recipe)
            loss, logits = learn(state, shown, labels[batch], recipe, rate)
            loss_sum += loss * len(batch)
            correct += (logits.argmax(1) == labels[batch]).sum()
    return {"train_loss": loss_sum.item() / len(labels), "train_accuracy": correct.item() / len(labels)}


def learn(state: State, images: torch.Tensor, labels: torch.Tensor, recipe: Train, rate: float) -> tuple[torch.Tensor, torch.Tensor]:
    """One step of the optimiser on a minibatch at this learning rate: the mean loss before it in nats, and the logits float [B, K]."""
    with autocast(recipe, images.device):
        logits = _logits(state.classifier, images)
    loss = nn.functional.cross_entropy(logits.float(), labels)
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    state.optimizer.step()
    return loss.detach(), logits.detach()


def rate_share(step: int, steps: int, recipe: Train) -> float:
    """The learning rate at a step, counted from 0 over all epochs, as a share of the recipe's: in (0, 1].

    one_cycle: up in a line over the first fifth, down in a line to zero over the rest (Howard and Ruder 2018, arXiv 1801.06146, slanted
    triangular rates), taken at the middle of each step, so that none has a rate of zero.
    """
    if recipe.schedule == "constant":
        return 1.0
    done = (step + 0.5) / steps
    return min(done / WARM_UP, (1 - done) / (1 - WARM_UP))


def snapshot_epochs(recipe: Train) -> list[int]:
    """After which epochs, counted from 0, the weights are kept: evenly spread, the last one among them.

    Evenly, because what is made of them is a sum over the course of training (article A4), in which every stretch of it shall count alike.
    """
    count = min(recipe.snapshots, recipe.epochs)
    return [recipe.epochs * number // count - 1 for number in range(1, count + 1)]


def _weights(classifier: Classifier) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in classifier.state_dict().items()}


def _logits(classifier: Classifier, images: torch.Tensor) -> torch.Tensor:
    try:
        logits: torch.Tensor = classifier(images)
    except ValueError as error:  # of batch norm, which has nothing to normalise by
        if len(images) > 1:
            raise
        name = classifier.description.architecture
        raise InputError(f"train.batch_size: {name} cannot be trained on one image of this size at a time: {first_line(error)}") from None
    return logits


@contextmanager
def _own_random_numbers(recipe: Train, epoch: int, device: torch.device) -> Iterator[None]:
    """Dropout draws from PyTorch's global generator: here it is the epoch's own, and afterwards the caller's as it was."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(_epoch_seed(recipe, epoch))
        yield


def _is_finite(classifier: Classifier) -> bool:
    return all(bool(values.isfinite().all()) for values in classifier.state_dict().values())


def _order(count: int, recipe: Train, epoch: int) -> torch.Tensor:
    # Drawn on the CPU: the same order on every device.
    return torch.randperm(count, generator=torch.Generator().manual_seed(_epoch_seed(recipe, epoch)))


def _epoch_seed(recipe: Train, epoch: int) -> int:
    return recipe.seed * 1_000_003 + epoch


def _batches(count: int, recipe: Train, epoch: int, device: torch.device) -> list[torch.Tensor]:
    """The epoch's samples in its order, int64 [B] each. A last one left alone joins the batch before: batch norm needs two."""
    batches = list(_order(count, recipe, epoch).to(device).split(recipe.batch_size))
    if len(batches) > 1 and len(batches[-1]) < min(2, recipe.batch_size):
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def _augmented(images: torch.Tensor, batches: list[torch.Tensor], recipe: Train, epoch: int) -> Iterator[torch.Tensor]:
    """The images uint8 [B, C, H, W] of each batch: half of them mirrored, all moved by up to an eighth of the side, each drawn for anew.

    What comes in at an edge is the image's reflection there.
    """
    # Drawn on the CPU, as the order is, and from a seed that no order has.
    generator = torch.Generator().manual_seed(~_epoch_seed(recipe, epoch))
    for batch in batches:
        rows, columns = (_moved(side, _shifts(side, len(batch), generator).to(images.device)) for side in images.shape[2:])
        mirrored = (torch.rand(len(batch), generator=generator) < 0.5).to(images.device)
        columns = torch.where(mirrored[:, None], columns.flip(1), columns)
        yield images[batch[:, None, None], :, rows[:, :, None], columns[:, None, :]].movedim(3, 1)


def _shifts(side: int, count: int, generator: torch.Generator) -> torch.Tensor:
    farthest = side // FARTHEST_SHIFT
    return torch.randint(-farthest, farthest + 1, (count,), generator=generator)


def _moved(side: int, shifts: torch.Tensor) -> torch.Tensor:
    """Which of an axis's pixels stand where after these shifts int64 [B], the edge itself not repeated: int64 [B, side]."""
    last = side - 1
    return last - (last - (torch.arange(side, device=shifts.device) + shifts[:, None]).abs()).abs()


@torch.inference_mode()
def _valid_figures(classifier: Classifier, images: torch.Tensor, labels: torch.Tensor, recipe: Train) -> dict[str, float | int | None]:
    if len(labels) == 0:
        return {"valid_loss": None, "valid_accuracy": None}
    classifier.eval()
    loss, correct = 0.0, 0
    for some, wanted in _pairs(images, labels):
        with autocast(recipe, images.device):
            logits = classifier(some).float()
        loss += nn.functional.cross_entropy(logits, wanted, reduction="sum").item()
        correct += int((logits.argmax(1) == wanted).sum().item())
    return {"valid_loss": loss / len(labels), "valid_accuracy": correct / len(labels)}


@torch.inference_mode()
def _losses(classifier: Classifier, images: torch.Tensor, labels: torch.Tensor, recipe: Train) -> torch.Tensor:
    """Cross-entropy of every sample in nats, float16 [N] on the CPU, cut at the half range."""
    classifier.eval()
    losses = torch.empty(len(labels), device=images.device)
    for some, wanted, place in zip(*(whole.split(EVALUATION_BATCH) for whole in (images, labels, losses)), strict=True):
        with autocast(recipe, images.device):
            logits = classifier(some).float()
        place[:] = nn.functional.cross_entropy(logits, wanted, reduction="none")
    return losses.clamp(max=torch.finfo(torch.float16).max).half().cpu()


def _pairs(images: torch.Tensor, labels: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    return zip(images.split(EVALUATION_BATCH), labels.split(EVALUATION_BATCH), strict=True)


def _save(state: State, checkpoint: Path) -> None:
    tensors = {f"model.{name}": tensor for name, tensor in state.classifier.state_dict().items()} | {"early_losses": state.early_losses}
    tensors |= {f"snapshot.{epoch}.{name}": tensor for epoch, weights in state.snapshots for name, tensor in weights.items()}
    for index, values in state.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in values.items()}
    with replacing(checkpoint) as temporary:
        write_state(temporary, tensors, {"progress": json.dumps({"history": state.history, "seconds": state.seconds})})
    with suppress(FileNotFoundError):  # a training beside this one may prune at the same time
        newest_first = sorted(checkpoint.parent.glob("*.safetensors"), key=lambda path: path.stat().st_mtime, reverse=True)
        for old in newest_first[CHECKPOINTS_KEPT:]:
            old.unlink()


def _restore(state: State, checkpoint: Path, recipe: Train, device: torch.device) -> bool:
    """Take up a checkpoint. False if it is damaged: it is thrown away, for it only costs time, and the state is not fit for use."""
    try:
        with safe_open(checkpoint, framework="pt", device=str(device)) as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            done = json.loads(file.metadata()["progress"])
        weights = {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
        state.classifier.load_state_dict(weights)
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".")
                # Adam keeps its step counter on the CPU, where reading it does not hold up the device.
                moments.setdefault(int(index), {})[key] = value.cpu() if key == "step" else value
        state.optimizer.load_state_dict({"state": moments, "param_groups": state.optimizer.state_dict()["param_groups"]})
        early_losses = tensors["early_losses"].cpu()
        if early_losses.shape[1] != state.early_losses.shape[1] or early_losses.dtype != state.early_losses.dtype:
            raise ValueError(f"early losses {early_losses.dtype} {list(early_losses.shape)}")
        state.early_losses = early_losses
        state.history.extend(done["history"])
        state.snapshots = _snapshots(tensors, [epoch for epoch in snapshot_epochs(recipe) if epoch < len(state.history)], weights)
        state.seconds = float(done["seconds"])
    except (OSError, SafetensorError, RuntimeError, LookupError, TypeError, ValueError) as error:
        print(f"checkpoint {checkpoint.name} is damaged ({first_line(error)}); training from the start", file=sys.stderr)
        checkpoint.unlink()
        return False
    return True


def _snapshots(tensors: dict[str, torch.Tensor], epochs: list[int], weights: dict[str, torch.Tensor]) -> Snapshots:
    """Those of a checkpoint. Raises LookupError or ValueError if they are not these epochs' or not like the weights in name and shape."""
    found = {epoch: {name: tensors[f"snapshot.{epoch}.{name}"].cpu() for name in weights} for epoch in epochs}
    for epoch, kept in found.items():
        if any(kept[name].shape != tensor.shape for name, tensor in weights.items()):
            raise ValueError(f"the weights after epoch {epoch}")
    return list(found.items())
