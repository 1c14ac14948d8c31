"""The section on traffic: whether attacked inputs can be told from natural ones by what the layers make of them."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from markupsafe import Markup

from wellcheck.artifacts import read_columns, read_json, read_tensors
from wellcheck.experiments import Experiment
from wellcheck.report.charts import SERIES_STYLES, Line, line_chart, scatter
from wellcheck.report.evasion import WORDS
from wellcheck.report.evidence import Evidence
from wellcheck.report.pictures import THUMBNAIL_SIDE, data_uri, shrink

KINDS = WORDS | {
    "natural": "natural inputs: false alarms",
    "pgd": "PGD, all steps",
    "pgd_linf": "PGD that stops when the answer changes",
    "gaussian_noise": "Gaussian noise",
    "blur": "natural, blurred",
    "brightness": "natural, brighter",
    "rotation": "natural, turned",
    "trigger": "natural with the trigger, on the poisoned model",
}
ALIGNMENT = "alignment"  # the layer, as in embeddings.named_layers, which takes seconds to import
AT_ONCE = 24  # suspicious inputs that are shown before somebody asks for more
MOST_LAYERS = 24  # rows of the table, evenly spread over the network
BY_LAYER = re.compile(r"adversarial_detection\.by_epsilon\.(?P<epsilon>[0-9.e-]+)\.layers\.(?P<layer>.+)")
MAPS = {"input": "the images themselves", "one_answer": "the last layer, of one answer alone"}


def watch(evidence: Evidence, experiment: Experiment | None, *, most: int) -> dict[str, Any]:
    """What the section shows, by part."""
    found = read_json(evidence.files.watched)
    if "too_few" in found:
        return {"too_few": found["too_few"], "needed": found["needed"]}
    kinds = dict.fromkeys(one["kind"] for one in found["traffic"])
    curves = {name: [one for one in found["traffic"] if one["kind"] == name] for name in kinds}
    article = _by_layer(experiment)
    return {
        "too_few": None,
        **{key: found[key] for key in ("level", "false_alarm_rate", "false_alarm_interval", "combined", "epsilon", "trials", "queries")},
        "per_sample": found["per_sample"],
        "charts": [*_charts(curves, found["mixed"]), _over_layers(found["watched_layers"], curves, article)],
        "layers": _layers(found["watched_layers"], curves),
        "aligned": ALIGNMENT in found["watched_layers"],
        "article": article,
        "epsilons": [one["epsilon"] for one in curves["pgd"]],
        "traffic": [{**one, "name": KINDS[one["kind"]]} for one in found["traffic"]],
        "mixed": found["mixed"],
        "silent": found["silent_layers"],
        "inputs": _inputs(evidence),
        "most": min(most, AT_ONCE),
        "maps": list(_maps(evidence)),
    }


def _charts(curves: Mapping[str, list[dict[str, Any]]], mixed: list[dict[str, Any]]) -> Iterator[Markup]:
    """Alarms over the size of the change, and over how many of the inputs are attacked."""
    sized = {name: rows for name, rows in curves.items() if rows[0]["epsilon"] is not None}
    start = curves["natural"][0]["combined"]
    lines = [
        Line(
            KINDS[name],
            "rest" if name == "gaussian_noise" else f"series{place % SERIES_STYLES}",
            [0.0, *(one["epsilon"] for one in rows)],
            [start, *(one["combined"] for one in rows)],
        )
        for place, (name, rows) in enumerate(sized.items())
    ]
    alarms, size = "share of tests with an alarm", "largest change of a pixel (1 is white)"
    yield line_chart(lines, title="Alarms, all inputs changed", x_label=size, y_label=alarms, y_range=(0, 1), marks=True)
    line = Line(KINDS["pgd"], "series0", [0.0, *(one["share"] for one in mixed)], [start, *(one["combined"] for one in mixed)])
    share = "share of the inputs that are attacked"
    yield line_chart([line], title="Alarms in mixed traffic", x_label=share, y_label=alarms, y_range=(0, 1), marks=True)


def _over_layers(names: list[str], curves: Mapping[str, list[dict[str, Any]]], article: Mapping[str, Mapping[str, float]]) -> Markup:
    """Alarms by every layer, in the order of the network, for PGD at every size, with the article's beside them."""
    natural, *attacked = (
        (told, [one["layers"][name] for name in names])
        for told, one in [("natural inputs", curves["natural"][0]), *((f"PGD {one['epsilon']:g}", one) for one in curves["pgd"])]
    )
    places = [float(place) for place in range(1, len(names) + 1)]
    lines = [Line(told, f"series{place % SERIES_STYLES}", places, rates) for place, (told, rates) in enumerate(attacked)]
    lines.append(Line(natural[0], "rest", places, natural[1]))
    for place, (epsilon, rates) in enumerate(article.items(), start=len(attacked)):
        known = {where: rates[name] for where, name in zip(places, names, strict=True) if name in rates}
        lines.append(Line(f"the article, PGD {epsilon}", f"series{place % SERIES_STYLES}", list(known), list(known.values())))
    title, layers = "Alarms by each layer", "layer, in the order of the network"
    return line_chart(lines, title=title, x_label=layers, y_label="share of tests with an alarm", y_range=(0, 1), marks=True)


def _layers(names: list[str], curves: Mapping[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Per layer, in the order of the network, how often natural inputs and PGD at every size raise an alarm."""
    shown = [names[place] for place in np.unique(np.linspace(0, len(names) - 1, MOST_LAYERS).round().astype(int))]
    columns = [*curves["natural"], *curves["pgd"]]
    rows = [{"name": name, "rates": [one["layers"][name] for one in columns]} for name in shown]
    return [*rows, {"name": "all together", "rates": [one["combined"] for one in columns]}]


def _by_layer(experiment: Experiment | None) -> dict[str, dict[str, float]]:
    """The article's rates by size of the attack and by layer."""
    found: dict[str, dict[str, float]] = {}
    for one in experiment.article.figures if experiment and experiment.article else []:
        told = BY_LAYER.fullmatch(one.ours)
        if told and one.value is not None:
            found.setdefault(told["epsilon"], {})[told["layer"]] = one.value
    return found


def _inputs(evidence: Evidence) -> list[dict[str, Any]]:
    """The most suspicious inputs, each beside a natural one with the same answer."""
    kept, listed = read_tensors(evidence.files.watched_images), read_json(evidence.files.suspicious)["inputs"]
    names = evidence.description.class_names
    pictures, beside = (shrink(kept[name], THUMBNAIL_SIDE) for name in ("suspicious", "natural"))
    return [
        {
            "uri": data_uri(picture),
            "beside": data_uri(other),
            "id": one["sample_id"],
            "answer": names[one["answer"]],
            "label": names[one["label"]],
            "p_value": one["p_value"],
            "attacked": one["attacked"],
        }
        for picture, other, one in zip(pictures, beside, listed, strict=False)
    ]


def _maps(evidence: Evidence) -> Iterator[Markup]:
    """t-SNE of natural and attacked inputs, from the images to the last layer."""
    table = read_columns(evidence.files.watched_maps)
    for name in [column.removesuffix("_x") for column in table if column.endswith("_x")]:
        where = np.column_stack([table[f"{name}_x"], table[f"{name}_y"]])
        groups = [("natural", "series0", where[~table["attacked"]]), ("attacked", "series1", where[table["attacked"]])]
        yield scatter(groups, title=MAPS.get(name, name))
