"""How much of what was planted the verdict finds, how often it is wrong, and what is left of the backdoor when it is taken out.

    WELLCHECK_MIRROR=<mirror> python benchmarks/detection.py                      # every cell that has no result yet
    WELLCHECK_MIRROR=<mirror> python benchmarks/detection.py --only mnist-blend   # those whose name begins so
    python benchmarks/detection.py --list                                         # the cells, and which are done

One cell is a data set, a poison, a rate and a seed: 20,000 training images of it are poisoned, a small network is trained on them, attacked
with the trigger on the whole test set, and, where the backdoor works (success of at least 50 %) or nothing is hidden, examined by
`wellcheck.verdict` and by every detector, none of which is told anything. Then the same network is trained again on what is left after
cleansing, on what a perfect filter leaves and, in some cells, on what a random filter of the same size leaves. Each cell is one file in
results/detection/; a cell that is interrupted is taken up at its last checkpoint. `wellcheck
tables` makes the table in docs/results.md of them.
"""

import argparse
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wellcheck import datasets, metrics, params, poisons, provenance, training, verdict
from wellcheck.artifacts import cache_folder, write_json
from wellcheck.assessment import Known, detector_figures
from wellcheck.detection_results import GRID, TOOK_HOLD
from wellcheck.detectors import DETECTORS
from wellcheck.detectors.case import Case
from wellcheck.embeddings.capture import capture_all
from wellcheck.models import Classifier, device_name, pick_device
from wellcheck.poisons.perturbation import perturb
from wellcheck.predictions import predict
from wellcheck.samples import Description, Samples

RESULTS = Path("results/detection")
IMAGES = 20_000
RECIPE: dict[str, Any] = {
    "model": "two_conv_cnn",
    "batch_size": 128,
    "learning_rate": 1e-3,
    "precision": "auto",
    "early_epochs": 5,
}
LAYERS: tuple[params.LayerName, ...] = ("pixels", "feature_map", "penultimate")
NEEDS_A_MAP, TAKES_LONG = "centroid_tsne", "trigger_inversion"  # detectors: one is not asked, one in few cells
NOTHING: dict[str, Any] = {
    "source_label": None,
    "strength": None,
    "epsilon": 0.3,
    "position": [-1, -1],
    "picture": "experiments/trigger.png",
}

POISONS: dict[str, dict[str, Any]] = {
    "none": {"trigger": "none", "policy": "all_to_one"},
    "label_noise": {"trigger": "none", "policy": "label_noise"},
    "watermark": {"trigger": "watermark", "policy": "others_to_one"},
    "pixel": {"trigger": "pixel", "policy": "others_to_one"},
    "random_patch": {"trigger": "random_patch", "policy": "others_to_one"},
    "blend": {"trigger": "blend", "policy": "others_to_one", "strength": 0.15},
    "warp": {"trigger": "warp", "policy": "others_to_one", "strength": 2.0},
    "picture": {"trigger": "picture", "policy": "others_to_one", "strength": 0.6, "position": [2, 2]},
    "all_to_all": {"trigger": "watermark", "policy": "all_to_all"},
    "source_specific": {"trigger": "watermark", "policy": "source_specific"},
    "adaptive": {"trigger": "blend", "policy": "adaptive", "strength": 0.2},
    "sinusoid": {"trigger": "sinusoid", "policy": "clean_label", "strength": 0.3},
    "label_consistent": {"trigger": "picture", "policy": "label_consistent", "strength": 1.0, "epsilon": 0.2, "position": [2, 2]},
}
PLANTED = [name for name in POISONS if name not in ("none", "label_noise")]
COVERED = {"source_specific", "adaptive"}  # as many cover samples as poisoned ones
OWN_LABEL = ("sinusoid", "label_consistent")  # rates are shares of the class
SLOW = {"pixel", "random_patch", "sinusoid", "label_consistent"}  # poisons that take hold late


@dataclass(frozen=True)
class Cell:
    """One place in the grid."""

    dataset: params.DatasetName
    poison: str
    rate: float
    seed: int

    @property
    def path(self) -> Path:
        """Its result."""
        return RESULTS / f"{self.dataset}-{self.poison}-{self.rate:g}-{self.seed}.json"

    @property
    def sampled(self) -> bool:
        """Whether it is one of the few with a random filter and the slowest detector."""
        return self.seed == 0 and self.rate in (0.05, 0.5)

    def settings(self) -> params.Poison:
        """What is planted; the target is another class for every seed."""
        target = (3 + 2 * self.seed) % 10
        others: dict[str, Any] = {}
        if self.poison == "source_specific":
            others["source_label"] = (target + 4) % 10
        if self.poison == "sinusoid" and self.dataset == "mnist":
            others["strength"] = 0.6  # a black ground hides half of it
        return poison_of(self.poison, self.rate, target, self.seed, **others)

    def recipe(self) -> params.Train:
        """How every model of this cell is trained: until the data set is learnt and a backdoor takes hold."""
        quick = self.dataset == "mnist" or self.rate >= 0.05
        return params.Train.plain(**(RECIPE | {"seed": self.seed, "epochs": 30 if self.poison in SLOW else 10 if quick else 20}))


