"""Whom the trained model fails: per class the share of test images that it misses, and of those whose answer an attack changes."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from wellcheck import disparity, metrics, params, samples, stage
from wellcheck.artifacts import Columns, read_columns, write_json
from wellcheck.models import pick_device, storage
from wellcheck.predictions import predict
from wellcheck.stage import Output

Attacked = tuple[list[disparity.ClassRate], disparity.Correlation]


def main(test: Path, model: Path, outcomes: Path, *, figures: Output) -> str:
    settings, confidence = params.load(params.Disparity), params.load(params.Evaluate).confidence
    device = pick_device(params.load(params.Device).root)
    known, table = samples.read(test), read_columns(outcomes)
    names = known.description.class_names
    predicted = predict(storage.load(model), known.images, device=device, title="who is missed").labels
    missed = disparity.rates(predicted != known.labels, known.labels, len(names), confidence)
    size = np.where(table["goal"] == "untargeted", settings.epsilon, settings.epsilon_targeted)
    mine = (table["variant"] == "trained") & (table["attack"] == settings.attack) & (table["epsilon"] == size)
    attempts = {name: values[mine] for name, values in table.items()}
    # What is missed lies near to another class and is turned easily: among all images a part of the relation is built in.
    right = attempts["label_before"] == attempts["label"]
    everywhere, among_right = (_attacked(attempts, rows, missed, confidence) for rows in (np.ones_like(right), right))
    confusion = metrics.confusion_matrix(known.labels, predicted, len(names))
    hits = int(confusion.trace())
    pairs = disparity.confused_pairs(confusion, settings.pairs)
    found: dict[str, Any] = {
        "accuracy": hits / len(known) if len(known) else None,
        "accuracy_interval": metrics.proportion_interval(hits, len(known), confidence),
        "missed": _told(missed),
        **_figures(everywhere),
        "answered_right": _figures(among_right),
        "confused_pairs": [asdict(one) for one in pairs],
    }
    write_json(figures, found)
    turned, relation = everywhere["untargeted"]
    return f"{_worst(missed, names)} missed most, {_worst(turned, names)} attacked most; rank correlation {_rho(relation)}"


def _attacked(attempts: Columns, rows: np.ndarray, missed: list[disparity.ClassRate], confidence: float) -> dict[str, Attacked]:
    """Per goal how often each class's answer changes, of the attempts in rows (bool), and whether it goes with who is missed."""
    found = {}
    for goal in dict.fromkeys(attempts["goal"]):
        mine = rows & (attempts["goal"] == goal)
        rates = disparity.rates(attempts["success"][mine], attempts["label"][mine], len(missed), confidence)
        found[str(goal)] = rates, disparity.correlation(missed, rates)
    return found


def _figures(attacked: dict[str, Attacked]) -> dict[str, Any]:
    return {
        "attacked": {goal: _told(rates) for goal, (rates, _) in attacked.items()},
        "correlation": {goal: asdict(relation) for goal, (_, relation) in attacked.items()},
    }


def _told(rates: list[disparity.ClassRate]) -> dict[str, Any]:
    return {"per_class": [{**asdict(one), "rate": one.rate} for one in rates], "disparity": asdict(disparity.disparity(rates))}


def _worst(rates: list[disparity.ClassRate], names: tuple[str, ...]) -> str:
    return names[int(np.argmax([-1 if one.rate is None else one.rate for one in rates]))]


def _rho(found: disparity.Correlation) -> str:
    return "unknown (not enough data)" if found.rho is None else f"{found.rho:.2f} (p {found.p_value:.2g}, {found.classes} classes)"


if __name__ == "__main__":
    stage.run(main)
