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
