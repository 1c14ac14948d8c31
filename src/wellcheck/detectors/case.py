"""What a detector may see: the samples as delivered, and what the model trained on them makes of them. Nothing that was planted."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch

from wellcheck.detectors.directions import Axes, principal
from wellcheck.detectors.side_by_side import side_by_side
from wellcheck.errors import InputError
from wellcheck.models import Classifier

ROWS = 4096  # checked at once
LEADING = 10  # principal directions of a label
Result = TypeVar("Result")


@dataclass(frozen=True)
class Case:
    """One delivered training set of N samples and its model. A detector that needs a part that is not there raises InputError."""

    labels: np.ndarray  # int64 [N], as received
    classes: int
    layers: Mapping[str, np.ndarray] = field(default_factory=dict)  # float16 [N, D] by layer, memory-mapped
    seed: int = 0
    map_rows: np.ndarray | None = None  # int64 [n], the samples that are on the t-SNE map
    map_places: np.ndarray | None = None  # float [n, 2]
    early_losses: np.ndarray | None = None  # float [E, N], nats, after each of the first epochs
    images: np.ndarray | None = None  # uint8 [N, C, H, W]
    classifier: Classifier | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    trusted: "Case | None" = None  # samples somebody vouches for, seen by the same model
    _checked: set[str] = field(default_factory=set, init=False, repr=False, compare=False)  # layers known to hold numbers only
    _leading: dict[str, dict[int, Axes]] = field(default_factory=dict, init=False, repr=False, compare=False)  # by layer and label

    def layer(self, name: str) -> np.ndarray:
        """One layer, float [N, D]. Raises InputError if it was not embedded, or holds what is not a number."""
        if name not in self.layers:
            raise InputError(f"the embeddings have no layer '{name}' (they have {', '.join(self.layers) or 'none'}): see embed.layers")
        if name not in self._checked:
            _check(name, self.layers[name], len(self.labels))
            self._checked.add(name)
        return self.layers[name]

    def model(self) -> tuple[Classifier, np.ndarray]:
        """The model and the images uint8 [N, C, H, W] for detectors that ask it. Raises InputError if either is missing."""
        if self.classifier is None or self.images is None:
            raise InputError("this detector asks the model about images, and was given none")
        return self.classifier, self.images

    def vouched(self) -> "Case":
        """The trusted samples. Raises InputError if nobody vouches for any."""
        if self.trusted is None:
            raise InputError("this detector needs samples somebody vouches for: set detect.trusted: valid")
        return self.trusted

    def members(self, *, at_least: int = 1) -> Iterator[tuple[int, np.ndarray]]:
        """Every label with enough samples, and its rows int64 [n]."""
        counts = np.bincount(self.labels)
        for label in np.flatnonzero(counts >= max(at_least, 1)).tolist():
            yield label, np.flatnonzero(self.labels == label)

    def leading(self, name: str) -> Callable[[int], Axes]:
        """What gives a label the ten principal directions of its samples in a layer: found once, whichever detector asks first."""
        features, found = self.layer(name), self._leading.setdefault(name, {})

        def axes(label: int) -> Axes:
            if label not in found:
                found[label] = principal(features, np.flatnonzero(self.labels == label), count=LEADING, seed=self.seed)
            return found[label]

        return axes

    def by_label(self, work: Callable[[int, np.ndarray], Result], *, at_least: int = 1) -> list[Result]:
        """What the work makes of every label with enough samples and of its rows int64 [n], labels side by side on all cores."""
        # The largest first, so that no core is left with it at the end.
        begun = sorted(self.members(at_least=at_least), key=lambda one: -len(one[1]))
        made = side_by_side(lambda one: work(*one), begun)
        return [made[place] for place in np.argsort([label for label, _ in begun])]


def _check(name: str, values: np.ndarray, count: int) -> None:
    """Raises InputError for a layer of another length, or rows that are not numbers: whatever a detector made of them would be wrong."""
    if len(values) != count:
        raise InputError(f"embeddings, layer '{name}': {len(values):,} rows, but there are {count:,} labels")
    bad = sum(_rows_of_no_numbers(values[start : start + ROWS]) for start in range(0, len(values), ROWS))
    if bad:
        raise InputError(f"embeddings, layer '{name}': {bad:,} of {len(values):,} rows hold NaN or infinity: retrain, or embed again")


def _rows_of_no_numbers(values: np.ndarray) -> int:
    """How many rows hold NaN or infinity: of half precision by the bits, a tenth of the time."""
    if values.dtype == np.float16:
        exponent = np.uint16(0x7C00)
        broken = (np.ascontiguousarray(values).view(np.uint16) & exponent) == exponent
    else:
        broken = ~np.isfinite(values)
    return int(broken.any(1).sum()) if broken.any() else 0
