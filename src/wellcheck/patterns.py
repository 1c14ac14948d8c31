"""What some images carry beside their content: how it is put on others, and how it is kept."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from wellcheck.artifacts import first_line, read_tensors, write_tensors
from wellcheck.errors import InputError

# Times the difference, where once does not do: a group has innocent images too, and poison may carry a part of its trigger only.
STRONGER = (2.0, 3.0)
BENT = 1.5  # times the displacement
KNOTS = 4  # a side, of the grid that a displacement is drawn through
Put = Callable[[np.ndarray], np.ndarray]  # on images uint8 [N, C, H, W]


@dataclass(frozen=True)
class Pattern:
    """What a group carries: something added, something pasted, or a displacement of all pixels."""

    difference: np.ndarray  # float32 [C, H, W], 255 is white
    weight: np.ndarray  # float32 [H, W] in [0, 1]: 1 where the whole group shows the same
    colour: np.ndarray  # float32 [C, H, W] in [0, 255]
    displacement: np.ndarray  # float32 [2, 4, 4]: by how many rows and columns further off the pixels come from, smooth in between

    def ways(self, *, harder: bool) -> list[tuple[str, Put]]:
        """How it is put on images: added as it is and, if `harder`, stronger, bent and pasted."""
        strengths = (1.0, *STRONGER) if harder else (1.0,)
        found: list[tuple[str, Put]] = [("added", functools.partial(self.add, strength=strength)) for strength in strengths]
        if harder and self.displacement.any():
            found.append(("bent", functools.partial(self.bend, strength=BENT)))
        if harder and self.weight.any():
            found.append(("pasted", self.paste))
        return found

    def add(self, images: np.ndarray, strength: float) -> np.ndarray:
        """Images uint8 [N, C, H, W] with the difference on them."""
        return added(images, self.difference, strength)

    def taken_off(self, images: np.ndarray, *, bent: bool) -> np.ndarray:
        """Images uint8 [N, C, H, W] with the difference subtracted, or bent the other way as far as others are bent to try it."""
        return self.bend(images, strength=-BENT) if bent else self.add(images, strength=-1.0)

    def paste(self, images: np.ndarray) -> np.ndarray:
        """Images uint8 [N, C, H, W] with what the whole group shows in place of their own pixels."""
        pasted: np.ndarray = ((1 - self.weight) * images + self.weight * self.colour).round().clip(0, 255).astype(np.uint8)
        return pasted

    def bend(self, images: np.ndarray, strength: float) -> np.ndarray:
        """Images uint8 [N, C, H, W] with their pixels displaced."""
        changed: np.ndarray = bent(images, strength * self.displacement).round().clip(0, 255).astype(np.uint8)
        return changed


def added(images: np.ndarray, difference: np.ndarray, strength: float) -> np.ndarray:
    """Images uint8 [N, C, H, W] with so many times a difference float [C, H, W] on them, 255 is white."""
    changed: np.ndarray = (images + strength * difference).round().clip(0, 255).astype(np.uint8)
    return changed


def bent(images: np.ndarray, displacement: np.ndarray) -> np.ndarray:
    """Images [N, C, H, W] whose pixels come from so many rows and columns further off (float [2, g, g]), float32."""
    import torch  # here: the report reads patterns, and starts without it
    from torch.nn.functional import grid_sample

    height, width = images.shape[2:]
    offset = torch.from_numpy(between_knots(height, width) @ displacement.reshape(2, -1).T).view(height, width, 2).flip(2)
    rows, columns = torch.linspace(-1, 1, height), torch.linspace(-1, 1, width)
    still = torch.stack(torch.meshgrid(rows, columns, indexing="ij")[::-1], 2)
    grid = still + offset * 2 / torch.tensor([max(width - 1, 1), max(height - 1, 1)])
    pixels = torch.from_numpy(images).float()
    return grid_sample(pixels, grid.expand(len(images), -1, -1, -1), padding_mode="border", align_corners=True).numpy()


@functools.cache
def between_knots(height: int, width: int) -> np.ndarray:
    """What each knot of the grid adds to every pixel, float32 [H·W, g²]: bicubic in between."""
    import torch
    from torch.nn.functional import interpolate

    knots = torch.eye(KNOTS * KNOTS).view(-1, 1, KNOTS, KNOTS)
    return interpolate(knots, (height, width), mode="bicubic", align_corners=True).flatten(1).T.contiguous().numpy()


def write(path: Path, patterns: Mapping[int, Pattern]) -> None:
    """Patterns by label, a tensor `<label>.<part>` for every part."""
    write_tensors(path, {f"{label}.{part}": values for label, one in patterns.items() for part, values in vars(one).items()})


def read(path: Path) -> dict[int, Pattern]:
    """Patterns by label. Raises InputError naming the file if it holds something else."""
    tensors = read_tensors(path)
    try:
        return {
            int(label): Pattern(*(tensors[f"{label}.{part.name}"] for part in fields(Pattern)))
            for label in dict.fromkeys(name.split(".")[0] for name in tensors)
        }
    except (KeyError, ValueError) as error:
        raise InputError(f"{path}: not readable as patterns of labels ({first_line(error)})") from None
