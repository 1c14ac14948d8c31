"""Architectures by name, behind one face: a Classifier takes images as they are stored and normalises them itself."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from wellcheck.errors import InputError
from wellcheck.models.alexnet_small import alexnet_small
from wellcheck.models.deep_cnn import deep_cnn
from wellcheck.models.network import Network
from wellcheck.models.residual_cnn import residual_cnn
from wellcheck.models.resnet import resnet18, resnet20
from wellcheck.models.torchvision_classifier import torchvision_classifier
from wellcheck.models.two_conv_cnn import two_conv_cnn
from wellcheck.params import TORCHVISION, ModelName

Shape = tuple[int, int, int]  # C, H, W

ARCHITECTURES: dict[str, Callable[[Shape, int], Network]] = {
    "alexnet_small": alexnet_small,
    "deep_cnn": deep_cnn,
    "residual_cnn": residual_cnn,
    "resnet18": resnet18,
    "resnet20": resnet20,
    "two_conv_cnn": two_conv_cnn,
}


@dataclass(frozen=True)
class ModelDescription:
    """All that is needed to build a classifier before its weights are loaded."""

    architecture: ModelName
    class_names: tuple[str, ...]
    input_shape: Shape
    mean: float = 0.0  # of pixels in [0, 1]; both articles train on pixels as they are
    std: float = 1.0


class Activations(NamedTuple):
    """What a classifier makes of some images."""

    feature_map: torch.Tensor  # float [N, C, h, w], the last of the body's outputs that is spatial, before it is pooled or flattened
    penultimate: torch.Tensor  # float [N, D]
    logits: torch.Tensor  # float [N, K]


class Classifier(nn.Module):
    """A network that takes images uint8 [N, C, H, W], or float in [0, 1], and gives logits float [N, K]."""

    def __init__(self, description: ModelDescription) -> None:
        super().__init__()
        self.description = description
        self.network = _network(description)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network.head(self.embed(images))
        return logits

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """The penultimate layer, float [N, D]: what the last linear layer reads."""
        features: torch.Tensor = self.network.body(self.normalise(images))
        return features

    def activations(self, images: torch.Tensor) -> "Activations":
        """The deepest spatial activations on the way, the penultimate layer and the logits. Raises InputError if nothing is spatial.

        One cell [N, C, 1, 1] is spatial only where no layer before it had more.
        """
        spatial: list[torch.Tensor] = []

        def keep(name: str, module: nn.Module, output: torch.Tensor) -> None:
            if output.ndim == 4 and (not spatial or _cells(output) > 1 or _cells(spatial[0]) == 1):
                spatial[:] = [output]

        penultimate = self.watched(images, keep)
        if not spatial:
            raise InputError(f"{self.description.architecture}: no layer of its body has an output [N, C, h, w]: take feature_map out")
        return Activations(spatial[0], penultimate, self.network.head(penultimate))

    def watched(self, images: torch.Tensor, see: Callable[[str, nn.Module, torch.Tensor], None]) -> torch.Tensor:
        """The penultimate layer; on the way `see` gets the name, the module and the output of every part of the body, maps as [N, C, h, w].

        The next part may change an output in place.
        """
        channels_last = False

        def hook(name: str) -> Callable[[nn.Module, object, object], None]:
            def watch(module: nn.Module, inputs: object, output: object) -> None:
                nonlocal channels_last
                if isinstance(output, torch.Tensor):
                    if output.ndim == 4 and hasattr(module, "dims"):  # torchvision's Permute: its transformers work on [N, h, w, C]
                        channels_last = module.dims == [0, 2, 3, 1]
                    see(name, module, output.movedim(-1, 1) if channels_last and output.ndim == 4 else output)

            return watch

        # swin_v2 has maps of its windows' positions too, which are not of the images.
        parts = [(name, module) for name, module in self.network.body.named_modules() if "cpb_mlp" not in name]
        hooks = [module.register_forward_hook(hook(name)) for name, module in parts]
        try:
            return self.embed(images)
        finally:
            for one in hooks:
                one.remove()

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As PyTorch's, but weights that come from a file are given the versions of the layers, which mnasnet asks for."""
        versioned: Any = OrderedDict(state_dict)
        versioned._metadata = getattr(self.state_dict(), "_metadata", None)
        return super().load_state_dict(versioned, strict, assign)

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """Images as the body takes them, float [N, C, H, W] in channels-last order."""
        pixels = images.float().div_(255) if images.dtype == torch.uint8 else images.float()
        if (self.description.mean, self.description.std) != (0.0, 1.0):
            pixels = (pixels - self.description.mean) / self.description.std
        return pixels.contiguous(memory_format=torch.channels_last)


def _network(description: ModelDescription) -> Network:
    classes = len(description.class_names)
    if description.architecture.startswith(TORCHVISION):
        return torchvision_classifier(description.architecture.removeprefix(TORCHVISION), description.input_shape, classes)
    return ARCHITECTURES[description.architecture](description.input_shape, classes)


def _cells(maps: torch.Tensor) -> int:
    return maps.shape[2] * maps.shape[3]


def build(description: ModelDescription, *, seed: int) -> Classifier:
    """A freshly initialised classifier. Raises InputError if there is no such architecture or it cannot take images of this size."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return Classifier(description)
        except ValueError as error:
            raise InputError(f"train.model: {description.architecture} cannot take images of {description.input_shape}: {error}") from None
        except InputError as error:
            raise InputError(f"train.model: {error}") from None


def pick_device(device: str) -> torch.device:
    """`auto` is CUDA where there is one. Raises InputError if CUDA is asked for and absent."""
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device: found 'cuda', but PyTorch sees no CUDA device here; set device: auto or cpu")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def device_name(device: torch.device) -> str:
    """What a reader of a timing needs to know of the device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"
