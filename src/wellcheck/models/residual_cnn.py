"""The tiny residual network of article A1 (poisoned Fashion-MNIST): 7,850 + 409 parameters on 28×28 grey images."""

import torch
from torch import nn

from wellcheck.models.network import Network


class _Residual(nn.Module):
    """Two 5×5 convolutions with sigmoids, added to the image they came from: [N, C, H, W] → [N, C·H·W]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.widen = nn.Conv2d(channels, 8, kernel_size=5, padding=2)
        self.narrow = nn.Conv2d(8, channels, kernel_size=5, padding=2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        change = torch.sigmoid(self.narrow(torch.sigmoid(self.widen(images))))
        return (images + change).flatten(1)


def residual_cnn(input_shape: tuple[int, int, int], classes: int) -> Network:
    """The article puts a sigmoid on the output too, so cross-entropy cannot fall below ln(1 + 9/e) = 1.461 for ten classes."""
    channels, height, width = input_shape
    return Network(_Residual(channels), nn.Sequential(nn.Linear(channels * height * width, classes), nn.Sigmoid()))
