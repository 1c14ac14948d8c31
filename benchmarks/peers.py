"""Activation clustering and spectral signatures beside ART's, on the same features in the same run: quality and seconds.

    uv pip install -e '.[bench]'
    WELLCHECK_MIRROR=<mirror> python benchmarks/peers.py --runs 2

trains the small network of benchmarks/detection.py on poisoned images (cells of that grid), takes the 512 penultimate features of all
20,000, and hands them to ART's ActivationDefence and SpectralSignatureDefense (as the input of an identity layer, so that neither side
embeds) and to our detectors in turn. ART's flags are its own decisions; ours are activation clustering's gated clusters and, for spectral
signatures, scores beyond five robust standard deviations. Then both of a side in turn, as the stage runs them: ours share a label's
principal directions, which ART finds twice. Every run is given a fresh case, so that nothing is known before it. Writes
results/benchmarks/peers.json. A ratio is one of seconds from one process, mean over runs.
"""

import argparse
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from art.defences.detector.poison import ActivationDefence, SpectralSignatureDefense
from art.estimators.classification import PyTorchClassifier
from detection import Bench, Cell, plant, read
from torch import nn

from wellcheck import metrics
from wellcheck.artifacts import write_json
from wellcheck.detectors.case import Case
from wellcheck.detectors.clustering import clusters
from wellcheck.detectors.spectral import spectral_signatures
from wellcheck.embeddings.capture import capture_all
from wellcheck.models import device_name, pick_device

CELLS = (Cell("mnist", "watermark", 0.05, 0), Cell("mnist", "blend", 0.05, 0), Cell("fashion_mnist", "source_specific", 0.05, 0))
RESULT = Path("results/benchmarks/peers.json")
CLASSES = 10
Flags = Callable[[Case], np.ndarray]


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=2, help="runs of each method (2)")
    options = parser.parse_args()
    figures = {cell.path.stem: measure(cell, options.runs) for cell in CELLS}
    ratios = {
        f"{name}, seconds: ART / ours": mean(one[f"art {name}"]["seconds"] for one in figures.values())
        / mean(one[f"our {name}"]["seconds"] for one in figures.values())
        for name in (*NAMES, BOTH)
    }
    for method in METHODS:
        for key in ("tpr", "fpr", "f1"):
            ratios[f"{method}, {key} of its flags, mean of {len(CELLS)} cells"] = mean(one[method][key] or 0.0 for one in figures.values())
    for name, ratio in ratios.items():
        print(f"{name}: {ratio:.3g}")
    command, device = f"python benchmarks/peers.py --runs {options.runs}", f"{device_name(pick_device('cpu'))}, shared with other work"
    write_json(RESULT, {"command": command, "device": device, "figures": figures, "ratios": ratios, "runs": options.runs})


def measure(cell: Cell, runs: int) -> dict[str, dict[str, Any]]:
    """Every method's flags on one cell, with the seconds of each run."""
    device = pick_device("cpu")
    train, test = read(cell.dataset)
    bench = Bench(test, cell.settings(), cell.recipe(), device)
    delivered, plan = plant(train, bench.poison, device)
    trained = bench.train(delivered, cell.path.stem)
    layers = capture_all(trained.classifier, delivered.images, layers=("penultimate",), device=device)
    counted = ~plan.cover

    def timed(methods: Sequence[Flags]) -> tuple[np.ndarray, float]:
        """What the last method flags, and the mean seconds of all in turn."""
        seconds = []
        for _ in range(runs):
            case = Case(labels=delivered.labels, classes=CLASSES, layers=layers)
            start = time.perf_counter()
            *_, flags = [method(case) for method in methods]
            seconds.append(time.perf_counter() - start)
        return flags, mean(seconds)

    found: dict[str, dict[str, Any]] = {}
    for name, method in METHODS.items():
        flags, seconds = timed([method])
        found[name] = {**metrics.flagging(flags[counted], plan.poisoned[counted]), "seconds": seconds}
    for side in ("our", "art"):
        found[f"{side} {BOTH}"] = {"seconds": timed([METHODS[f"{side} {name}"] for name in NAMES])[1]}
    return found


def our_clustering(case: Case) -> np.ndarray:
    """Activation clustering's suspects where the label passes its gates."""
    flags = np.zeros(len(case.labels), bool)
    for one in clusters(case):
        if one.suspicious:
            flags[one.suspects] = True
    return flags


def our_spectral(case: Case) -> np.ndarray:
    """Spectral signatures beyond the threshold that all raw scores share."""
    return metrics.suspicious(spectral_signatures(case))


def art(defence: type[ActivationDefence | SpectralSignatureDefense], case: Case) -> np.ndarray:
    """A defence of ART's with its defaults."""
    features = np.asarray(case.layer("penultimate"), np.float32)
    model = nn.Sequential(nn.Identity(), nn.Linear(features.shape[1], CLASSES))
    classifier = PyTorchClassifier(model, nn.CrossEntropyLoss(), features.shape[1:], CLASSES, device_type="cpu")
    _, clean = defence(classifier, features, np.eye(CLASSES, dtype=np.float32)[case.labels]).detect_poison()
    flags: np.ndarray = np.asarray(clean) == 0
    return flags


NAMES = ("activation clustering", "spectral signatures")
BOTH = "both in turn"
METHODS: dict[str, Flags] = {
    "our activation clustering": our_clustering,
    "art activation clustering": functools.partial(art, ActivationDefence),
    "our spectral signatures": our_spectral,
    "art spectral signatures": functools.partial(art, SpectralSignatureDefense),
}


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