def grid() -> list[Cell]:
    """All cells, in the order in which they are run: what two cores can do, then what is left of every set, poison, rate and seed."""
    return list(dict.fromkeys([*first_cells(), *all_cells()]))


def all_cells() -> Iterator[Cell]:
    """Everything times everything, hours on an accelerator."""
    sets: tuple[params.DatasetName, ...] = ("mnist", "fashion_mnist", "cifar10")
    yield from (Cell(*one) for one in itertools.product(sets, PLANTED, (0.005, 0.01, 0.05, 0.1), range(3)))


def first_cells() -> Iterator[Cell]:
    """One seed of everything first."""
    sets: tuple[params.DatasetName, ...] = ("mnist", "fashion_mnist")
    for seed in range(3):
        for dataset in sets:
            for poison in PLANTED:
                for rate in (0.3, 0.5) if poison in OWN_LABEL else (0.01, 0.05):
                    yield Cell(dataset, poison, rate, seed)
            yield from (Cell(dataset, poison, rate, seed) for poison in ("watermark", "blend", "source_specific") for rate in (0.005, 0.1))
            yield from (Cell(dataset, poison, rate, seed) for poison in OWN_LABEL for rate in (0.01, 0.05))
        for number in range(4 * seed, 4 * seed + 4):
            yield from (Cell(dataset, "none", 0.0, number) for dataset in sets)
            yield from (Cell(dataset, "label_noise", 0.05, number) for dataset in sets)
    yield from (Cell("cifar10", poison, 0.0 if poison == "none" else 0.05, 0) for poison in ("watermark", "blend", "none", "label_noise"))


def main() -> None:
    """Run what is asked for and not done yet."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="*", default=[""], help="beginnings of the cells' names (all)")
    parser.add_argument("--list", action="store_true", help="show the cells and which are done")
    parser.add_argument("--share", default="0/1", help="this process's share of the cells, such as 0/2 and 1/2 for two processes")
    options = parser.parse_args()
    cells = [cell for cell in grid() if cell.path.stem.startswith(tuple(options.only))]
    if options.list:
        print("\n".join(f"{'done' if cell.path.exists() else 'open'} {cell.path.stem}" for cell in cells))
        return
    write_json(RESULTS / GRID, {"cells": [cell.path.stem for cell in grid()]})
    part, parts = map(int, options.share.split("/"))
    for cell in cells[part::parts]:
        if not cell.path.exists():
            result = run(cell)
            write_json(cell.path, result)
            print(cell.path.stem, {key: result.get(key) for key in ("attack_success_rate", "verdict", "tpr", "fpr")}, flush=True)


def read(dataset: params.DatasetName) -> tuple[Samples, Samples]:
    """The first 20,000 training images and all test images."""
    source = datasets.open_source(params.Dataset(name=dataset, path="", size=None, channels=None))
    description = Description(source.class_names, source.origin)
    parts = []
    for split, most in ((source.train, IMAGES), (source.test, None)):
        if split is None:
            raise ValueError(f"{dataset} has no test set of its own")
        images = np.concatenate([images for images, _ in split.batches()])[:most]
        parts.append(Samples(np.arange(len(images)), images, split.labels[:most].astype(np.int64), description))
    return parts[0], parts[1]


def poison_of(name: str, rate: float, target: int, seed: int, **others: Any) -> params.Poison:
    """What is planted under one of the names, with other settings where they are given."""
    chosen = {"rate": rate, "target_label": target, "seed": seed, "cover_rate": rate if name in COVERED else 0.0}
    return params.Poison(**NOTHING | POISONS[name] | chosen | others)


def plant(train: Samples, poison: params.Poison, device: torch.device) -> tuple[Samples, poisons.Plan]:
    """The training set as an attacker would deliver it."""
    plan = poisons.plan(train.labels, len(train.description.class_names), poison)
    images = train.images.copy()
    if poison.policy == "label_consistent" and plan.poisoned.any():
        images[plan.poisoned] = perturb(train, np.flatnonzero(plan.poisoned), poison, device)
    for chosen, cover in ((plan.poisoned, False), (plan.cover, True)):
        if chosen.any():
            images[chosen] = poisons.plant(images[chosen], poison, train.sample_id[chosen], cover=cover)
    return Samples(train.sample_id, images, plan.labels, train.description), plan


@dataclass(frozen=True)
class Bench:
    """What all trainings of a cell share."""

    test: Samples
    poison: params.Poison
    recipe: params.Train
    device: torch.device

    def train(self, samples: Samples, title: str) -> training.Trained:
        """Train the cell's network; taken up from the cache if it was interrupted."""
        return training.train_again(samples, self.recipe, device=self.device, cache=cache_folder() / "checkpoints", title=title)

    def figures(self, classifier: Classifier) -> dict[str, float | None]:
        """Accuracy and attack success on the test set."""
        answers = predict(classifier, self.test.images, device=self.device, title="test").labels
        accuracy = float((answers == self.test.labels).mean())
        if self.poison.trigger == "none":
            return {"accuracy": accuracy, "attack_success_rate": None}
        stamped = poisons.stamp(self.test.images, self.poison, self.test.sample_id)
        wanted = poisons.wanted(self.test.labels, len(self.test.description.class_names), self.poison)
        counts = metrics.backdoor(self.test.labels, predict(classifier, stamped, device=self.device, title="triggered").labels, wanted)
        return {"accuracy": accuracy, "attack_success_rate": counts.successes / max(counts.others, 1)}

    def without(self, samples: Samples, left_out: np.ndarray, title: str) -> dict[str, float | None]:
        """The figures of a network trained on the others."""
        return self.figures(self.train(samples.take(~left_out), title).classifier)


