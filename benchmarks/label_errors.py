"""Which labels are wrong: our ranking and our candidates beside cleanlab's on the same out-of-sample probabilities.

    uv pip install -e '.[bench,test]'
    WELLCHECK_MIRROR=<mirror> python benchmarks/label_errors.py --seeds 3

gives 5, 10 and 20 % of Fashion-MNIST's first 20,000 training labels another class by chance, has networks answer for the part that they
were not trained on, and asks both sides for a ranking of all samples and for the samples to look at. The truth is what was changed; the
data set's own errors count as right labels, for both sides. A cell is a share and a seed; results/benchmarks/label_errors.json is written
after each of them, and a cell that stands there is not run again.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_label_quality_scores
from detection import read

from wellcheck import label_errors, metrics, params, second_opinions
from wellcheck.artifacts import cache_folder, read_json, write_json
from wellcheck.models import device_name, pick_device
from wellcheck.samples import Samples

RESULT = Path("results/benchmarks/label_errors.json")
SHARES = (0.05, 0.1, 0.2)  # of the labels that are wrong
FOLDS = 3
RECIPE: dict[str, Any] = {
    "model": "two_conv_cnn",
    "epochs": 4,  # a network that is trained for long learns wrong labels by heart
    "batch_size": 64,
    "learning_rate": 1e-3,
}
OURS = "ours"
FIGURES = ("auroc", "average_precision")

Method = Callable[[np.ndarray, np.ndarray], np.ndarray]


def main() -> None:
    """Run the cells that have no figures yet; print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="draws of the wrong labels, each with networks of its own (3)")
    parser.add_argument("--again", action="store_true", help="measure every cell again; the networks' answers are cached")
    options = parser.parse_args()
    device = pick_device("cpu")
    figures = read_json(RESULT)["figures"] if RESULT.exists() and not options.again else {}
    train, _ = read("fashion_mnist")
    ratios: dict[str, float] = {}
    for seed in range(options.seeds):
        for share in SHARES:
            name = f"{share:.0%}, seed {seed}"
            if name not in figures:
                figures[name] = measure(train, share, seed, device)
                print(name, {method: round(one["auroc"], 4) for method, one in figures[name]["rankings"].items()}, flush=True)
            ratios = summary(figures)
            command = f"python benchmarks/label_errors.py --seeds {seed + 1}"
            told = {"command": command, "device": f"{device_name(device)}, shared with other work", "runs": seed + 1}
            write_json(RESULT, {**told, "figures": figures, "ratios": ratios})
    for name, ratio in ratios.items():
        print(f"{name}: {ratio:.4g}")


def measure(train: Samples, share: float, seed: int, device: torch.device) -> dict[str, Any]:
    """Every ranking and every choice of one cell, held against what was changed."""
    labels, wrong = mislabel(train, share, seed)
    probabilities = answers(Samples(train.sample_id, train.images, labels, train.description), seed, device)
    return {
        "accuracy": float((probabilities.argmax(1) == train.labels).mean()),
        "rankings": {name: metrics.ranking(-quality(labels, probabilities), wrong) for name, quality in RANKINGS.items()},
        "choices": {name: metrics.flagging(choose(labels, probabilities), wrong) for name, choose in CHOICES.items()},
    }


def mislabel(train: Samples, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels int64 [N] of which this share is uniformly one of the other classes, and which those are, bool [N]."""
    rng = np.random.default_rng([seed, *b"label errors"])
    wrong = np.zeros(len(train), bool)
    wrong[rng.permutation(len(train))[: round(share * len(train))]] = True
    classes = len(train.description.class_names)
    return np.where(wrong, (train.labels + rng.integers(1, classes, len(train))) % classes, train.labels), wrong


def answers(samples: Samples, seed: int, device: torch.device) -> np.ndarray:
    """Out-of-sample probabilities float32 [N, K]; networks that were trained before are taken from the cache."""
    recipe, settings = params.Train.plain(**RECIPE, seed=seed), params.LabelErrors(folds=FOLDS, epochs=None, samples=None, seed=seed)
    return second_opinions.hear(samples, recipe, settings, device=device, cache=cache_folder() / "benchmarks")


def ours(labels: np.ndarray, probabilities: np.ndarray) -> label_errors.LabelErrors:
    """What is held of the labels, by probabilities that the labels themselves have calibrated."""
    return label_errors.find(labels, label_errors.calibrated(labels, probabilities))


def summary(figures: dict[str, Any]) -> dict[str, float]:
    """Means over the seeds of each share."""
    found = {}
    for share in SHARES:
        cells = [one for name, one in figures.items() if name.startswith(f"{share:.0%},")]
        if not cells:
            continue
        for key in FIGURES:
            for name in RANKINGS:
                found[f"{share:.0%} wrong, {key} of {name}"] = mean(one["rankings"][name][key] for one in cells)
        for key in ("precision", "tpr", "f1"):
            for name in CHOICES:
                found[f"{share:.0%} wrong, {key} of the choice of {name}"] = mean(one["choices"][name][key] for one in cells)
    return found


RANKINGS: dict[str, Method] = {
    OURS: lambda labels, probabilities: ours(labels, probabilities).quality,
    "cleanlab, self-confidence (its default)": lambda labels, probabilities: get_label_quality_scores(labels, probabilities),
    "cleanlab, normalized margin": lambda labels, probabilities: get_label_quality_scores(
        labels, probabilities, method="normalized_margin"
    ),
    "cleanlab, self-confidence adjusted": lambda labels, probabilities: get_label_quality_scores(
        labels, probabilities, adjust_pred_probs=True
    ),
    "cleanlab, confidence-weighted entropy": lambda labels, probabilities: get_label_quality_scores(
        labels, probabilities, method="confidence_weighted_entropy"
    ),
}
CHOICES: dict[str, Method] = {
    OURS: lambda labels, probabilities: ours(labels, probabilities).candidate,
    "cleanlab (its default)": lambda labels, probabilities: find_label_issues(labels, probabilities, n_jobs=1),
    "cleanlab by confident learning": lambda labels, probabilities: find_label_issues(
        labels, probabilities, filter_by="confident_learning", n_jobs=1
    ),
    "cleanlab by low self-confidence": lambda labels, probabilities: find_label_issues(
        labels, probabilities, filter_by="low_self_confidence", n_jobs=1
    ),
}


if __name__ == "__main__":
    main()
