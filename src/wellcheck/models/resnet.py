"""Residual networks for small images (He et al. 2015, arXiv 1512.03385): `resnet20` of its section 4.2, and `resnet18` without the stem.

Where a block changes the size, a 1×1 convolution with batch norm is the shortcut (option B). Weights start as in arXiv 1502.01852.
"""

from collections.abc import Sequence

import torch
from torch import nn

from wellcheck.models.network import Network, initialised


class _Block(nn.Module):
    """Two 3×3 convolutions with batch norm, added to what came in: [N, C, H, W] → [N, width, ⌈H / stride⌉, ⌈W / stride⌉]."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.change = nn.Sequential(
            nn.Conv2d(channels, width, kernel_size=3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )
        same = stride == 1 and channels == width
        projection = nn.Sequential(nn.Conv2d(channels, width, kernel_size=1, stride=stride, bias=False), nn.BatchNorm2d(width))
        self.shortcut = nn.Identity() if same else projection
        self.activation = nn.ReLU()

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        activated: torch.Tensor = self.activation(self.shortcut(maps) + self.change(maps))
        return activated


def resnet20(input_shape: tuple[int, int, int], classes: int) -> Network:
    """Three stages of three blocks, for CIFAR-10 (article A5): 272,474 parameters on its images."""
    return _resnet(input_shape[0], classes, widths=(16, 32, 64), blocks=3)


def resnet18(input_shape: tuple[int, int, int], classes: int) -> Network:
    """Four stages of two blocks behind a 3×3 convolution, no pooling before them: 11,173,962 parameters on CIFAR-10's images."""
    return _resnet(input_shape[0], classes, widths=(64, 128, 256, 512), blocks=2)


def _resnet(channels: int, classes: int, *, widths: Sequence[int], blocks: int) -> Network:
    """Every stage but the first halves the map, and the last one's mean is what the head reads, so that any size of image will do."""
    layers: list[nn.Module] = [nn.Conv2d(channels, widths[0], kernel_size=3, padding=1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()]
    before = widths[0]
    for stage, width in enumerate(widths):
        for block in range(blocks):
            layers.append(_Block(before, width, stride=2 if stage > 0 and block == 0 else 1))
            before = width
    body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Network(initialised(body), nn.Linear(before, classes))
