"""How a classifier stands up to attacks on its inputs: the rates that follow from what became of every image."""

from typing import Any

import numpy as np

from wellcheck.artifacts import Columns
from wellcheck.metrics import proportion_interval

SIGN_ALONE = "sign_alone"  # no attack, but the direction of FGSM's step shown to the model as an image of its own
CONFIDENT = 0.9


def image_name(variant: str, attack: str, epsilon: float) -> str:
    """Under which name changed images are kept."""
    return f"{variant}/{attack}/{epsilon:g}"


def figures(outcomes: Columns, classes: int, confidence: float) -> dict[str, Any]:
    """By attack: `epsilon`, and as many values of each rate (DESIGN: evasion.json).

    success_rate is the share of images whose answer changes at all, and `unchanged` the rest of them; accuracy the share that was answered
    rightly and still is: an attack that turns a wrong answer into the right one makes no model robust. The same for images aimed at a class
    stands under the goal's name (success: that class is answered), and for the model before it learnt anything under `untrained`.
    """
    found: dict[str, Any] = {}
    for name in dict.fromkeys(outcomes["attack"].tolist()):
        if name == SIGN_ALONE:
            continue
        mine = _rows(outcomes, outcomes["attack"] == name)
        learnt = mine["variant"] != "untrained"
        found[name] = {"untrained": _curves(_rows(mine, ~learnt & (mine["goal"] == "untargeted")), classes, confidence)}
        for goal in dict.fromkeys(mine["goal"].tolist()):
            curves = _curves(_rows(mine, learnt & (mine["goal"] == goal)), classes, confidence)
            found[name] |= curves if goal == "untargeted" else {goal: curves}
    signs = _rows(outcomes, outcomes["attack"] == SIGN_ALONE)
    if "fgsm" in found and len(signs["attack"]):
        variants = dict.fromkeys(signs["variant"].tolist())
        found["fgsm"][SIGN_ALONE] = {variant: _alone(_rows(signs, signs["variant"] == variant), confidence) for variant in variants}
    return found


def _curves(rows: Columns, classes: int, confidence: float) -> dict[str, Any]:
    sizes = sorted(set(rows["epsilon"].tolist()))
    at = [_rows(rows, rows["epsilon"] == size) for size in sizes]
    success = [(int(one["success"].sum()), len(one["success"])) for one in at]
    right = [(int(_still_right(one).sum()), len(one["label"])) for one in at]
    kept = [(int((one["label_after"] == one["label_before"]).sum()), len(one["label"])) for one in at]
    return {
        "epsilon": sizes,
        "samples": success[0][1] if success else 0,
        "success_rate": [hits / of for hits, of in success],
        "success_rate_interval": [proportion_interval(hits, of, confidence) for hits, of in success],
        "unchanged": {f"{size:g}": hits / of for size, (hits, of) in zip(sizes, kept, strict=True)},
        "unchanged_interval": {f"{size:g}": proportion_interval(*one, confidence) for size, one in zip(sizes, kept, strict=True)},
        "accuracy": [hits / of for hits, of in right],
        "accuracy_interval": [proportion_interval(hits, of, confidence) for hits, of in right],
        "per_class_success": {f"{size:g}": _by_class(one, classes) for size, one in zip(sizes, at, strict=True)},
    }


def _still_right(rows: Columns) -> np.ndarray:
    still: np.ndarray = (rows["label_before"] == rows["label"]) & (rows["label_after"] == rows["label"])
    return still


def _by_class(rows: Columns, classes: int) -> list[float | None]:
    """By true class; None where no sample of it was attacked."""
    hits, of = np.bincount(rows["label"], rows["success"], classes), np.bincount(rows["label"], minlength=classes)
    return [float(hit / count) if count else None for hit, count in zip(hits, of, strict=True)]


def _alone(rows: Columns, confidence: float) -> dict[str, Any]:
    """How surely a model reads the signs of its own gradients as an image."""
    sure = rows["confidence_after"]
    hits, of = int((sure >= CONFIDENT).sum()), len(sure)
    share = {"share_confident": hits / of, "share_confident_interval": proportion_interval(hits, of, confidence)}
    return {"mean_confidence": float(sure.mean()), **share, "samples": of}


def _rows(table: Columns, rows: np.ndarray) -> Columns:
    return {name: values[rows] for name, values in table.items()}
