"""Two ways to measure a perturbation, and what a step of an attack needs of each: the steepest direction, the ball, a point in it."""

import math
from typing import Protocol

import torch

from wellcheck.gradients import max_normed


class Norm(Protocol):
    """Perturbations are float [n, C, H, W], in units of white."""

    def size(self, perturbation: torch.Tensor) -> torch.Tensor:
        """The norm of each, float [n]."""

    def largest(self, pixels: int) -> float:
        """The size of the largest perturbation there is: every one of so many pixels from black to white."""

    def steepest(self, gradient: torch.Tensor) -> torch.Tensor:
        """The perturbation of size 1 along which a loss with this gradient rises most; none where the gradient is zero."""

    def project(self, perturbation: torch.Tensor, epsilon: float) -> torch.Tensor:
        """The nearest perturbation of at most this size."""

    def within(self, like: torch.Tensor, epsilon: float, generator: torch.Generator) -> torch.Tensor:
        """A perturbation drawn uniformly from the ball, for every image of `like`."""

    def around(self, like: torch.Tensor, epsilon: float, generator: torch.Generator) -> torch.Tensor:
        """One of exactly this size in a random direction, for every image of `like`."""


class Linf:
    """The largest change of any pixel."""

    def size(self, perturbation: torch.Tensor) -> torch.Tensor:
        return perturbation.flatten(1).abs().amax(1)

    def largest(self, pixels: int) -> float:
        return 1.0

    def steepest(self, gradient: torch.Tensor) -> torch.Tensor:
        return gradient.sign()

    def project(self, perturbation: torch.Tensor, epsilon: float) -> torch.Tensor:
        return perturbation.clamp(-epsilon, epsilon)

    def within(self, like: torch.Tensor, epsilon: float, generator: torch.Generator) -> torch.Tensor:
        return epsilon * (2 * torch.rand(like.shape, generator=generator).to(like.device) - 1)

    def around(self, like: torch.Tensor, epsilon: float, generator: torch.Generator) -> torch.Tensor:
        return epsilon * (2 * torch.randint(0, 2, like.shape, generator=generator).to(like.device, like.dtype) - 1)


class _L2:
    """The Euclidean length of the change over all pixels."""

    def size(self, perturbation: torch.Tensor) -> torch.Tensor:
        length: torch.Tensor = torch.linalg.vector_norm(perturbation.flatten(1), dim=1)
        return length

    def largest(self, pixels: int) -> float:
        return float(pixels**0.5)

    def steepest(self, gradient: torch.Tensor) -> torch.Tensor:
        scaled = max_normed(gradient)
        return scaled / self.size(scaled).clamp(min=1)[:, None, None, None]

    def project(self, perturbation: torch.Tensor, epsilon: float) -> torch.Tensor:
        return perturbation * (epsilon / self.size(perturbation).clamp(min=epsilon))[:, None, None, None]

    def within(self, like: torch.Tensor, epsilon: float, generator: torch.Generator) -> torch.Tensor:
        # The length of a uniform point in d dimensions is distributed as the d-th root of a uniform number.
        share = torch.rand(len(like), generator=generator).to(like.device) ** (1 / math.prod(like.shape[1:]))
        return self.around(like, epsilon, generator) * share[:, None, None, None]

    def around(self, like: torch.Tensor, epsilon: float, generator: torch.Generator) -> torch.Tensor:
        return epsilon * self.steepest(torch.randn(like.shape, generator=generator).to(like.device))


LINF: Norm = Linf()
L2: Norm = _L2()
