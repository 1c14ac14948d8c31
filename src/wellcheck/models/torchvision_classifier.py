"""Any of torchvision's classifiers, untrained: `train.model: torchvision/resnet50`."""

import difflib
from typing import Any

import torch
from torch import nn

from wellcheck.errors import InputError
from wellcheck.models.network import Network

# Two have a second and third output while they are trained, which nothing here would learn from.
WITHOUT_MORE_OUTPUTS: dict[str, Any] = {"aux_logits": False, "init_weights": True}
OPTIONS = {"googlenet": WITHOUT_MORE_OUTPUTS, "inception_v3": WITHOUT_MORE_OUTPUTS}


class _Body(nn.Module):
    """A torchvision classifier less its last layer, [N, C, H, W] → [N, D]; grey images are shown to it as three equal channels."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.trunk(images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images)
        return features


def torchvision_classifier(name: str, input_shape: tuple[int, int, int], classes: int) -> Network:
    """The head is its last linear layer with `classes` outputs, the body all that comes before.

    Raises InputError if torchvision has no such classifier or it does not end in such a layer (squeezenet), and ValueError if it cannot
    take images of this size.
    """
    from torchvision import models  # takes seconds, and few trainings need it

    known = models.list_models(module=models)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        raise InputError(f"torchvision has no classifier '{name}'" + (f", did you mean '{near[0]}'?" if near else ""))
    trunk = models.get_model(name, weights=None, num_classes=classes, **OPTIONS.get(name, {}))
    ends = [place for place, module in trunk.named_modules() if isinstance(module, nn.Linear) and module.out_features == classes]
    if not ends:
        raise InputError(f"torchvision's {name} does not end in a linear layer, before which the penultimate layer lies; choose another")
    head = trunk.get_submodule(ends[-1])
    trunk.set_submodule(ends[-1], nn.Identity())
    network = Network(_Body(trunk), head)
    _try(network, input_shape)
    return network


@torch.no_grad()
def _try(network: Network, input_shape: tuple[int, int, int]) -> None:
    """Show it a blank image. Raises ValueError with what torchvision says to that."""
    try:
        network.eval()(torch.zeros(1, *input_shape))
    except (RuntimeError, AssertionError) as error:
        raise ValueError(" ".join(str(error).split())) from None
    network.train()
