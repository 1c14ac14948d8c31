"""A classifier's answers as something to differentiate by the image: what attacks and attributions share."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from wellcheck.errors import InputError
from wellcheck.models import Classifier

PIXELS = 512 * 32 * 32  # of all images in one pass
ROUNDING = 1e-5  # of pixels: what lies no farther outside of [0, 1] is within
FEW_CHANNELS = 4  # that a convolution reads: for so few, PyTorch's gradient by the image is slow on CPUs


def ready(classifier: Classifier, device: torch.device) -> Classifier:
    """The classifier on the device. Raises InputError if any part is in train mode: dropout and batch statistics blur every answer."""
    if any(part.training for part in classifier.modules()):
        raise InputError("the model is in train mode: call its eval() first")
    return classifier.to(device)


def as_pixels(images: np.ndarray, device: torch.device) -> torch.Tensor:
    """Images uint8, or float in [0, 1], [N, C, H, W] as float in [0, 1] on the device. Raises InputError for others, with their range."""
    if images.dtype == np.uint8:
        return torch.from_numpy(images).to(device).float() / 255
    if images.dtype not in (np.float32, np.float64):
        raise InputError(f"images must be uint8, or float in [0, 1]; found {images.dtype}")
    pixels = torch.from_numpy(images).to(device).float()
    within_range("images", pixels)
    return pixels.clamp(0, 1)


def within_range(name: str, pixels: torch.Tensor) -> None:
    """Raises InputError where pixels lie outside [0, 1] by more than rounding does, or are no numbers."""
    if pixels.numel():
        least, most = pixels.aminmax()
        if not (least >= -ROUNDING and most <= 1 + ROUNDING):
            raise InputError(f"{name}: pixels must lie in [0, 1], found {least:.6g} to {most:.6g}")


def answers(network: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor) -> torch.Tensor:
    """What a classifier, or a part of one, makes of images that ask for gradients, float [n, …]; weights get none: see `by_image`."""
    with OnlyByImage() if images.device.type == "cpu" else nullcontext():
        return network(images).float()


def together(images: np.ndarray | torch.Tensor, most: int) -> int:
    """How many of images [N, C, H, W] go into one pass, at most so many: what a gradient needs is kept for each, and grows with it."""
    return max(1, min(most, PIXELS // int(np.prod(images.shape[2:]))))


def by_image(scores: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """∂ score / ∂ image of every image, float [n, C, H, W], where scores float [n] were made of images that ask for gradients.

    Raises InputError where one is no number.
    """
    (gradient,) = torch.autograd.grad(scores.sum(), images)
    broken = ~gradient.flatten(1).isfinite().all(1)
    if broken.any():
        raise InputError(f"the model: the gradient of {int(broken.sum())} of {len(images)} images is not finite")
    return gradient


def max_normed(gradient: torch.Tensor) -> torch.Tensor:
    """Each gradient float [n, C, H, W] divided by its largest value, and where it is zero as it is.

    Before anything else is made of it: squares of what a sure model leaves of its gradient vanish, and sums of it are rounded.
    """
    largest = gradient.abs().amax((1, 2, 3), keepdim=True)
    return gradient / torch.where(largest > 0, largest, 1)


def blurred(maps: torch.Tensor, deviation: float) -> torch.Tensor:
    """Maps float [n, C, H, W], averaged by a Gaussian of this standard deviation, in pixels, up to three of them away."""
    from torchvision.transforms.v2.functional import gaussian_blur  # takes seconds, and few who attack or explain blur

    # The edge is reflected, and so no longer than the map.
    sides = [2 * min(round(3 * deviation), side - 1) + 1 for side in (maps.shape[3], maps.shape[2])]
    smooth: torch.Tensor = gaussian_blur(maps, sides, [deviation, deviation])
    return smooth


class OnlyByImage(TorchFunctionMode):
    """Within it, convolutions that read an image have a gradient by the image alone, as one matrix product: not for training.

    PyTorch's own takes up to three times as long where there are few channels, and is most of the time of a small network's gradient. The
    sums are the same, in another order.
    """

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if function is torch.conv2d and len(args) == 7 and _reads_an_image(*args):  # as nn.Conv2d calls it
            return _Convolution.apply(*args)
        return function(*args, **(kwargs or {}))


def _reads_an_image(images: torch.Tensor, weights: torch.Tensor, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> bool:
    few = images.requires_grad and images.ndim == 4 and images.shape[1] <= FEW_CHANNELS and groups == 1 and not isinstance(padding, str)
    return few and images.device.type == "cpu" and images.dtype == weights.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


class _Convolution(torch.autograd.Function):
    """A convolution with torch.conv2d's arguments; its gradient by the image only."""

    @staticmethod
    def forward(ctx: Any, images: torch.Tensor, weights: torch.Tensor, *settings: Any) -> torch.Tensor:
        _, stride, padding, dilation, _ = settings
        ctx.save_for_backward(weights)
        ctx.size = images.shape[2:]
        ctx.window = {"kernel_size": weights.shape[2:], "stride": stride, "padding": padding, "dilation": dilation}
        return torch.conv2d(images, weights, *settings)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (weights,) = ctx.saved_tensors
        windows = weights.flatten(1).T @ gradient.flatten(2)  # what each window adds to its pixels: float [n, C · height · width, windows]
        return nn.functional.fold(windows, ctx.size, **ctx.window), None, None, None, None, None, None
