"""The small deep network of article A4 (attribution on Fashion-MNIST): seven 3×3 convolutions, only two poolings, one linear layer."""

from torch import nn

from wellcheck.models.network import Network, initialised


def deep_cnn(input_shape: tuple[int, int, int], classes: int) -> Network:
    """179,466 parameters on 28×28 grey images of ten classes. Raises ValueError if two poolings leave nothing (4×4 is the least)."""
    channels, height, width = input_shape
    rows, columns = height // 4, width // 4
    if min(rows, columns) < 1:
        raise ValueError(f"two poolings need at least 4×4 pixels, found {height}×{width}")
    body = nn.Sequential(
        *_convolution(channels, 32),
        *_convolution(32, 32),
        *_convolution(32, 32),
        nn.MaxPool2d(2),
        *_convolution(32, 64),
        *_convolution(64, 64),
        nn.MaxPool2d(2),
        *_convolution(64, 64),
        *_convolution(64, 64),
        nn.Flatten(),
    )
    return Network(initialised(body), nn.Linear(64 * rows * columns, classes))


def _convolution(channels: int, width: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(channels, width, kernel_size=3, padding=1), nn.ReLU()
