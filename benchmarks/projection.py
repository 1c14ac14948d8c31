"""How much faster than scikit-learn's and openTSNE's t-SNE ours is, and how much of the neighbourhoods each keeps.

    WELLCHECK_MIRROR=<mirror> python benchmarks/projection.py --runs 3

reads <mirror>/fashion_mnist/train.parquet, maps its first 10,000 images with all three in turn, each run with another seed, and writes
results/benchmarks/projection.json. The others run with their defaults, on two jobs, on the 784 pixels; ours with the values of params.yaml.
Neighbourhoods are always judged on the pixels. A figure is the mean over the runs, a ratio the ratio of two such means from one process:
seconds on a shared machine wander, ratios of interleaved runs much less.
"""

import argparse
import io
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean

import numpy as np
import openTSNE
import pyarrow.parquet as pq
from PIL import Image
from sklearn.manifold import TSNE

from wellcheck.artifacts import write_json
from wellcheck.params import Project, load
from wellcheck.projections import neighbourhood_preservation, tsne

Method = Callable[[np.ndarray, int], np.ndarray]
Figures = dict[str, float]

OTHERS = ("scikit-learn", "openTSNE")
NEIGHBOURS = (10, 30)
JOBS = 2  # threads each library may use
RESULT = Path("results/benchmarks/projection.json")


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=3, help="runs, each with its own seed (3)")
    parser.add_argument("--samples", type=int, default=10_000, help="the first so many training images (10000)")
    parser.add_argument("--output", type=Path, default=RESULT, help=f"where the figures go ({RESULT})")
    options = parser.parse_args()
    pixels = fashion_mnist(options.samples)
    own(pixels[:500], 0)  # warm up: thread pools and first-call costs are nobody's figure
    figures = measure(pixels, {"scikit-learn": scikit_learn, "openTSNE": open_tsne, "ours": own}, options.runs)
    found = ratios(figures)
    for name, ratio in found.items():
        print(f"{name}: {ratio:.3g}")
    write_json(
        options.output,
        {
            "command": f"python benchmarks/projection.py --runs {options.runs}"
            + (f" --samples {options.samples}" if options.samples != parser.get_default("samples") else ""),
            "device": "two CPU cores, shared with other work",
            "figures": figures,
            "ratios": found,
            "runs": options.runs,
            "samples": options.samples,
            "settings": load(Project).model_dump(include={"perplexity", "components", "iterations"}),
        },
    )


def fashion_mnist(samples: int) -> np.ndarray:
    """The first training images as uint8 [N, 784]."""
    mirror = os.environ.get("WELLCHECK_MIRROR")
    if not mirror:
        sys.exit("WELLCHECK_MIRROR is not set; set it to a folder with fashion_mnist/train.parquet")
    images = pq.read_table(Path(mirror) / "fashion_mnist" / "train.parquet", columns=["image"]).column("image").slice(0, samples)
    return np.stack([np.asarray(Image.open(io.BytesIO(image["bytes"]))).ravel() for image in images.to_pylist()])


def scikit_learn(pixels: np.ndarray, seed: int) -> np.ndarray:
    """scikit-learn's defaults."""
    return np.asarray(TSNE(random_state=seed, n_jobs=JOBS).fit_transform(pixels))


def open_tsne(pixels: np.ndarray, seed: int) -> np.ndarray:
    """openTSNE's defaults."""
    return np.asarray(openTSNE.TSNE(random_state=seed, n_jobs=JOBS).fit(pixels))


def own(pixels: np.ndarray, seed: int) -> np.ndarray:
    """Ours with the values of params.yaml."""
    values = load(Project)
    return tsne(pixels, perplexity=values.perplexity, components=values.components, iterations=values.iterations, seed=seed)


def measure(pixels: np.ndarray, methods: dict[str, Method], runs: int) -> dict[str, list[Figures]]:
    """Each method's figures, one entry a run; the methods take turns within a run."""
    figures: dict[str, list[Figures]] = {name: [] for name in methods}
    for run in range(runs):
        for name, method in methods.items():
            start = time.perf_counter()
            projection = method(pixels, run)
            seconds = time.perf_counter() - start
            kept = {f"preservation at {k}": round(neighbourhood_preservation(pixels, projection, neighbours=k), 5) for k in NEIGHBOURS}
            figures[name].append({"seconds": round(seconds, 2), **kept})
            shown = ", ".join(f"{key} {value:.4g}" for key, value in figures[name][-1].items())
            print(f"run {run + 1} of {runs}, {name}: {shown}", flush=True)
    return figures


def ratios(figures: dict[str, list[Figures]]) -> Figures:
    """Means over the runs, compared: above 1 speaks for ours."""
    means = {name: {key: mean(run[key] for run in runs) for key in runs[0]} for name, runs in figures.items()}
    ours = means["ours"]
    found = {f"seconds, {other} against ours": means[other]["seconds"] / ours["seconds"] for other in OTHERS}
    for k in NEIGHBOURS:
        key = f"preservation at {k}"
        found |= {f"{key}, ours against {other}": ours[key] / means[other][key] for other in OTHERS}
    return {name: round(ratio, 3) for name, ratio in found.items()}


if __name__ == "__main__":
    main()
