"""The section on attacks on the model's inputs: how little it takes, what that looks like, and whom it falls on."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from wellcheck.artifacts import Columns, read_columns, read_json, read_tensors
from wellcheck.params import L2_ATTACKS, Params
from wellcheck.report.charts import SERIES_STYLES, Line, line_chart
from wellcheck.report.evidence import Evidence, images
from wellcheck.report.pictures import THUMBNAIL_SIDE, data_uri, shrink, signed
from wellcheck.robustness import SIGN_ALONE, image_name

MODELS = ("trained", "untrained")
WORDS = {
    "fgsm": "FGSM",
    "max_normed": "max-normed gradient",
    "pgd_linf": "PGD (L∞)",
    "pgd_l2": "PGD (L2)",
    "apgd_ce": "Auto-PGD (cross-entropy)",
    "apgd_dlr": "Auto-PGD (logit ratio)",
    "square": "Square",
    "ensemble": "ensemble",
    "feature_matching": "feature matching",
    "low_frequency": "PGD, low frequencies (L∞)",
    "noise_linf": "noise (L∞)",
    "noise_l2": "noise (L2)",
}
CHARTS = {
    "untargeted": "Answers that change",
    "least_likely": "Answered as the least likely class",
    "random_class": "Answered as a class drawn at random",
}
IN_PICTURES = ("fgsm", "max_normed")  # attacks whose triptychs are shown
ARTICLE_EPSILON = 0.01  # at which article A4 asks who keeps the answer
MOST_CLASSES = 24  # with bars


def evasion(evidence: Evidence, params: Params, *, most: int) -> dict[str, Any]:
    """What the section shows, by part."""
    figures, disparity = read_json(evidence.files.evasion), read_json(evidence.files.disparity)
    return {
        "summary": _summary(figures),
        "charts": list(_charts(figures, params)),
        "kept": _kept(figures),
        "examples": _examples(evidence, figures, most),
        "alone": figures.get("fgsm", {}).get(SIGN_ALONE),
        "disparity": _disparity(evidence, disparity, params),
    }


def _summary(figures: Mapping[str, Any]) -> dict[str, Any]:
    """The strongest attack at the largest size, by L∞ if there is one, and noise of that size beside it."""
    attacks = [name for name in figures if not name.startswith("noise")]
    in_reach = [name for name in attacks if name not in L2_ATTACKS] or attacks or list(figures)
    strongest = max(in_reach, key=lambda name: figures[name]["success_rate"][-1])
    controls = [name for name in figures if name.startswith("noise") and (name in L2_ATTACKS) == (strongest in L2_ATTACKS)]
    noise = controls[0] if controls and controls[0] != strongest else None
    control = figures[noise]["success_rate"][-1] if noise else None
    return {"attack": WORDS[strongest], **figures[strongest], "noise": control, "l2": strongest in L2_ATTACKS}


def _charts(figures: Mapping[str, Any], params: Params) -> Iterator[Markup]:
    """Success over epsilon, one chart for every norm and goal."""
    for inside, unit in ((False, "largest change of a pixel (1 is white)"), (True, "length of the change")):
        names = [name for name in figures if (name in L2_ATTACKS) == inside]
        for goal in params.evasion.goals:
            lines = [_line(name, figures[name] if goal == "untargeted" else figures[name][goal], place) for place, name in enumerate(names)]
            if lines:
                yield line_chart(lines, title=CHARTS[goal], x_label=unit, y_label="share of the images", y_range=(0, 1), marks=True)


def _line(name: str, curve: Mapping[str, Any], place: int) -> Line:
    style = "rest" if name.startswith("noise") else f"series{place % SERIES_STYLES}"
    return Line(WORDS[name], style, [0.0, *curve["epsilon"]], [0.0, *curve["success_rate"]])


def _kept(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """By attack and size: who keeps the answer, of the trained model and of an untrained one, and how many answers are still right."""
    return [
        {
            "name": WORDS[name],
            "epsilon": epsilon,
            "article": epsilon == ARTICLE_EPSILON and name not in L2_ATTACKS,
            "unchanged": values["unchanged"][f"{epsilon:g}"],
            "unchanged_interval": values["unchanged_interval"][f"{epsilon:g}"],
            "accuracy": values["accuracy"][place],
            "accuracy_interval": values["accuracy_interval"][place],
            "untrained": values["untrained"]["unchanged"][f"{epsilon:g}"],
            "goals": {goal: values[goal]["success_rate"][place] for goal in ("random_class", "least_likely") if goal in values},
        }
        for name, values in figures.items()
        for place, epsilon in enumerate(values["epsilon"])
    ]


def _examples(evidence: Evidence, figures: Mapping[str, Any], most: int) -> list[dict[str, Any]]:
    """By attack, at most so many times: an image, what is added to it and what it becomes, with what both models make of each."""
    kept, table = read_tensors(evidence.files.evasion_images), read_columns(evidence.files.evasion_outcomes)
    shown = kept["sample_id"]
    if not len(shown):
        return []
    before = images(evidence.files.test, shown, side=None)
    names, labels = evidence.description.class_names, evidence.test.labels[np.searchsorted(evidence.test.sample_id, shown)]
    alone = {model: _answers(table, shown, model, SIGN_ALONE, None) for model in MODELS}
    signs = _bytes(kept[image_name("trained", SIGN_ALONE, np.nan)])
    found = []
    for name in [name for name in IN_PICTURES if name in figures]:
        epsilon = _telling(figures[name])
        after = kept[image_name("trained", name, epsilon)]
        answers = {model: _answers(table, shown, model, name, epsilon) for model in MODELS}
        rows = []
        for row, label in enumerate(labels[:most].tolist()):
            change, factor = (signs[row], None) if name == "fgsm" else signed(after[row] * 255 - before[row])
            rows.append(
                {
                    "label": names[label],
                    "factor": factor,
                    "original": {"uri": _thumbnail(before[row]), "said": _said(answers, "before", row, names, label)},
                    "change": {"uri": _thumbnail(change), "said": _said(alone, "after", row, names, label) if factor is None else []},
                    "attacked": {"uri": _thumbnail(_bytes(after[row])), "said": _said(answers, "after", row, names, label)},
                }
            )
        found.append({"name": WORDS[name], "epsilon": epsilon, "rows": rows})
    return found


def _telling(curve: Mapping[str, Any]) -> float:
    """The smallest size that changes half of the answers, or the largest there is."""
    sizes = [epsilon for epsilon, rate in zip(curve["epsilon"], curve["success_rate"], strict=True) if rate >= 0.5]
    return float(min(sizes, default=curve["epsilon"][-1]))


def _answers(table: Columns, shown: np.ndarray, model: str, attack: str, epsilon: float | None) -> Columns:
    mine = (table["variant"] == model) & (table["attack"] == attack) & (table["goal"] == "untargeted")
    if epsilon is not None:
        mine &= table["epsilon"] == epsilon
    rows = np.flatnonzero(mine)
    rows = rows[np.searchsorted(table["sample_id"][rows], shown)]
    return {name: table[name][rows] for name in ("label_before", "label_after", "confidence_before", "confidence_after")}


def _said(answers: Mapping[str, Columns], when: str, row: int, names: Sequence[str], label: int) -> list[dict[str, Any]]:
    """What each model answers to one image, and how surely."""
    told = {model: (columns[f"label_{when}"][row], columns[f"confidence_{when}"][row]) for model, columns in answers.items()}
    return [
        {"model": model, "name": names[answer], "sure": float(sure), "wrong": model == "trained" and answer != label}
        for model, (answer, sure) in told.items()
    ]


def _bytes(pixels: np.ndarray) -> np.ndarray:
    """Pixels in [0, 1] as uint8."""
    whole: np.ndarray = (pixels * 255).round().astype(np.uint8)
    return whole


def _thumbnail(image: np.ndarray) -> str:
    return data_uri(shrink(image[None], THUMBNAIL_SIDE)[0])


def _disparity(evidence: Evidence, found: Mapping[str, Any], params: Params) -> dict[str, Any]:
    """Per class who is missed and who is attacked; the worst missed first where classes are many."""
    names = evidence.description.class_names
    rates = {"missed": found["missed"], **{goal: found["attacked"][goal] for goal in CHARTS if goal in found["attacked"]}}
    order = list(range(len(names)))
    if len(names) > MOST_CLASSES:
        order = sorted(order, key=lambda label: -(found["missed"]["per_class"][label]["rate"] or 0))[:MOST_CLASSES]
    return {
        "rows": [{"name": names[label], "rates": {kind: values["per_class"][label] for kind, values in rates.items()}} for label in order],
        "all": len(names),
        "kinds": {kind: values["disparity"] for kind, values in rates.items()},
        "correlation": found["correlation"],
        "of_right": found["answered_right"]["correlation"],
        "asked": sum(one["samples"] for one in found["attacked"]["untargeted"]["per_class"]),
        "tested": sum(one["samples"] for one in found["missed"]["per_class"]),
        "pairs": [{**pair, "label": names[pair["label"]], "taken_for": names[pair["taken_for"]]} for pair in found["confused_pairs"]],
        "names": names,
        "attack": WORDS[params.disparity.attack],
        "epsilon": params.disparity.epsilon,
        "epsilon_targeted": params.disparity.epsilon_targeted,
    }
