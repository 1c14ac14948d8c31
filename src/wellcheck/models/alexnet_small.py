"""AlexNet (as Krizhevsky 2014, arXiv 1404.5997, has it) for small images, without its last poolings, as article A4 has it on Fashion-MNIST.

Its five convolutions have AlexNet's widths; the first is 5×5 with stride 2 instead of 11×11 with stride 4. On 28×28 pixels the convolutions
end in AlexNet's own 256×6×6 values; the two hidden layers are 1,024 wide instead of 4,096: 12.9 million parameters, most of them there.
"""

from torch import nn

from wellcheck.models.network import Network

HIDDEN = 1024


def alexnet_small(input_shape: tuple[int, int, int], classes: int) -> Network:
    """Raises ValueError if the pooling finds less than its 3×3 values (5×5 pixels is the least)."""
    channels, height, width = input_shape
    rows, columns = (((side + 1) // 2 - 3) // 2 + 1 for side in (height, width))
    if min(rows, columns) < 1:
        raise ValueError(f"a convolution with stride 2 and a 3×3 pooling need at least 5×5 pixels, found {height}×{width}")
    body = nn.Sequential(
        nn.Conv2d(channels, 64, kernel_size=5, stride=2, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(64, 192, kernel_size=5, padding=2),
        nn.ReLU(),
        nn.Conv2d(192, 384, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 256, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(256 * rows * columns, HIDDEN),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(HIDDEN, HIDDEN),
        nn.ReLU(),
    )
    return Network(body, nn.Linear(HIDDEN, classes))
