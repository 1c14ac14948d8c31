"""Whom the trained model fails: per class the share of test images that it misses, and of those whose answer an attack changes."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from wellcheck import disparity, metrics, params, samples, stage
from wellcheck.artifacts import read_columns, write_json
from wellcheck.models import pick_device, storage
from wellcheck.predictions import predict
from wellcheck.stage import Output


def main(test: Path, model: Path, outcomes: Path, *, figures: Output) -> str:
    settings, confidence = params.load(params.Disparity), params.load(params.Evaluate).confidence
    device = pick_device(params.load(params.Device).root)
    known, table = samples.read(test), read_columns(outcomes)
    names = known.description.class_names
    predicted = predict(storage.load(model), known.images, device=device, title="who is missed").labels
    missed = disparity.rates(predicted != known.labels, known.labels, len(names), confidence)
    mine = (table["variant"] == "trained") & (table["attack"] == settings.attack) & (table["epsilon"] == settings.epsilon)
    goals = {str(goal): mine & (table["goal"] == goal) for goal in dict.fromkeys(table["goal"][mine])}
    success, labels, right = table["success"], table["label"], table["label_before"] == table["label"]
    attacked = {goal: disparity.rates(success[rows], labels[rows], len(names), confidence) for goal, rows in goals.items()}
    # What is missed lies near to another class and is turned easily: among all images a part of the relation is built in.
    among_right = {
        goal: disparity.rates(success[rows & right], labels[rows & right], len(names), confidence) for goal, rows in goals.items()
    }
    pairs = disparity.confused_pairs(metrics.confusion_matrix(known.labels, predicted, len(names)), settings.pairs)
    relation, relation_of_right = (
        {goal: disparity.correlation(missed, rates) for goal, rates in each.items()} for each in (attacked, among_right)
    )
    found: dict[str, Any] = {
        "missed": _told(missed),
        "attacked": {goal: _told(rates) for goal, rates in attacked.items()},
        "correlation": {goal: asdict(one) for goal, one in relation.items()},
        "answered_right": {
            "attacked": {goal: _told(rates) for goal, rates in among_right.items()},
            "correlation": {goal: asdict(one) for goal, one in relation_of_right.items()},
        },
        "confused_pairs": [asdict(one) for one in pairs],
    }
    write_json(figures, found)
    worst = (_worst(missed, names), _worst(attacked["untargeted"], names))
    return f"{worst[0]} missed most, {worst[1]} attacked most; rank correlation {_rho(relation['untargeted'])}"


def _told(rates: list[disparity.ClassRate]) -> dict[str, Any]:
    return {"per_class": [{**asdict(one), "rate": one.rate} for one in rates], "disparity": asdict(disparity.disparity(rates))}


def _worst(rates: list[disparity.ClassRate], names: tuple[str, ...]) -> str:
    return names[int(np.argmax([-1 if one.rate is None else one.rate for one in rates]))]


def _rho(found: disparity.Correlation) -> str:
    return "unknown (not enough data)" if found.rho is None else f"{found.rho:.2f} (p {found.p_value:.2g}, {found.classes} classes)"


if __name__ == "__main__":
    stage.run(main)