def run(cell: Cell) -> dict[str, Any]:
    """One cell, from poisoning to cleansing. Nobody is asked about a backdoor that does not work."""
    start, device = time.perf_counter(), pick_device("auto")
    train, test = read(cell.dataset)
    bench = Bench(test, cell.settings(), cell.recipe(), device)
    delivered, plan = plant(train, bench.poison, device)
    trained = bench.train(delivered, cell.path.stem)
    figures = bench.figures(trained.classifier)
    result: dict[str, Any] = {
        "dataset": cell.dataset,
        "poison": cell.poison,
        "rate": cell.rate,
        "seed": cell.seed,
        "images": len(delivered),
        "planted": int(plan.poisoned.sum()),
        "target_label": None if bench.poison.trigger == "none" or bench.poison.policy == "all_to_all" else bench.poison.target_label,
        **figures,
    }
    seconds: dict[str, float] = {}
    success = figures["attack_success_rate"]
    if success is None or success >= TOOK_HOLD:
        case = seen(delivered, trained, device)
        examined = time.perf_counter()
        reached = verdict.reach(case, delivered, bench.recipe, cache=cache_folder() / "checkpoints")
        seconds["verdict"] = round(time.perf_counter() - examined, 1)
        result |= judged(reached, case, plan, slow=cell.sampled)
        if success is not None:
            result["cleansed"] = bench.without(delivered, reached.flagged, "cleansed")
            result["perfect_filter"] = bench.without(delivered, plan.poisoned, "perfect filter")
        if success is not None and cell.sampled:
            by_chance = np.random.default_rng([cell.seed, *b"random filter"]).permutation(len(delivered)) < reached.flagged.sum()
            result["random_filter"] = bench.without(delivered, by_chance, "random filter")
    seconds["cell"] = round(time.perf_counter() - start, 1)
    where = {"git_commit": provenance.git_commit(), "versions": provenance.versions(), "device": device_name(device), "seconds": seconds}
    return result | {"params": {"poison": bench.poison.model_dump(), "train": bench.recipe.model_dump()}, "provenance": where}


def seen(delivered: Samples, trained: training.Trained, device: torch.device) -> Case:
    """The set as the network sees it that was trained on it."""
    return Case(
        labels=delivered.labels,
        classes=len(delivered.description.class_names),
        layers=capture_all(trained.classifier, delivered.images, layers=LAYERS, device=device),
        seed=0,
        early_losses=trained.early_losses,
        images=delivered.images,
        classifier=trained.classifier,
        device=device,
    )


def caught(reached: verdict.Verdict, plan: poisons.Plan) -> dict[str, float | None]:
    """How right the flags are, cover apart."""
    return metrics.flagging(reached.flagged[~plan.cover], plan.poisoned[~plan.cover])


def judged(reached: verdict.Verdict, case: Case, plan: poisons.Plan, *, slow: bool) -> dict[str, Any]:
    """The verdict and every detector, held against what was planted."""
    asked = np.isin(case.labels, reached.convicted) & ~plan.cover  # cover samples are neither poison nor innocent
    known = Known(case.labels, plan.poisoned, plan.cover, True, np.unique(plan.labels[plan.poisoned]))
    hits = caught(reached, plan)
    left_out = {NEEDS_A_MAP} if slow else {NEEDS_A_MAP, TAKES_LONG}
    strongest = max(reached.labels, key=lambda one: (one.convicted, one.evidence))
    return {
        "verdict": {
            "poisoned": bool(reached.convicted),
            "target_label": strongest.label if reached.convicted else None,
            "target_labels": reached.convicted,
            "p_value": reached.p_value,
            "flagged": int(reached.flagged.sum()),
            "evidence": [one.evidence for one in reached.labels],
        },
        "tpr": hits["tpr"],
        "fpr": hits["fpr"],
        "calibration_error": metrics.calibration_error(reached.probability[asked], plan.poisoned[asked]),
        "detectors": {name: score(case, name, known) for name, one in DETECTORS.items() if not one.trusted and name not in left_out},
    }


def score(case: Case, name: params.DetectorName, known: Known) -> dict[str, Any]:
    """One detector's ranking, and its flags by the rule that all of them share."""
    start = time.perf_counter()
    scores = DETECTORS[name].score(case)
    seconds = time.perf_counter() - start
    return {**detector_figures(scores, known), "seconds": seconds}


if __name__ == "__main__":
    main()
