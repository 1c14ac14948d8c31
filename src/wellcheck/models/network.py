"""What every architecture is: a body that ends in the penultimate layer, and a head that reads it."""

import torch
from torch import nn


class Network(nn.Module):
    """body: normalised images float [N, C, H, W] → features [N, D]; head: features → logits [N, K]."""

    def __init__(self, body: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.head = head

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.body(images))
        return logits


def initialised(body: nn.Module) -> nn.Module:
    """The same body, its convolutions drawn as He et al. 2015 have it (arXiv 1502.01852, equation 10), their biases zero.

    PyTorch's own start shrinks the variance six times a layer: without normalisation nothing of an image is left to learn from after seven.
    """
    for module in body.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return body
