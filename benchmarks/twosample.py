"""How fast the two-sample test is beside the loops in use, and how its time and memory grow.

    python benchmarks/twosample.py --rounds 3

All start from activations of 500 + 500 inputs, 512 wide, and draw 1,000 times. `index loop`: one Gram matrix, taken apart by a permutation
of its rows and columns for every draw, as TorchDrift and alibi-detect do. `LADIS`: the public procedure of article A2's authors, a biased
V-statistic whose null is drawn by random signs that are centred (wild bootstrap), one draw after another. Both are written here after their
descriptions. Growth is measured up to --most inputs, each size in a process of its own. Writes results/benchmarks/twosample.json.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scaling import peak_memory

from wellcheck import memory
from wellcheck.artifacts import write_json
from wellcheck.models import device_name, pick_device
from wellcheck.twosample import OCTAVES, compare, distances, median_distance, memberships

RESULT = Path("results/benchmarks/twosample.json")
INPUTS, WIDTH, DRAWS = 500, 512, 1000
SHIFT = 0.006  # of every value: near the edge of what is seen, so that p-values say something


def main() -> None:
    """Measure, compare, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="each is timed so many times, by turns (3)")
    parser.add_argument("--most", type=int, default=10_000, help="inputs of the largest test, both samples together (10000)")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)  # what a process of its own measures
    options = parser.parse_args()
    memory.keep_freed()  # as every stage does
    if options.one:
        print(json.dumps(measure(options.one)))
        return
    ways: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {"ours": ours, "index loop": index_loop, "LADIS": ladis}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    p_values: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(options.rounds):
        first, second = samples(INPUTS, turn)
        for name, way in ways.items():
            start = time.perf_counter()
            p_values[name].append(way(first, second))
            seconds[name].append(time.perf_counter() - start)
            print(f"{name}: {seconds[name][-1]:.3f} s, p {p_values[name][-1]:.3f}", flush=True)
    ratios = {f"seconds: {name} / ours": float(np.median(seconds[name]) / np.median(seconds["ours"])) for name in list(ways)[1:]}
    ratios["largest difference of p-values: index loop, ours"] = float(np.abs(np.subtract(p_values["index loop"], p_values["ours"])).max())
    sizes = [options.most // 4, options.most // 2, options.most]
    growth = [json.loads(subprocess.check_output([sys.executable, __file__, "--one", str(size)]).splitlines()[-1]) for size in sizes]
    ratios[f"seconds: {sizes[-1]:,} inputs / {sizes[0]:,}"] = growth[-1]["seconds"] / growth[0]["seconds"]
    ratios[f"peak of resident memory at {sizes[-1]:,} inputs, GiB"] = growth[-1]["gibibytes"]
    for name, ratio in ratios.items():
        print(f"{name}: {ratio:.3g}")
    device = device_name(pick_device("cpu"))
    command = f"python benchmarks/twosample.py --rounds {options.rounds} --most {options.most}"
    figures = {"seconds": seconds, "p_values": p_values, "growth": growth}
    write_json(RESULT, {"command": command, "device": device, "figures": figures, "ratios": ratios, "runs": options.rounds})


def samples(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two samples float32 [count, WIDTH], the second a little apart."""
    rng = np.random.default_rng(seed)
    first, second = (rng.standard_normal((count, WIDTH)).astype(np.float32) for _ in range(2))
    return first, second + np.float32(SHIFT)


def ours(first: np.ndarray, second: np.ndarray) -> float:
    """The test as it is."""
    drawn = memberships(np.arange(len(first) + len(second)) < len(first), None, DRAWS, seed=0)
    return compare([("layer", distances(first, second))], drawn, kernel="summed").combined


def gram(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The same kernel, all at once."""
    squared = distances(first, second)
    middle = median_distance(squared)
    found = np.zeros_like(squared)
    for octave in range(OCTAVES):
        found += np.exp(squared / np.float32(-middle * 2 ** (OCTAVES // 2 - octave)))
    return found


def index_loop(first: np.ndarray, second: np.ndarray) -> float:
    """The unbiased MMD of the Gram matrix, its rows and columns in another order for every draw."""
    kernel, count, rng = gram(first, second), len(first), np.random.default_rng(1)
    np.fill_diagonal(kernel, 0)
    pairs = count * (count - 1)

    def mmd(order: np.ndarray) -> float:
        mixed = kernel[order][:, order]
        within = mixed[:count, :count].sum() / pairs + mixed[count:, count:].sum() / pairs
        return float(within - 2 * mixed[:count, count:].mean())

    observed = mmd(np.arange(2 * count))
    return (1 + sum(mmd(rng.permutation(2 * count)) >= observed for _ in range(DRAWS))) / (1 + DRAWS)


def ladis(first: np.ndarray, second: np.ndarray) -> float:
    """The biased MMD, its null by centred random signs of the pairs (wild bootstrap)."""
    kernel, count, rng = gram(first, second), len(first), np.random.default_rng(2)
    core = kernel[:count, :count] + kernel[count:, count:] - kernel[:count, count:] - kernel[count:, :count]
    observed, reached = float(core.mean()), 0
    for _ in range(DRAWS):
        signs = rng.standard_normal(count).astype(np.float32)
        signs -= signs.mean()
        reached += float(signs @ core @ signs) / count**2 >= observed
    return (1 + reached) / (1 + DRAWS)


def measure(count: int) -> dict[str, float]:
    """Seconds and the peak of resident memory of one test of so many inputs, both samples together."""
    first, second = samples(count // 2, 0)
    start = time.perf_counter()
    ours(first, second)
    return {"inputs": count, "seconds": round(time.perf_counter() - start, 3), "gibibytes": round(peak_memory(), 2)}


if __name__ == "__main__":
    main()
