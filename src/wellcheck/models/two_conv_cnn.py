"""The small network of article A3 (backdoors in MNIST): two 5×5 convolutions, each pooled, and two linear layers."""

from torch import nn

from wellcheck.models.network import Network


def two_conv_cnn(input_shape: tuple[int, int, int], classes: int) -> Network:
    """Raises ValueError if nothing is left of the image after two convolutions and two poolings (16×16 is the least)."""
    channels, height, width = input_shape
    rows, columns = (((side - 4) // 2 - 4) // 2 for side in (height, width))
    if min(rows, columns) < 1:
        raise ValueError(f"two 5×5 convolutions with pooling need at least 16×16 pixels, found {height}×{width}")
    body = nn.Sequential(
        nn.Conv2d(channels, 16, kernel_size=5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, kernel_size=5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * rows * columns, 512),
        nn.ReLU(),
    )
    return Network(body, nn.Linear(512, classes))
