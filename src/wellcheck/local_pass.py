"""What a classifier makes of images of which a small square is black: computed anew only where the square reaches.

The first layers of most networks are local. A square of 4×4 pixels changes 10×10 of the 28×28 that three 3×3 convolutions give, and what
they make of the rest is known from the image as it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.functional import pad

from wellcheck.models import Classifier

# Of a map's area: what is changed by more is computed as a whole, for cutting out and pasting cost too.
WORTH_CUTTING = 0.6
ELEMENTWISE = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Tanh, nn.Sigmoid, nn.Identity)

Size = tuple[int, int]


class Window(NamedTuple):
    """How far a layer spreads a change, along one side of a map."""

    kernel: int
    stride: int
    padding: int

    def after(self, changed: int, length: int) -> int:
        """How many of the outputs may change where so many of `length` inputs in a row do."""
        return min((changed + self.kernel - 2) // self.stride + 1, self.outputs(length))

    def outputs(self, length: int) -> int:
        """Of so many inputs."""
        return (length + 2 * self.padding - self.kernel) // self.stride + 1

    def first(self, start: torch.Tensor, outputs: int, length: int) -> torch.Tensor:
        """The first of these outputs for changes that begin at `start`, int64 [J]: moved inwards where they would leave the map."""
        first = (start + self.padding - self.kernel + self.stride).div(self.stride, rounding_mode="floor")
        return first.clamp(0, self.outputs(length) - outputs)

    def read(self, outputs: int) -> int:
        """How many inputs, padding included, so many outputs in a row read."""
        return (outputs - 1) * self.stride + self.kernel


@dataclass(frozen=True)
class _Layer:
    """A layer that spreads a change, the elementwise ones behind it, and what it reads of the images as they are."""

    module: nn.Module
    then: nn.Module
    windows: tuple[Window, Window]
    known: torch.Tensor  # float [N, H, W, C], padded
    outputs: Size  # the part of its outputs that may be changed


class LocalPass:
    """Images float [N, C, H, W] in [0, 1] as a classifier sees them, and what it would see of them with a black square.

    Layers in a row are followed as long as they are local: convolutions with a stride of 1, poolings that leave nothing out, and whatever
    takes every value by itself. From the first other one on everything is computed.
    """

    def __init__(self, classifier: Classifier, pixels: torch.Tensor, side: int) -> None:
        self.classifier, self.side = classifier, side
        self.black = classifier.normalise(torch.zeros_like(pixels[:1, :, :1, :1])).permute(0, 2, 3, 1)
        self.local: list[_Layer] = []
        body = classifier.network.body
        parts = list(body) if isinstance(body, nn.Sequential) else [body]
        known, changed = classifier.normalise(pixels), (side, side)
        while parts:
            windows = _windows(parts[0], (known.shape[2], known.shape[3]))
            if windows is None:
                break
            down, across = windows
            outputs = down.after(changed[0], known.shape[2]), across.after(changed[1], known.shape[3])
            padded = pad(known, (across.padding, across.padding, down.padding, down.padding)).permute(0, 2, 3, 1).contiguous()
            if down.read(outputs[0]) * across.read(outputs[1]) > WORTH_CUTTING * padded.shape[1] * padded.shape[2]:
                break
            module = parts.pop(0)
            then = []
            while parts and _is_elementwise(parts[0]):
                then.append(parts.pop(0))
            self.local.append(_Layer(module, nn.Sequential(*then), windows, padded, outputs))
            known, changed = self.local[-1].then(module(known)), outputs
        self.known, self.rest = known.permute(0, 2, 3, 1).contiguous(), nn.Sequential(*parts)

    def without(self, rows: torch.Tensor, corners: torch.Tensor) -> torch.Tensor:
        """The logits, float [J, K], of images (rows int64 [J]) whose square from a corner (int64 [J, 2], row and column) on is black."""
        start, square = corners, self.black.expand(len(rows), self.side, self.side, -1)
        for layer in self.local:
            first = torch.stack(
                [
                    window.first(begin, outputs, length - 2 * window.padding)
                    for window, begin, outputs, length in zip(layer.windows, start.T, layer.outputs, layer.known.shape[1:3], strict=True)
                ],
                1,
            )
            read = first * torch.tensor([window.stride for window in layer.windows], device=rows.device)
            padding = torch.tensor([window.padding for window in layer.windows], device=rows.device)
            size = tuple(window.read(outputs) for window, outputs in zip(layer.windows, layer.outputs, strict=True))
            seen = _pasted(_cut(layer.known, rows, read, size), start + padding - read, square)
            square = layer.then(_unpadded(layer.module, seen.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)
            start = first
        whole = _pasted(self.known[rows], start, square).permute(0, 3, 1, 2)
        logits: torch.Tensor = self.classifier.network.head(self.rest(whole))
        return logits


def _windows(module: nn.Module, size: Size) -> tuple[Window, Window] | None:
    """How a layer spreads changes of its input, rows and columns of this size; None where it is not known to be local."""
    if type(module) is nn.Conv2d:  # what is derived from it may do anything
        if isinstance(module.padding, str) or module.padding_mode != "zeros" or {*module.stride, *module.dilation} != {1}:
            return None
        sides = [Window(kernel, 1, padding) for kernel, padding in zip(module.kernel_size, module.padding, strict=True)]
    elif isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
        kernel, stride, padding, dilation = map(_pair, (module.kernel_size, module.stride, module.padding, getattr(module, "dilation", 1)))
        if kernel != stride or padding != (0, 0) or dilation != (1, 1) or any(a % b for a, b in zip(size, kernel, strict=True)):
            return None
        sides = [Window(one, one, 0) for one in kernel]
    else:
        return None
    return sides[0], sides[1]


def _is_elementwise(module: nn.Module) -> bool:
    """Whether it takes every value by itself; a batch normalisation does once it goes by what it has seen."""
    return isinstance(module, ELEMENTWISE) or (isinstance(module, nn.BatchNorm2d) and module.running_mean is not None)


def _pair(value: int | Sequence[int]) -> tuple[int, ...]:
    return (value, value) if isinstance(value, int) else tuple(value)


def _unpadded(module: nn.Module, seen: torch.Tensor) -> torch.Tensor:
    """What a layer makes of a part of its input that brings its padding along."""
    if isinstance(module, nn.Conv2d):
        return nn.functional.conv2d(seen, module.weight, module.bias, groups=module.groups)
    made: torch.Tensor = module(seen)
    return made


def _cut(known: torch.Tensor, rows: torch.Tensor, starts: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    """Of maps [N, H, W, C] and their rows (int64 [J]) the part of this size from a place (int64 [J, 2]) on: float [J, h, w, C]."""
    parts: torch.Tensor = known.unfold(1, size[0], 1).unfold(2, size[1], 1).permute(0, 1, 2, 4, 5, 3)[rows, starts[:, 0], starts[:, 1]]
    return parts


def _pasted(maps: torch.Tensor, starts: torch.Tensor, squares: torch.Tensor) -> torch.Tensor:
    """Maps [J, H, W, C], changed in place: from a place (int64 [J, 2]) on they show squares [J, h, w, C]."""
    each = torch.arange(len(maps), device=maps.device)[:, None, None]
    down, across = (
        start[:, None] + torch.arange(length, device=maps.device) for start, length in zip(starts.T, squares.shape[1:3], strict=True)
    )
    maps[each, down[:, :, None], across[:, None, :]] = squares
    return maps
