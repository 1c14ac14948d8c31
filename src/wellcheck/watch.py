"""How often the two-sample test tells traffic from natural inputs, and which single inputs it suspects."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from wellcheck.embeddings.alignment import Spectrum
from wellcheck.embeddings.named_layers import ALIGNMENT, OF_ANSWERS, Captured, capture_layers, choose_layers, layer_widths
from wellcheck.errors import InputError
from wellcheck.metrics import Interval, proportion_interval, ranking
from wellcheck.models import Classifier
from wellcheck.params import TwoSample
from wellcheck.progress import progress
from wellcheck.twosample import compare, distances, matched, memberships, ranked, smallest_p_value

LEAST = 10  # test images
LEAST_REFERENCE = 2  # natural inputs to compare queries with
BYTES = 18  # of an activation: captured, compared, natural and other ones apart and together; 14 to 18 were measured
NORM_SHARE = 0.2  # of the test images, which say what is usual; the others are reference and queries by turns
SHRINKAGE = 0.1  # of a covariance towards a multiple of the identity
WIDEST = 1024  # of a layer that is whitened: of wider ones each value is scaled by itself
TINY = 1e-12


@dataclass(frozen=True)
class Norm:
    """What is usual for a layer: the mean of every class that the model sees, and how activations scatter about it."""

    means: np.ndarray  # float32 [K, D]
    whitening: np.ndarray  # float32 [D, d], or [D] where the layer is wide

    @classmethod
    def of(cls, values: np.ndarray, labels: np.ndarray, classes: int) -> "Norm":
        """Fit to values [N, D] of natural inputs, answered as labels int64 [N]; a class of fewer than two has the mean of all."""
        values = values.astype(np.float32)
        means = np.tile(values.mean(0), (classes, 1))
        for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
            if count > 1:
                means[label] = values[labels == label].mean(0)
        apart = values - means[labels]
        variance = max(float(apart.var()), TINY)
        if values.shape[1] > WIDEST:
            return cls(means, 1 / np.sqrt(apart.var(0) + SHRINKAGE * variance))
        covariance = apart.T.astype(np.float64) @ apart / len(apart) + SHRINKAGE * variance * np.eye(values.shape[1])
        lengths, axes = np.linalg.eigh(covariance)
        return cls(means, (axes / np.sqrt(lengths)).astype(np.float32))

    def apply(self, values: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """How far values [N, D] lie from the mean of the class they are answered as, in units of what is usual; float32 [N, d]."""
        apart = values.astype(np.float32) - self.means[labels]
        found: np.ndarray = apart @ self.whitening if self.whitening.ndim == 2 else apart * self.whitening
        return found


@dataclass(frozen=True)
class Watch:
    """A model, what its layers make of natural inputs, and how traffic is compared with that."""

    classifier: Classifier
    settings: TwoSample
    device: torch.device
    layers: list[str]
    silent: list[str]  # layers left out: natural inputs do not move them
    norms: Mapping[str, Norm]  # by layer; none where activations are taken as they are
    spectrum: Spectrum | None  # of natural images; None where no layer asks for it
    rows: np.ndarray  # int64 [n], of the images: those that are queries and reference by turns
    natural: Captured  # these

    @classmethod
    def over(cls, classifier: Classifier, images: np.ndarray, settings: TwoSample, device: torch.device) -> "Watch":
        """Watch a classifier by natural images uint8 [N, C, H, W].

        Raises InputError for too few, for a layer that is none, and where all layers are silent.
        """
        if len(images) < LEAST:
            raise InputError(f"twosample: at least {LEAST} natural images are needed, found {len(images)}")
        names = choose_layers(classifier, settings.layers, device)
        _fits(layer_widths(classifier, names, settings.pooling, device), len(images))
        order = np.random.default_rng([settings.seed, *b"norm"]).permutation(len(images))
        usual, rows = np.split(order, [round(NORM_SHARE * len(order))])
        spectrum = Spectrum.of(images[usual], device) if ALIGNMENT in names else None
        title = "layers of natural inputs"
        whole = capture_layers(classifier, images, names, pooling=settings.pooling, device=device, title=title, spectrum=spectrum)
        silent = [name for name in names if (whole.layers[name][rows] == whole.layers[name][rows[0]]).all()]
        heard = [name for name in names if name not in silent]
        if not heard:
            raise InputError(f"twosample.layers: {', '.join(silent)}: the same for all natural inputs, so nothing can be told by it")
        classes = len(classifier.description.class_names)
        # Whether an image lies along a gradient is in units of chance, and has nothing to do with the class.
        fitted = [name for name in heard if name != ALIGNMENT] if settings.features == "whitened" else []
        norms = {name: Norm.of(whole.layers[name][usual], whole.labels[usual], classes) for name in fitted}
        rows = np.sort(rows)
        natural = {name: _normed(norms, name, whole.layers[name][rows], whole.labels[rows]) for name in heard}
        return cls(classifier, settings, device, heard, silent, norms, spectrum, rows, Captured(natural, whole.labels[rows]))

    def see(self, images: np.ndarray, title: str) -> Captured:
        """What the layers make of queries, uint8 [n, C, H, W] or float32 in [0, 1], as they are compared."""
        pooling, spectrum = self.settings.pooling, self.spectrum
        found = capture_layers(self.classifier, images, self.layers, pooling=pooling, device=self.device, title=title, spectrum=spectrum)
        return Captured({name: _normed(self.norms, name, values, found.labels) for name, values in found.layers.items()}, found.labels)

    def changed_answers(self, other: Captured) -> float:
        """The share of the natural inputs that the model answers otherwise when they come as `other`."""
        return float((other.labels != self.natural.labels).mean())

    @property
    def size(self) -> int:
        """Queries at a time: there must be as many natural inputs to compare them with."""
        return min(self.settings.samples, len(self.rows) // 2)

    def alarms(self, other: Captured, shares: Sequence[float], confidence: float) -> list[dict[str, Any]]:
        """How often the test raises an alarm where a share of the queries, in [0, 1], comes as `other`: natural ones, changed.

        For every share; by layer, and by all together with Wilson's interval; with how many natural inputs the queries were compared on
        average, and the share of tests in which there were none to compare them with: these raise no alarm.
        """
        found = []
        for share, (p_values, references) in zip(shares, self.p_values(other, shares), strict=True):
            hits, trials = (p_values <= self.settings.level).sum(0).tolist(), len(p_values)
            found.append(
                {
                    "queries": self.size,
                    "changed": self.changed(share),
                    "reference": float(references.mean()),
                    "not_compared": float((references < LEAST_REFERENCE).mean()),
                    "layers": {name: hit / trials for name, hit in zip(self.layers, hits[:-1], strict=True)},
                    "combined": hits[-1] / trials,
                    "combined_interval": proportion_interval(hits[-1], trials, confidence),
                }
            )
        return found

    def p_values(self, other: Captured, shares: Sequence[float]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """For every share the p-values of all trials, float64 [T, L + 1]: of every layer and, last, of all together.

        Beside them with how many natural inputs the queries were compared, int64 [T]. Who is query and who may be reference is drawn anew
        for every trial.
        """
        count, both = len(self.rows), self.natural.joined(other)
        space = {name: distances(values) for name, values in both.layers.items()}
        for share in shares:
            found = np.empty((self.settings.trials, len(self.layers) + 1))
            references = np.empty(len(found), np.int64)
            with progress("tests", len(found), "trials") as advance:
                for trial in range(len(found)):
                    order = np.random.default_rng([self.settings.seed, trial, *b"queries"]).permutation(count)
                    asked, rest = order[: self.size].copy(), order[self.size :]
                    asked[: self.changed(share)] += count
                    found[trial], references[trial] = self._test(space, both.labels, asked, rest, trial)
                    advance(1)
            yield found, references

    def changed(self, share: float) -> int:
        """How many of the queries that is: at least one, unless none is."""
        return max(1, round(share * self.size)) if share else 0

    def _test(
        self, space: Mapping[str, np.ndarray], labels: np.ndarray, asked: np.ndarray, rest: np.ndarray, trial: int
    ) -> tuple[list[float], int]:
        """By layer and, last, of all together; and the size of the reference.

        It has the mix of classes that the model sees in the queries (rows int64 [n]), where there are as many natural inputs of each. Who
        is in which sample is drawn within classes: there natural queries and the reference are exchangeable. Where next to no natural input
        is answered as the queries are, there is nothing to compare them with: no alarm.
        """
        seed = [self.settings.seed, trial]
        beside = rest[matched(labels[rest], labels[asked], np.random.default_rng([*seed, *b"reference"]))]
        both = np.concatenate([asked, beside])
        inside = np.arange(len(both)) < len(asked)
        if len(beside) < LEAST_REFERENCE or smallest_p_value(inside, labels[both]) > self.settings.level:
            return [1.0] * (len(self.layers) + 1), 0
        drawn = memberships(inside, labels[both], self.settings.permutations, [*seed, *b"draws"])
        near = np.ix_(both, both)
        layers = ((name, squared[near]) for name, squared in space.items())
        one = compare(layers, drawn, kernel=self.settings.kernel, apart=OF_ANSWERS)
        return [*one.p_value.values(), one.combined], len(beside)

    def score(self, other: Captured) -> "Scored":
        """Score every query once, in batches, half of each as it is and half as in `other`, at random.

        Of the natural inputs that are not in the batch half are the reference, and among the others each query ranks.
        """
        rng = np.random.default_rng([self.settings.seed, *b"score"])
        parts, least = [], 0.0
        for rows in np.array_split(rng.permutation(len(self.rows)), max(1, len(self.rows) // self.size)):
            rest = rng.permutation(np.setdiff1d(np.arange(len(self.rows)), rows))
            reference, calibration = np.array_split(rest, 2)
            changed = np.arange(len(rows)) < len(rows) // 2
            known = self.natural.layers
            mixed = {name: np.where(changed[:, None], other.layers[name][rows], known[name][rows]) for name in self.layers}
            beside, calibrating = ({name: known[name][part] for name in self.layers} for part in (reference, calibration))
            found = ranked(mixed, beside, calibrating)
            parts.append((rows, changed, found.witness, found.p_value))
            least = max(least, 1 / (1 + len(calibration)))
        rows, changed, witness, p_value = (np.concatenate(column) for column in zip(*parts, strict=True))
        return Scored(rows, changed, witness, p_value, least)


def _fits(widths: Mapping[str, int], images: int) -> None:
    """Raises InputError where watching layers of these widths by so many images takes more memory than the machine has."""
    inputs = 2 * round((1 - NORM_SHARE) * images)  # natural ones, and as many to compare with them
    needed = sum(BYTES * width * inputs + 4 * inputs**2 for width in widths.values())
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise InputError(
            f"twosample: {len(widths)} layers of {images:,} images need {needed / 2**30:.1f} GiB of memory, and this machine has "
            f"{there / 2**30:.1f}: lower twosample.images, or name fewer of twosample.layers"
        )


def _normed(norms: Mapping[str, Norm], name: str, values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """As it is compared: whitened, where the layer has a norm."""
    return norms[name].apply(values, labels) if name in norms else values


@dataclass(frozen=True)
class Scored:
    """Single queries among others, half of which were changed; a row for each."""

    rows: np.ndarray  # int64 [n], of the watch's natural inputs
    changed: np.ndarray  # bool [n]
    witness: np.ndarray  # float64 [n]
    p_value: np.ndarray  # float64 [n]
    least: float  # no p-value can be smaller, for a query ranks among so many natural inputs only

    def figures(self, level: float, confidence: float) -> dict[str, float | Interval | None]:
        """AUROC, how many changed ones are flagged at the level, and how many natural ones: None where there are too few to flag any."""
        found: dict[str, float | Interval | None] = {"auroc": ranking(self.witness, self.changed)["auroc"], "samples": len(self.rows)}
        if self.least > level:
            return found | {"flagged": None, "false_flag_rate": None, "false_flag_interval": None}
        flagged = self.p_value <= level
        wrong, natural = int((flagged & ~self.changed).sum()), int((~self.changed).sum())
        return found | {
            "flagged": float(flagged[self.changed].mean()),
            "false_flag_rate": wrong / natural,
            "false_flag_interval": proportion_interval(wrong, natural, confidence),
        }
