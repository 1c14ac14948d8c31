"""Whether the two-sample test keeps its level on natural inputs, and what it sees of attacks, by size, samples and kernel.

    python benchmarks/watch.py --run FOLDER --name fashion_mnist

FOLDER is a project in which `dvc repro` or an experiment was run: its params, test images and clean model are taken. Level: natural inputs
against natural ones, whose share of p-values at or below 1, 5 and 10 % is held against the binomial 95 % band of that level, for every
layer and all together. Power: PGD with all its steps, at every size, with 25, 50 and 100 inputs in each sample, by both kernels. Writes
results/benchmarks/watch_NAME.json.
"""

import argparse
import itertools
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binom

from wellcheck import params, samples, survey, traffic
from wellcheck.artifacts import write_json
from wellcheck.embeddings.named_layers import OF_ANSWERS
from wellcheck.models import device_name, pick_device, storage
from wellcheck.traffic import PGD, Kind
from wellcheck.watch import Watch

RESULTS = Path("results/benchmarks").absolute()
LEVELS = (0.01, 0.05, 0.1)
SIZES = (25, 50, 100)
EPSILONS = (0.003, 0.01, 0.03)
BAND = 0.95
TRIALS = 200  # of a test of power


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="a project folder with its run")
    parser.add_argument("--name", required=True, help="of the result")
    parser.add_argument("--trials", type=int, default=2000, help="of the level (2000)")
    options = parser.parse_args()
    os.chdir(options.run)
    settings, device = params.load(params.TwoSample), pick_device(params.load(params.Device).root)
    settings = settings.model_copy(update={"level": 0.05, "trials": options.trials, "permutations": 199})
    known = survey.choose(samples.read(Path("data/split/test.parquet")), settings)
    watch = Watch.over(storage.load(Path("data/models/clean")), known.images, settings, device)
    asked = known.take(watch.rows)
    ratios, figures = level(watch)
    network = [place for place, name in enumerate(watch.layers) if name not in OF_ANSWERS]
    deepest = network[-max(1, len(network) // 3) :]
    for epsilon in EPSILONS:
        kind = Kind(PGD, epsilon)
        seen = watch.see(traffic.make(kind, watch.classifier, asked.images, settings, device), kind.told)
        for kernel, size in itertools.product(("summed", "aggregated"), SIZES):
            few = replace(watch, settings=settings.model_copy(update={"samples": size, "trials": TRIALS, "kernel": kernel}))
            if few.size < size:
                continue  # there are not so many images
            ((p_values, _),) = few.p_values(seen, [1.0])
            *rates, combined = (p_values <= settings.level).mean(0).tolist()
            told = f"PGD {epsilon:g}, {size} + {size}, {kernel}"
            figures[told] = dict(zip(watch.layers, rates, strict=True)) | {"combined": combined}
            ratios[f"{told}: all layers together"] = combined
            ratios[f"{told}: the best layer, {watch.layers[int(np.argmax(rates))]}"] = max(rates)
            if deepest:
                ratios[f"{told}: the least of the network's deepest third"] = min(rates[place] for place in deepest)
        scored: dict[str, Any] = {**watch.score(seen).figures(settings.level, BAND)}
        ratios[f"PGD {epsilon:g}: AUROC of single inputs"] = scored["auroc"]
        ratios[f"PGD {epsilon:g}: false flags of single inputs at 5 %"] = scored["false_flag_rate"]
    for name, value in ratios.items():
        print(f"{name}: {value:.3g}")
    run = params.load_all()
    what = f"{watch.classifier.description.architecture} after {run.train.epochs} epochs of {run.report.experiment or run.dataset.name}"
    what += f", {len(known):,} test images, {len(watch.layers)} layers, seed {settings.seed}"
    command = f"python benchmarks/watch.py --run FOLDER --name {options.name} --trials {options.trials}"
    found = {"command": command, "device": f"{device_name(device)}; {what}", "figures": figures, "ratios": ratios, "runs": 1}
    write_json(RESULTS / f"watch_{options.name}.json", found)


def level(watch: Watch) -> tuple[dict[str, float], dict[str, Any]]:
    """How often natural inputs raise an alarm, and how many of the layers lie in the band of that level."""
    ((p_values, _),) = watch.p_values(watch.natural, [0.0])
    ratios, figures = {}, {}
    for nominal in LEVELS:
        rates = (p_values <= nominal).mean(0)
        low, high = (bound / len(p_values) for bound in binom.interval(BAND, len(p_values), nominal))
        inside = (rates >= low) & (rates <= high)
        figures[f"level {nominal:g}"] = dict(zip([*watch.layers, "combined"], rates.tolist(), strict=True)) | {"band": [low, high]}
        told = f"natural inputs, level {nominal:g} (band {low:.3f} to {high:.3f}, {len(p_values):,} tests of {watch.size} + {watch.size})"
        ratios[f"{told}: all layers together"] = float(rates[-1])
        ratios[f"{told}: lowest of the layers"] = float(rates[:-1].min())
        ratios[f"{told}: highest of the layers"] = float(rates[:-1].max())
        ratios[f"{told}: share of layers in the band"] = float(inside[:-1].mean())
    return ratios, figures


if __name__ == "__main__":
    main()
