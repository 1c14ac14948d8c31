"""Do two samples come from one distribution? The maximum mean discrepancy (MMD) of what a model makes of them, layer by layer.

The null hypothesis is exchangeability: who belongs to which sample could have been drawn by lot. So it is drawn by lot, many times, and the
share of draws that differ as much is the p-value; it holds at its level for any kernel and any number of samples. All layers see the same
draws: the largest of their statistics has a null of its own, though layers depend on each other (which Fisher's method denies), and so has
what that says together with layers of another kind.
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import exp, lgamma
from typing import Literal

import numpy as np

from wellcheck.errors import InputError

Kernel = Literal["summed", "aggregated"]

OCTAVES = 5  # Gaussian kernels, each twice as wide, in squares, as the next; the middle one's is the median squared distance
ROWS = 1024  # of a Gram matrix worked on at a time
COLUMNS = 8192  # of a layer
SAME = 1e-6  # of two rows' squared lengths: a squared distance below is rounding
WIDE = 8  # values of a layer: in fewer, two inputs are the same by chance
SAME_INPUT = 1e-4  # of the usual squared distance: one input captured twice had 5e-7 at most, two inputs 9e-3 at least
TIE = 1e-4  # standard deviations: the same draw at another place of a matrix product differs by its rounding
LEAST_SAY = 0.01  # standard deviations: of a layer in which the other queries do not stand out
TINY = 1e-12


@dataclass(frozen=True)
class Comparison:
    """How far apart two samples are."""

    mmd: dict[str, float]  # by layer: the unbiased squared MMD of the kernel that says most
    p_value: dict[str, float]  # by layer
    combined: float  # p-value of all layers together


@np.errstate(over="ignore", invalid="ignore")  # an error says it
def distances(*samples: np.ndarray) -> np.ndarray:
    """Squared Euclidean distances between all rows of samples [n, D], one after another, float32 [N, N]; of equal rows zero.

    Of memory-mapped samples only a part is read at a time. Raises InputError for values that are no numbers or whose squares are none in
    float32, and where all rows are the same: nothing could differ.
    """
    count, shapes = sum(map(len, samples)), {one.shape[1:] for one in samples}
    if len(shapes) != 1 or len(*shapes) != 1 or not count:
        raise InputError(f"twosample: activations must be [N, D] with N of at least 1, found {[list(one.shape) for one in samples]}")
    blocks = [one[start : start + ROWS] for one in samples for start in range(0, len(one), ROWS)]
    broken = ~np.concatenate([np.isfinite(block).all(1) for block in blocks])
    if broken.any():
        where = f"{int(broken.sum())} of {count} rows, the first of them {int(broken.argmax())}"
        raise InputError(f"twosample: activations must be finite numbers, and are not in {where}")
    lengths, squared = np.zeros(count, np.float32), np.zeros((count, count), np.float32)
    for start in range(0, samples[0].shape[1], COLUMNS):
        part = np.concatenate([one[:, start : start + COLUMNS].astype(np.float32) for one in samples])
        part -= part.mean(0, dtype=np.float64).astype(np.float32)  # what all share would cost the products their digits
        lengths += np.einsum("nd,nd->n", part, part)
        for first in range(0, count, ROWS):
            squared[first : first + ROWS] += part[first : first + ROWS] @ part.T
    for first in range(0, count, ROWS):
        rows = slice(first, first + ROWS)
        squared[rows] *= -2
        squared[rows] += lengths[rows, None]
        squared[rows] += lengths
        # Of equal rows a product's rounding is left: among many such it would be the median.
        squared[rows][squared[rows] < SAME * (lengths[rows, None] + lengths)] = 0
        if not np.isfinite(squared[rows]).all():
            raise InputError("twosample: activations are so large that their distances are no numbers: scale them down")
    np.fill_diagonal(squared, 0)
    if count > 1 and not squared.any():
        raise InputError(f"twosample: all {count} rows of the layer are the same: no test can tell samples apart by it")
    return squared


def memberships(inside: np.ndarray, strata: np.ndarray | None, permutations: int, seed: int | Sequence[int]) -> np.ndarray:
    """Who is in the first sample, as it is and in so many draws: bool [1 + permutations, N], the first row being `inside` (bool [N]).

    Members change places within their stratum (int64 [N]) only: what is exchangeable then is who is alike in it.
    """
    if permutations < 1:
        raise InputError(f"twosample: at least 1 permutation is needed, found {permutations}")
    rng = np.random.default_rng(seed)
    drawn = np.empty((permutations + 1, len(inside)), bool)
    drawn[:] = inside
    groups = [slice(None)] if strata is None else [np.flatnonzero(strata == one) for one in np.unique(strata)]
    for group in groups:
        members = int(inside[group].sum())
        if 0 < members < len(inside[group]):  # whoever draws the smallest numbers: faster than a shuffle, and equal ones do not happen
            numbers = rng.random((permutations, len(inside[group])))
            drawn[1:, group] = numbers <= np.partition(numbers, members - 1, axis=1)[:, members - 1, None]
    return drawn


def smallest_p_value(inside: np.ndarray, strata: np.ndarray) -> float:
    """Of all draws of `memberships` that there are, the share that differs as much as the most telling one does, in (0, 1].

    Where it is above the level, nothing can raise an alarm. That draw is one in all; two, where samples that change places are of one size.
    """
    groups = [inside[strata == one] for one in np.unique(strata)]
    sizes = [(len(group), int(group.sum())) for group in groups]
    ways = sum(lgamma(count + 1) - lgamma(members + 1) - lgamma(count - members + 1) for count, members in sizes)
    twins = all(2 * members == count for count, members in sizes)
    return min(1.0, (1 + twins) * exp(-ways))


def compare(layers: Iterable[tuple[str, np.ndarray]], drawn: np.ndarray, *, kernel: Kernel, apart: Collection[str] = ()) -> Comparison:
    """Compare two samples by the squared distances [N, N] of every layer, with `drawn` of `memberships`; distances are not kept.

    MMD²ᵤ of Gretton et al. 2012 (JMLR 13, equation 3). The kernel is a sum of five Gaussians around the median distance, or, `aggregated`,
    the largest of their five statistics (after Schrab et al. 2023, JMLR 24). Statistics are compared in standard deviations of their draws.
    Together layers say what the largest statistic says; those `apart`, which tell of something else, have a voice of their own beside it.
    """
    first, everyone = int(drawn[0].sum()), drawn.shape[1]
    if min(first, everyone - first) < 2:
        raise InputError(f"twosample: both samples must have at least 2 members, found {first} and {everyone - first}")
    weights = drawn.astype(np.float32)
    mmd, p_value = {}, {}
    voices: dict[str | None, np.ndarray] = {}
    for name, squared in layers:
        found = [discrepancies(gram, weights) for gram in grams(squared, kernel)]
        scores = [standardised(one) for one in found]
        score = np.max(scores, axis=0)
        mmd[name] = float(found[int(np.argmax([one[0] for one in scores]))][0])
        p_value[name] = permutation_p_value(score)
        voice = name if name in apart else None
        voices[voice] = np.maximum(voices.get(voice, np.float64(-np.inf)), standardised(score))
    if not mmd:
        raise InputError("twosample: there is no layer to compare")
    return Comparison(mmd, p_value, permutation_p_value(_together(list(voices.values()))))


def _together(voices: Sequence[np.ndarray]) -> np.ndarray:
    """What voices [B] say in one: the sum of their squares with their signs, so that one loud voice is heard, and several low ones too."""
    total = np.zeros_like(voices[0])
    for voice in map(standardised, voices):
        total += np.abs(voice) * voice
    together: np.ndarray = np.sign(total) * np.sqrt(np.abs(total))
    return together


def two_sample_test(
    first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray], *, kernel: Kernel = "summed", permutations: int, seed: int
) -> Comparison:
    """Compare two samples by their activations [n, D] and [m, D], by layer.

    Raises InputError as `distances` and `compare`, and where inputs are in both samples: these would look alike for that reason.
    """
    here, there = _apart({"first sample": first, "second sample": second})
    drawn = memberships(np.arange(here + there) < here, None, permutations, seed)
    return compare(((name, _by_layer(name, first[name], second[name])) for name in first), drawn, kernel=kernel)


def _by_layer(name: str, *samples: np.ndarray) -> np.ndarray:
    """The distances; an error names the layer."""
    try:
        return distances(*samples)
    except InputError as error:
        raise InputError(f"layer {name}: {error}") from None


def _apart(samples: Mapping[str, Mapping[str, np.ndarray]]) -> list[int]:
    """The sizes of samples by name. Raises InputError where they have different layers or ragged ones, or inputs in common."""
    first, layers = next(iter(samples.items()))
    sizes: list[int] = []
    for name, one in samples.items():
        if one.keys() != layers.keys():
            raise InputError(f"twosample: the {first} and the {name} have different layers: {', '.join(layers)} and {', '.join(one)}")
        lengths = {len(values) for values in one.values()}
        if len(lengths) != 1:
            raise InputError(f"twosample: every layer of the {name} must have as many rows as it has members")
        sizes.extend(lengths)
    for (name, one), (other_name, other) in combinations(samples.items(), 2):
        again = shared(one, other)
        if len(again):
            raise InputError(
                f"twosample: {len(again)} of {len(next(iter(other.values())))} inputs of the {other_name} are in the {name} too "
                f"(row {again[0]} is): take them out"
            )
    return sizes


def shared(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]) -> np.ndarray:
    """Rows of the second sample, int64, that are a member of the first, by their activations.

    Whose batch an input was in changes its activations by their rounding. So in most of the layers of at least eight values its squared
    distance must be next to nothing beside that of any two; where no layer has so many, all values must be the same in half precision.
    Where several members of one sample look alike, that another one does too is no sign of its being the same input.
    """
    wide = [
        name
        for name, values in first.items()
        if values.ndim == 2 and values.shape[1] >= WIDE and second[name].shape[1:] == values.shape[1:]
    ]
    if not wide:
        return _same_bits(first, second)
    votes = np.zeros((len(next(iter(first.values()))), len(next(iter(second.values())))), np.int64)
    for name in wide:
        votes += _nearly_same(first[name].astype(np.float32), second[name].astype(np.float32))
    alike = 2 * votes > len(wide)
    once = alike & (alike.sum(0) == 1) & (alike.sum(1, keepdims=True) == 1)
    return np.flatnonzero(once.any(0))


@np.errstate(over="ignore", invalid="ignore")  # what is no number is nobody's double, and an error of `distances`
def _nearly_same(here: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Whether activations [n, D] and [m, D] are next to equal beside what any two are, bool [n, m]."""
    middle = here.mean(0)
    here, there = here - middle, there - middle
    squared = (here**2).sum(1)[:, None] + (there**2).sum(1) - 2 * here @ there.T
    near: np.ndarray = squared <= SAME_INPUT * np.median(squared)
    return near


