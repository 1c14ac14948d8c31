"""Any layers of a classifier by name or pattern, captured in one pass over the images."""

import itertools
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from wellcheck.embeddings import creating
from wellcheck.embeddings.alignment import WIDTH, Spectrum
from wellcheck.embeddings.capture import HALF_RANGE
from wellcheck.errors import InputError
from wellcheck.gradients import as_pixels, together
from wellcheck.models import Classifier
from wellcheck.progress import progress

Pooling = Literal["pooled", "flattened"]

BATCH = 512
PIXELS, PENULTIMATE, NUMBERED = "pixels", "penultimate", "activation_"
CONFIDENCE, ALIGNMENT = "confidence", "alignment"
OF_ANSWERS = (CONFIDENCE, ALIGNMENT)  # are told of the answer, and are not made on the way to it
# What is numbered: in a ResNet-18 the 17 activations of its stem and of both halves of its blocks, as article A2 counts layers.
ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Tanh, nn.Sigmoid)
FUNCTIONS = {functional.relu, functional.leaky_relu, functional.elu, functional.gelu, functional.silu, functional.hardswish}
FUNCTIONS |= {functional.relu6, functional.sigmoid, functional.tanh, torch.relu, torch.sigmoid, torch.tanh}
FUNCTIONS |= {torch.Tensor.relu, torch.Tensor.sigmoid, torch.Tensor.tanh}


@dataclass(frozen=True)
class Captured:
    """What a classifier makes of N images."""

    layers: dict[str, np.ndarray]  # float16 [N, D] each, memory-mapped if they were written to a file
    labels: np.ndarray  # int64 [N], its answers

    def joined(self, other: "Captured") -> "Captured":
        """These images and then the other ones."""
        layers = {name: np.concatenate([values, other.layers[name]]) for name, values in self.layers.items()}
        return Captured(layers, np.concatenate([self.labels, other.labels]))


def layer_names(classifier: Classifier, device: torch.device) -> list[str]:
    """Every layer there is: `pixels`, modules of the body by their names, `activation_1` …, `penultimate`, `confidence`, `alignment`.

    In the order of the network. `confidence` is how sure the answer is: the probabilities of all classes, the largest first, whatever class
    that is. `alignment` is whether the image lies along the answer's gradient: two numbers, see `Spectrum.alignment`. Where no module is an
    activation, calls of such functions are numbered. Modules of these names are hidden.
    """
    return [*(name for name in _shapes(classifier, device) if name != ALIGNMENT), ALIGNMENT]


def choose_layers(classifier: Classifier, patterns: Sequence[str], device: torch.device) -> list[str]:
    """The layers that match any of the regular expressions as a whole, in the order of the network.

    Raises InputError for a pattern that matches none, with the names there are: another layer than the one that was meant tells nothing.
    """
    names, found = layer_names(classifier, device), set()
    for pattern in patterns:
        try:
            matching = {name for name in names if re.fullmatch(pattern, name)}
        except re.error as error:
            raise InputError(f"layers: '{pattern}' is no regular expression: {error}") from None
        if not matching:
            raise InputError(f"layers: '{pattern}' matches none of {classifier.description.architecture}'s layers: {', '.join(names)}")
        found |= matching
    return [name for name in names if name in found]


def capture_layers(
    classifier: Classifier,
    images: np.ndarray,
    layers: Sequence[str],
    *,
    pooling: Pooling,
    device: torch.device,
    title: str,
    target: Path | None = None,
    spectrum: Spectrum | None = None,
) -> Captured:
    """The layers (of `choose_layers`) of images uint8 [N, C, H, W], or float32 in [0, 1], and the answers, in one pass.

    `pooled` is the mean of every channel over the image, or of a transformer's tokens; `flattened` keeps all values. With `target` they go
    into an embeddings file, memory-mapped, whatever their size. Values beyond the half range are clipped to it. Raises InputError for
    values that are no numbers, and where `alignment` is asked for without the spectrum of natural images.
    """
    if ALIGNMENT in layers and spectrum is None:
        raise InputError(f"layer {ALIGNMENT}: what is usual in natural images must be known, and no spectrum of them was given")
    widths = layer_widths(classifier, layers, pooling, device)
    with (
        _arrays({name: (len(images), width) for name, width in widths.items()}, target) as arrays,
        progress(title, len(images), "images") as advance,
    ):
        answers = np.empty(len(images), np.int64)
        size = together(images, BATCH)
        for start in range(0, len(images), size):
            rows = slice(start, start + size)
            values, logits = _seen(classifier, torch.from_numpy(images[rows]).to(device), layers)
            if spectrum and ALIGNMENT in layers:
                values[ALIGNMENT] = spectrum.alignment(classifier, as_pixels(images[rows], device), logits.argmax(1, keepdim=True))
            answers[rows] = logits.argmax(1).cpu().numpy()
            for name in layers:
                flat = _flat(values[name], pooling)
                broken = flat.isnan().any(1)
                if broken.any():
                    first = start + int(broken.int().argmax())
                    raise InputError(f"layer {name}: what it makes of {int(broken.sum())} images is no number, the first is image {first}")
                arrays[name][rows] = flat.clamp(-HALF_RANGE, HALF_RANGE).half().cpu().numpy()
            advance(len(images[rows]))
    return Captured(arrays, answers)


