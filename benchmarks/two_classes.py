"""Two classes only: how much of what was planted the verdict finds, and how often it is wrong.

    WELLCHECK_MIRROR=<mirror> python benchmarks/two_classes.py

takes 500 images of each of two classes, poisons them, trains a small network and asks for a verdict, as benchmarks/detection.py does with
ten classes. A cell is a pair of classes, a poison and a draw: draw 0 are the first 500 training images of each class, draw 1 the next ones.
Pairs of draw 0 were looked at while the method was made; draw 1 is measured. results/benchmarks/two_classes.json is written after each
cell, and a cell that stands there is not run again.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from detection import POISONS, Bench, caught, plant, poison_of, read, seen

from wellcheck import params, verdict
from wellcheck.artifacts import cache_folder, read_json, write_json
from wellcheck.detection_results import TOOK_HOLD
from wellcheck.models import device_name, pick_device
from wellcheck.samples import Description, Samples

RESULT = Path("results/benchmarks/two_classes.json")
PAIRS: dict[params.DatasetName, tuple[str, ...]] = {
    "mnist": ("38", "17", "49", "56", "79", "23", "35", "08", "46", "25"),
    "fashion_mnist": ("79", "06", "57", "24", "13", "89", "26", "46", "02", "59"),
}
IMAGES = 500  # of a class
RATES = {"none": 0.0, "label_noise": 0.05, "blend": 0.1, "watermark": 0.05, "adaptive": 0.1}
TARGET = 1
RECIPE: dict[str, Any] = {"model": "two_conv_cnn", "epochs": 10, "batch_size": 32, "learning_rate": 2e-3, "precision": "auto"}


def main() -> None:
    """Run the cells that have no figures yet; print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--draw", type=int, default=1, help="which 500 images of each class, and the networks' seed (1)")
    draw, device = parser.parse_args().draw, pick_device("cpu")
    figures = read_json(RESULT)["figures"] if RESULT.exists() else {}
    for poison, rate in RATES.items():
        for dataset, pairs in PAIRS.items():
            train, test = read(dataset)
            for pair in pairs:
                name = f"{dataset}, {pair[0]} and {pair[1]}, {poison}, draw {draw}"
                if name in figures:
                    continue
                classes = [int(digit) for digit in pair]
                chosen, recipe = poison_of(poison, rate, TARGET, draw), params.Train.plain(**RECIPE, seed=draw)
                bench = Bench(two_of(test, classes, 0, None), chosen, recipe, device)
                figures[name] = measure(two_of(train, classes, draw, IMAGES), bench, name)
                print(name, figures[name], flush=True)
                told = {"command": f"python benchmarks/two_classes.py --draw {draw}", "device": device_name(device), "runs": 1}
                write_json(RESULT, {**told, "figures": figures, "ratios": summary(figures)})
    for what, value in summary(figures).items():
        print(f"{what}: {value:.4g}")


def two_of(samples: Samples, classes: list[int], draw: int, images: int | None) -> Samples:
    """Two classes of a set as the classes 0 and 1, so many images of each (None: all), in the set's order."""
    places = [np.flatnonzero(samples.labels == label) for label in classes]
    rows = np.sort(np.concatenate([place if images is None else place[draw * images : (draw + 1) * images] for place in places]))
    names = tuple(samples.description.class_names[label] for label in classes)
    labels = (samples.labels[rows] == classes[1]).astype(np.int64)
    return replace(samples.take(rows), labels=labels, description=Description(names, samples.description.source))


def measure(train: Samples, bench: Bench, title: str) -> dict[str, Any]:
    """One cell's verdict, held against what was planted."""
    delivered, plan = plant(train, bench.poison, bench.device)
    trained = bench.train(delivered, title)
    reached = verdict.reach(seen(delivered, trained, bench.device), delivered, bench.recipe, cache=cache_folder() / "checkpoints")
    hits = caught(reached, plan)
    return {
        **bench.figures(trained.classifier),
        "planted": int(plan.poisoned.sum()),
        "target_labels": reached.convicted,
        "flagged": int(reached.flagged.sum()),
        "tpr": hits["tpr"],
        "fpr": hits["fpr"],
    }


def summary(figures: dict[str, Any]) -> dict[str, float]:
    """Counts and means over the cells that were run."""
    found: dict[str, float] = {}
    for poison in RATES:
        cells = [one for name, one in figures.items() if f", {poison}, " in name]
        if not cells:
            continue
        if POISONS[poison]["trigger"] == "none":
            found |= {f"{poison}, sets": len(cells), f"{poison}, false verdicts": sum(bool(one["target_labels"]) for one in cells)}
            continue
        working = [one for one in cells if one["attack_success_rate"] >= TOOK_HOLD]
        found |= {f"{poison}, sets": len(cells), f"{poison}, sets in which the backdoor works": len(working)}
        if working:
            found[f"{poison}, right target named, and no other, of these"] = sum(one["target_labels"] == [TARGET] for one in working)
            found |= {f"{poison}, average {key.upper()}": mean(one[key] for one in working) for key in ("tpr", "fpr")}
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