def _same_bits(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]) -> np.ndarray:
    """Rows of the second sample, int64, with the activations of one member of the first in half precision, as they are kept."""

    def rows(sample: Mapping[str, np.ndarray]) -> list[bytes]:
        digests = [hashlib.blake2b(digest_size=16) for _ in next(iter(sample.values()), [])]
        for values in sample.values():
            for digest, row in zip(digests, values, strict=True):
                with np.errstate(over="ignore"):
                    digest.update(row.astype(np.float16).tobytes())
        return [digest.digest() for digest in digests]

    known, asked = rows(first), rows(second)
    times, again = Counter(known), Counter(asked)
    return np.array([row for row, one in enumerate(asked) if times[one] == again[one] == 1], np.int64)


def grams(squared: np.ndarray, kernel: Kernel) -> Iterator[np.ndarray]:
    """The kernel matrices of squared distances float32 [N, N], float32 [N, N] each: off the diagonal their mean is zero, on it they are.

    A constant taken from every pair changes no discrepancy and saves digits. The median is of the pooled sample, and so the same for all
    draws.
    """
    middle = median_distance(squared)
    yield from map(_centred, (one.copy() for one in _octaves(squared, middle)) if kernel == "aggregated" else [_summed(squared, middle)])


def _octaves(squared: np.ndarray, middle: float) -> Iterator[np.ndarray]:
    """A Gaussian for every octave about the middle squared distance, the widest first, float32 as `squared`, all in one place.

    exp(−d / 2s) squared is exp(−d / s): one exponential gives all.
    """
    gaussian = np.exp(squared / np.float32(-middle * 2 ** (OCTAVES // 2)))
    for octave in range(OCTAVES):
        if octave:
            gaussian *= gaussian
        yield gaussian


def _summed(squared: np.ndarray, middle: float) -> np.ndarray:
    """All octaves together, float32 [N, N]."""
    summed = np.zeros_like(squared)
    for start in range(0, len(squared), ROWS):  # a block stays in the cache, and no second matrix is needed
        rows = slice(start, start + ROWS)
        for gaussian in _octaves(squared[rows], middle):
            summed[rows] += gaussian
    return summed


def _centred(gram: np.ndarray) -> np.ndarray:
    np.fill_diagonal(gram, 0)
    gram -= np.float32(gram.sum(dtype=np.float64) / (len(gram) * (len(gram) - 1)))
    np.fill_diagonal(gram, 0)
    return gram


def median_distance(squared: np.ndarray) -> float:
    """The median of the squared distances [N, N] of all pairs; of those that are not the same, if most are. 1 if all are."""
    pairs = np.concatenate([row[place + 1 :] for place, row in enumerate(squared)])
    return _median(pairs) or _median(pairs[pairs > 0]) if pairs.any() else 1.0


def _median(values: np.ndarray) -> float:
    """As NumPy's, of one partition instead of two: half of the time."""
    half = len(values) // 2
    values = np.partition(values, half)
    return float(values[half] if len(values) % 2 else (values[:half].max() + values[half]) / 2)


def discrepancies(gram: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The unbiased squared MMD of every draw, float64 [B]: gram float32 [N, N] with a zero diagonal; weights a, float32 [B, N], in {0, 1}.

    One matrix product for all draws: of Ka the sum over the first sample is that within it, the sum over everybody that from it to all.
    """
    first = int(weights[0].sum())
    second = len(gram) - first
    products = weights @ gram
    reached = products.sum(1, dtype=np.float64)
    products *= weights
    within = products.sum(1, dtype=np.float64)
    between, other = reached - within, gram.sum(dtype=np.float64) - 2 * reached + within
    found: np.ndarray = within / (first * (first - 1)) + other / (second * (second - 1)) - 2 * between / (first * second)
    return found


def standardised(statistics: np.ndarray) -> np.ndarray:
    """In standard deviations from the mean of all draws, float64 [B]; the draw that was made counts as one of them, for so it is exact."""
    apart: np.ndarray = statistics - statistics.mean()
    return apart / max(float(apart.std()), TINY)


def permutation_p_value(scores: np.ndarray) -> float:
    """The share of draws whose score [B] is as large as that of the first, which counts (Phipson and Smyth 2010): never zero."""
    return float((scores >= scores[0] - TIE).mean())


def matched(available: np.ndarray, wanted: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rows of a reference with the queries' mix of classes, int64 [n]: for every query one of its class at random, if there are as many.

    available: int64 [R], the classes that the model sees in the reference; wanted: int64 [m], in the queries.
    """
    order = rng.permutation(len(available))
    chosen = []
    for label, count in zip(*np.unique(wanted, return_counts=True), strict=True):
        chosen.append(order[available[order] == label][:count])
    return np.sort(np.concatenate(chosen)) if chosen else np.empty(0, np.int64)


@dataclass(frozen=True)
class Suspicion:
    """How much each of m queries looks like the other queries, and not like the reference."""

    witness: np.ndarray  # float64 [m], in deviations of natural inputs, summed as far as each layer tells the others: more is suspicious
    p_value: np.ndarray  # float64 [m], the share of natural inputs that look as much so


def suspicions(queries: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray], calibration: Mapping[str, np.ndarray]) -> Suspicion:
    """Score every query by the MMD's witness function, signed, and make a conformal p-value of it.

    The witness at x is the mean kernel to the other queries less that to the reference (Gretton et al. 2012, section 2.3). Natural inputs
    that are in neither (`calibration`) are held against the same queries less the one that is scored, so that a natural query ranks among
    them by lot (Vovk et al. 2005, section 2.2). All three: activations [n, D] by layer. Raises InputError where their layers do not fit,
    a sample is too small, or an input is in two of them: it would look as natural as itself.
    """
    _apart({"queries": queries, "reference": reference, "calibration": calibration})
    return ranked(queries, reference, calibration)


def ranked(queries: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray], calibration: Mapping[str, np.ndarray]) -> Suspicion:
    """`suspicions` of samples that are known to be apart, though images may look alike. Raises InputError where one is too small."""
    total = np.zeros(1)
    for name, asked in queries.items():
        witness, others = _witness(name, asked, reference[name], calibration[name])
        middle, spread = witness.mean(0), witness.std(0).clip(TINY)
        # A layer has a say as far as the others stand out in it: by the square, or many that tell little outvote the one that tells much.
        # Who is scored has none in that: not even as what the others resemble.
        total = total + np.maximum((others - middle) / spread, LEAST_SAY) ** 2 * (witness - middle) / spread
    total = (total - total.mean(0)) / total.std(0).clip(TINY)  # whatever batch it was, and whoever else was in it
    return Suspicion(total[0], (total >= total[0] - TIE).mean(0))


def _witness(name: str, queries: np.ndarray, reference: np.ndarray, calibration: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The witness of the other queries, once for every query: at itself and at each natural input, float64 [1 + c, m].

    Beside it the mean, over these other queries, of what the witness of all others but itself and this query is at each, float64 [m].
    """
    count, known = len(queries), len(reference)
    if min(count, known) < 2 or not len(calibration):
        raise InputError(
            f"twosample: at least 2 queries, 2 of reference and 1 of calibration are needed, found {count}, {known} and {len(calibration)}"
        )
    squared = _by_layer(name, queries, reference, calibration)
    asked, of_reference, natural = slice(0, count), slice(count, count + known), slice(count + known, None)
    near = _summed(squared, median_distance(squared[of_reference, of_reference]))
    np.fill_diagonal(near, 0)
    to_reference = near[:, of_reference].mean(1, dtype=np.float64)
    to_queries = near[:, asked].sum(1, dtype=np.float64)
    at_itself = to_queries[asked] / (count - 1) - to_reference[asked]
    at_natural = (to_queries[natural, None] - near[natural, asked]) / (count - 1) - to_reference[natural, None]
    # Of two queries the other one has nobody to resemble.
    alike = (to_queries[asked].sum() - 2 * to_queries[asked]) / max((count - 1) * (count - 2), 1)
    beside = (to_reference[asked].sum() - to_reference[asked]) / (count - 1)
    return np.concatenate([at_itself[None], at_natural]), alike - beside
