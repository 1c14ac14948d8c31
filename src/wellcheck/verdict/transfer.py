"""Does a group carry something that, put on other images, makes the model answer the group's label?

What is common to the group and not to its content is estimated by the mean difference of its images to others of the same content. Put on
images of other classes it is a test with a control: a model that never saw the group must not fall for it.
"""

from dataclasses import dataclass

import numpy as np
import torch

from wellcheck.predictions import predict
from wellcheck.samples import Samples
from wellcheck.verdict.witness import Witness

MATCHES = 5  # images of the same content for every one of the group
TESTED = 400  # images of other classes
STRENGTHS = (1.0, 2.0)  # of the difference
BATCH = 1024
LARGEST = 1000  # images of a group that are matched


@dataclass(frozen=True)
class Pattern:
    """What a group carries: images become (1 − weight)·image + weight·colour + difference."""

    difference: np.ndarray  # float32 [C, H, W], 255 is white
    weight: np.ndarray  # float32 [H, W] in [0, 1]: 1 where the whole group shows the same
    colour: np.ndarray  # float32 [C, H, W] in [0, 255]

    def add(self, images: np.ndarray, strength: float) -> np.ndarray:
        """Images uint8 [N, C, H, W] with the difference on them."""
        added: np.ndarray = (images + strength * self.difference).round().clip(0, 255).astype(np.uint8)
        return added

    def paste(self, images: np.ndarray) -> np.ndarray:
        """Images uint8 [N, C, H, W] with what the whole group shows in place of their own pixels."""
        pasted: np.ndarray = ((1 - self.weight) * images + self.weight * self.colour).round().clip(0, 255).astype(np.uint8)
        return pasted


@dataclass(frozen=True)
class Transfer:
    """What happens to images of other classes once they carry the group's pattern."""

    pattern: Pattern
    turned: float  # share that the suspected model answers as the group's label though their content can still be read
    legible: float  # share that the reference, which never saw the group, answers as it did before


def common(train: Samples, members: np.ndarray, content: np.ndarray, features: torch.Tensor, ordinary: np.ndarray) -> Pattern:
    """The pattern of a group (rows int64 [n]), against ordinary images that the reference holds to be alike.

    content: int64 [N], the class that each sample shows to the reference; features: its penultimate layer, float [N, D]; ordinary: bool
    [N], those that nobody suspects.
    """
    members = members[:LARGEST]
    matched = np.empty((len(members), MATCHES), np.int64)
    for shown in np.unique(content[members]):
        mine = np.flatnonzero(content[members] == shown)
        others = np.flatnonzero(ordinary & (content == shown))
        if len(others) < MATCHES:
            others = np.flatnonzero(ordinary)
        distance = torch.cdist(features[members[mine]], features[others])
        matched[mine] = others[distance.topk(MATCHES, largest=False).indices.numpy()]
    group = train.images[members].astype(np.float32)
    alike = train.images[matched.ravel()].astype(np.float32)
    spread, usual = group.var(0).mean(0), alike.var(0).mean(0)
    same = np.clip(1 - spread / np.maximum(usual, 1.0), 0, 1)
    # What the whole group shows alike counts only where the others do not show the same.
    contrast = np.abs(group.mean(0) - alike.mean(0)).max(0)
    weight = np.where((same > 0.5) & (contrast > 32), same, 0)
    return Pattern(group.mean(0) - alike.mean(0), weight.astype(np.float32), group.mean(0))


def try_on_others(
    pattern: Pattern, label: int, images: np.ndarray, suspected: Witness, reference: Witness, device: torch.device
) -> Transfer:
    """Put the pattern on images uint8 [n, C, H, W] of other classes, in each way that it can be put on; the most telling way counts."""
    ways = [pattern.add(images, strength) for strength in STRENGTHS]
    if pattern.weight.any():
        ways.append(pattern.paste(images))
    content = _answers(reference, images, device)
    found = []
    for changed in ways:
        kept = _answers(reference, changed, device) == content
        turned = _answers(suspected, changed, device) == label
        found.append(Transfer(pattern, float((turned & kept).mean()), float(kept.mean())))
    return max(found, key=lambda one: one.turned)


def _answers(witness: Witness, images: np.ndarray, device: torch.device) -> np.ndarray:
    return predict(witness.classifier, images, device=device, title="transfer").labels


@torch.inference_mode()
def features_of(witness: Witness, images: np.ndarray, device: torch.device) -> torch.Tensor:
    """The penultimate layer of a witness, float [N, D], on the CPU."""
    embed = witness.classifier.embed
    return torch.cat([embed(part.to(device)).cpu() for part in torch.from_numpy(images).split(BATCH)])
