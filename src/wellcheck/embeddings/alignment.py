"""Whether an image lies along the model's own gradient: that is where an attack moves it, and nature has no reason to.

An attack adds a part of the gradient, too faint to be seen beside the picture. But nearly all of the picture is of low frequency, and the
gradient is not: where natural images hardly vary a faint pattern is loud. So both are divided by what is usual at every frequency, as a
matched filter does that looks for a known signal in coloured noise (Turin 1960, IRE Transactions on Information Theory 6), and their cosine
is taken. That attacks hide a message as steganography does, and are to be looked for where they would hide it, is the idea of Liu et al.
2019 (CVPR, arXiv 1806.09186); their detector is taught with attacked images, this one has seen none.
"""

from dataclasses import dataclass

import numpy as np
import torch

from wellcheck.gradients import answers, as_pixels, blurred, by_image, max_normed, together
from wellcheck.models import Classifier

ROUNDED = 1 / (12 * 255**2)  # the variance of a pixel's rounding to 8 bits: no frequency has less
BLUR = 0.8  # pixels, the standard deviation
NEAR = 1.0  # pixels, the standard deviation of what is thereabouts
FLAT = 0.03  # of what is usual: no part of an image counts as flatter
BATCH = 256
WIDTH = 2  # of the layer: at the image as it is, and blurred
TINY = 1e-12


@dataclass(frozen=True)
class Spectrum:
    """How natural images vary, frequency by frequency."""

    mean: torch.Tensor  # float32 [C, 1, 1], of their pixels
    window: torch.Tensor  # float32 [h, w]: towards the edges less counts, or the jump from one to the opposite were of all frequencies
    whitening: torch.Tensor  # complex64 [h, w, C, C]: what makes of natural images noise of variance one

    @classmethod
    def of(cls, images: np.ndarray, device: torch.device) -> "Spectrum":
        """Of natural images uint8, or float32 in [0, 1], [N, C, H, W]."""
        size, channels = together(images, BATCH), torch.eye(images.shape[1], device=device, dtype=torch.float64)
        batches = [images[start : start + size] for start in range(0, len(images), size)]
        mean = torch.stack([as_pixels(one, device).mean((2, 3), dtype=torch.float64).sum(0) for one in batches]).sum(0) / len(images)
        mean = mean.float()[:, None, None]
        # The root of Hann's window: the window itself would leave less of the image to be seen.
        sides = (torch.hann_window(side + 2, periodic=False, device=device)[1:-1].sqrt() for side in images.shape[2:])
        window = torch.outer(*sides)
        power = ROUNDED * window.square().mean() * channels.expand(*images.shape[2:], -1, -1).to(torch.complex128)
        for one in batches:
            seen = torch.fft.fft2((as_pixels(one, device) - mean) * window, norm="ortho").to(torch.complex128)
            power = power + torch.einsum("nchw,ndhw->hwcd", seen, seen.conj()) / len(images)
        return cls(mean, window, torch.linalg.inv(torch.linalg.cholesky(power)).to(torch.complex64))

    def alignment(self, classifier: Classifier, pixels: torch.Tensor, answer: torch.Tensor) -> torch.Tensor:
        """How far images float [n, C, H, W] in [0, 1] lie along the gradient of their answers int64 [n, 1], float32 [n, 2].

        First along the gradient at the image as it is; then along that at the image blurred, of the same answer: it is more like the one
        that a large attack set out with. Each is the cosine with the image, both whitened, and divided by how rough the image is there; in
        units of what chance would give (one over the root of all values), as its signed logarithm: of natural images within about −2 and 2;
        0 where there is no gradient. The classifier is in evaluation mode. Raises InputError where a gradient is no number.
        """
        image = self._whitened(pixels - self.mean)
        # In a flat part of a picture little is loud, in a rough part much is not.
        rough = blurred(image.square().mean(1, keepdim=True), NEAR).clamp_min(0).sqrt() + FLAT
        image, places = (image / rough).flatten(1), (pixels, blurred(pixels, BLUR))
        gradients = [(self._whitened(_towards(classifier, at, answer)) / rough).flatten(1) for at in places]
        return torch.stack([_signed_log(_cosine(gradient, image)) for gradient in gradients], 1)

    def _whitened(self, maps: torch.Tensor) -> torch.Tensor:
        """Maps float [n, C, H, W], divided at every frequency by what is usual there."""
        seen = torch.fft.fft2(maps * self.window, norm="ortho")
        whitened: torch.Tensor = torch.fft.ifft2(torch.einsum("hwcd,ndhw->nchw", self.whitening, seen), norm="ortho").real
        return whitened


def _towards(classifier: Classifier, pixels: torch.Tensor, answer: torch.Tensor) -> torch.Tensor:
    """The direction [n, C, H, W] in which the answer int64 [n, 1] becomes more likely, its largest value 1; 0 where there is none.

    By the log odds, whose gradient has the direction of the log probability's, and no rounding where that is nearly one.
    """
    with torch.inference_mode(False), torch.enable_grad():  # whatever the caller does without
        asked = pixels.clone().requires_grad_()
        logits, answer = answers(classifier, asked), answer.clone()
        if logits.shape[1] < 2:
            return torch.zeros_like(pixels)
        others = logits.scatter(1, answer, -torch.inf).logsumexp(1)
        gradient = by_image(logits.gather(1, answer)[:, 0] - others, asked)
    return max_normed(gradient)


def _cosine(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Of rows [n, D], times √D: about a standard normal where they have nothing to do with each other; float32 [n]."""
    lengths = torch.linalg.vector_norm(one, dim=1) * torch.linalg.vector_norm(other, dim=1)
    found: torch.Tensor = (one * other).sum(1) * one.shape[1] ** 0.5 / lengths.clamp_min(TINY)
    return found


def _signed_log(values: torch.Tensor) -> torch.Tensor:
    return torch.copysign(values.abs().log1p(), values)