def layer_widths(classifier: Classifier, layers: Sequence[str], pooling: Pooling, device: torch.device) -> dict[str, int]:
    """How many values of one image each of the layers (of `choose_layers`) keeps."""
    shapes = _shapes(classifier, device) | {ALIGNMENT: (WIDTH,)}
    return {name: _width(shapes[name], pooling) for name in layers}


@contextmanager
def _arrays(widths: dict[str, tuple[int, int]], target: Path | None) -> Iterator[dict[str, np.ndarray]]:
    if target is None:
        yield {name: np.empty(shape, np.float16) for name, shape in widths.items()}
    else:
        with creating(target, widths) as arrays:
            yield arrays


def _shapes(classifier: Classifier, device: torch.device) -> dict[str, tuple[int, ...]]:
    """Of every layer the shape of what it makes of one image."""
    blank = torch.zeros((1, *classifier.description.input_shape), device=device)
    return {name: tuple(value.shape[1:]) for name, value in _seen(classifier.eval().to(device), blank)[0].items()}


@torch.no_grad()  # and no inference mode: of what a network keeps of its first pass gradients may be wanted later
def _seen(
    classifier: Classifier, images: torch.Tensor, wanted: Collection[str] | None = None
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """The outputs of the layers that are wanted (all) for a batch, and the logits. A module that is called twice has its last output."""
    seen: dict[str, torch.Tensor] = {}
    numbers = itertools.count(1)

    def keep(name: str, output: torch.Tensor) -> None:
        if wanted is None or name in wanted:
            seen.pop(name, None)
            seen[name] = output.clone()  # the next layer may work in place

    def number(output: torch.Tensor) -> None:
        if output.ndim >= 2 and len(output) == len(images):
            keep(f"{NUMBERED}{next(numbers)}", output)

    def see(name: str, module: nn.Module, output: torch.Tensor) -> None:
        if name and output.ndim >= 2 and len(output) == len(images):
            keep(name, output)
            if isinstance(module, ACTIVATIONS):
                number(output)

    keep(PIXELS, images.float() / 255 if images.dtype == torch.uint8 else images)
    with nullcontext() if any(isinstance(part, ACTIVATIONS) for part in classifier.network.body.modules()) else _Called(number):
        penultimate = classifier.watched(images, see)
    keep(PENULTIMATE, penultimate)
    logits = classifier.network.head(penultimate)
    keep(CONFIDENCE, logits.float().softmax(1).sort(1, descending=True).values)
    return seen, logits


class _Called(TorchFunctionMode):
    """Sees what activations make that a network calls as functions."""

    def __init__(self, see: Callable[[torch.Tensor], None]) -> None:
        super().__init__()
        self.see = see

    def __torch_function__(
        self, function: Callable[..., Any], types: object, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        output = function(*args, **(kwargs or {}))
        if function in FUNCTIONS:
            self.see(output)
        return output


def _width(shape: tuple[int, ...], pooling: Pooling) -> int:
    kept = shape if pooling == "flattened" or len(shape) == 1 else shape[:1] if len(shape) == 3 else shape[-1:]
    return int(np.prod(kept))


def _flat(values: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    """Values [N, C, h, w], [N, tokens, D] or [N, D] as float [N, D]."""
    if pooling == "pooled" and values.ndim == 4:
        values = values.float().mean((2, 3))
    elif pooling == "pooled" and values.ndim > 2:
        values = values.float().mean(tuple(range(1, values.ndim - 1)))
    return values.flatten(1).float()
