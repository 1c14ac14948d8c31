"""What is computed only where a black square reaches is what the whole network makes of an image with the square."""

import itertools

import pytest
import torch
from torch import nn

from wellcheck.local_pass import LocalPass
from wellcheck.models import Classifier, ModelDescription, build
from wellcheck.models.network import Network

CPU = torch.device("cpu")
DESCRIPTION = ModelDescription("two_conv_cnn", ("a", "b", "c"), (2, 20, 24))


def of(*layers: nn.Module, mean: float = 0.0, std: float = 1.0) -> Classifier:
    """A classifier of images [2, 20, 24] whose body is these layers in a row."""
    torch.manual_seed(0)
    classifier = Classifier(ModelDescription(DESCRIPTION.architecture, DESCRIPTION.class_names, DESCRIPTION.input_shape, mean, std))
    body = nn.Sequential(*layers, nn.Flatten())
    classifier.network = Network(body, nn.Linear(body(torch.zeros(1, 2, 20, 24)).shape[1], 3))
    return classifier.eval()


def normed(width: int) -> nn.BatchNorm2d:
    """A batch normalisation that has seen something."""
    norm = nn.BatchNorm2d(width)
    norm.running_mean, norm.running_var = torch.linspace(-1, 1, width), torch.linspace(0.5, 2, width)
    return norm


class Doubled(nn.Conv2d):
    """Not what its weights say."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Twice that."""
        return 2 * super().forward(input)


LOCAL = {  # and how many of its layers are
    "padded": (of(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(inplace=True)), 2),
    "not padded": (of(nn.Conv2d(2, 4, 5), nn.Tanh(), nn.Conv2d(4, 4, 3), nn.ELU()), 2),
    "padded more than it needs": (of(nn.Conv2d(2, 4, 3, padding=(3, 2))), 1),
    "unlike sides": (of(nn.Conv2d(2, 4, (1, 5), padding=(0, 2), bias=False), nn.MaxPool2d((2, 3)), nn.Conv2d(4, 4, (3, 1))), 3),
    "pooled twice": (of(nn.Conv2d(2, 4, 3, padding=1), nn.MaxPool2d(2), nn.ReLU(), nn.AvgPool2d((1, 2)), nn.Conv2d(4, 4, 1)), 4),
    "normalised": (of(nn.Conv2d(2, 4, 3, padding=1, groups=2), normed(4), nn.LeakyReLU(), mean=0.4, std=0.2), 1),
    "normalised by the batch": (of(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4, track_running_stats=False)), 1),
    "a convolution of somebody's": (of(Doubled(2, 4, 3, padding=1)), 0),
    "a pooling that leaves a row out": (of(nn.Conv2d(2, 4, 4), nn.MaxPool2d(2)), 1),
    "a stride": (of(nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.ReLU()), 0),
    "dilated": (of(nn.Conv2d(2, 4, 3, dilation=2)), 0),
    "reflected": (of(nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect")), 0),
    "as it was": (of(nn.Conv2d(2, 4, 3, padding="same")), 0),
    "pools that overlap": (of(nn.MaxPool2d(3, stride=1), nn.Conv2d(2, 4, 3)), 0),
    "normalised as a whole": (of(nn.InstanceNorm2d(2), nn.Conv2d(2, 4, 3)), 0),
}


def check(classifier: Classifier, side: int) -> LocalPass:
    """Every place of a square of this size, in every image, against the whole network."""
    channels, height, width = classifier.description.input_shape
    pixels = torch.rand((3, channels, height, width), generator=torch.Generator().manual_seed(1))
    corners = torch.tensor(list(itertools.product(range(0, height - side + 1, 3), range(0, width - side + 1, 3))))
    corners = torch.cat([corners, torch.tensor([[height - side, width - side], [0, width - side]])])
    rows = torch.arange(len(corners)) % len(pixels)
    changed = pixels[rows]
    for image, (row, column) in zip(changed, corners.tolist(), strict=True):
        image[:, row : row + side, column : column + side] = 0
    with torch.inference_mode():
        local = LocalPass(classifier, pixels, side)
        found = local.without(rows, corners)
        torch.testing.assert_close(found, classifier(changed), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(local.without(rows, corners), found)  # what is known is left as it was
    return local


@pytest.mark.parametrize("side", [1, 3, 4])
@pytest.mark.parametrize("name", LOCAL)
def test_only_where_the_square_reaches_is_the_whole(name: str, side: int) -> None:
    classifier, local = LOCAL[name]
    assert len(check(classifier, side).local) == local


@pytest.mark.parametrize("name", LOCAL)
def test_a_square_may_be_almost_the_whole_image(name: str) -> None:
    assert not check(LOCAL[name][0], 20).local


@pytest.mark.parametrize(("name", "local"), [("deep_cnn", 6), ("two_conv_cnn", 2), ("resnet20", 1), ("residual_cnn", 0)])
def test_networks_are_followed_as_far_as_a_square_of_four_is_local(name: str, local: int) -> None:
    classifier = build(ModelDescription(name, tuple("abc"), (1, 28, 28)), seed=0).eval()
    assert len(check(classifier, 4).local) == local
