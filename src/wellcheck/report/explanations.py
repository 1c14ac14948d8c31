"""The section on explanations: maps by several methods beside those of an untrained model, confused pairs, the film, border shares."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from wellcheck.artifacts import Columns, read_columns, read_json, read_tensors
from wellcheck.report.evidence import Evidence, images
from wellcheck.report.pictures import THUMBNAIL_SIDE, data_uri, diverging, film_uri, shrink, stacked

METHODS = {
    "gradient_times_input": "gradient × input",
    "occlusion": "occlusion",
    "occlusion_times_gradient": "occlusion × gradient",
    "integrated_gradients": "integrated gradients",
    "integrated_gradients_mean": "the same, from the mean image",
    "loss_gradients": "loss gradient over training",
}
BESIDE_GREY = ("gradient_times_input", "occlusion", "integrated_gradients")
MOST_FRAMES = 61
FRAME_MILLISECONDS = 150
MOST_CLASSES = 30  # with their border shares

Maps = Mapping[str, Sequence[str]]  # "<variant>/<method>" → addresses of pictures


def explanations(evidence: Evidence, *, most: int) -> dict[str, Any]:
    """What the section shows, of at most so many examples and as many confused images. Raises InputError naming the file."""
    found, table = read_json(evidence.files.explanations), read_columns(evidence.files.explained)
    maps = read_tensors(evidence.files.explained_maps)
    kept = np.concatenate([np.flatnonzero(table["pair"] < 0)[:most], np.flatnonzero(table["pair"] >= 0)[:most]])
    drawn = {name: [data_uri(one, lossless=True) for one in _drawn(values[kept])] for name, values in maps.items()}
    methods = [name for name in METHODS if f"trained/{name}" in maps]
    rows = _rows(evidence, {name: values[kept] for name, values in table.items()}, drawn, methods)
    names = evidence.description.class_names
    return {
        **{key: found[key] for key in ("measured", "sizes", "snapshots", "completeness")},
        "methods": {name: METHODS[name] for name in methods},
        "examples": [row for row in rows if row["pair"] < 0],
        "pairs": [
            {**pair, **{key: names[pair[key]] for key in ("label", "taken_for")}, "rows": [row for row in rows if row["pair"] == number]}
            for number, pair in enumerate(found["pairs"])
            if any(row["pair"] == number for row in rows)
        ],
        "film": _film(evidence, table),
        "border": _border(found["border"], names),
        "grey": _grey(found["grey"], rows, names),
    }


def _drawn(maps: np.ndarray) -> np.ndarray:
    return shrink(diverging(maps), THUMBNAIL_SIDE)


def _rows(evidence: Evidence, table: Columns, drawn: Maps, methods: Sequence[str]) -> list[dict[str, Any]]:
    """One row of the gallery for each image and explained class."""
    names = evidence.description.class_names
    pictures = images(evidence.files.test, table["sample_id"], side=THUMBNAIL_SIDE)
    return [
        {
            "uri": data_uri(pictures[row]),
            "id": int(table["sample_id"][row]),
            "pair": int(table["pair"][row]),
            **{key: names[table[key][row]] for key in ("label", "explained")},
            "confidence": float(table["confidence"][row]),
            "maps": [
                {"method": METHODS[name], **{one: drawn[f"{one}/{name}"][row] for one in ("trained", "untrained")}} for name in methods
            ],
            "grey": {
                "predicted": names[table["grey_predicted"][row]],
                "confidence": float(table["grey_confidence"][row]),
                "maps": [
                    {
                        "method": METHODS[name],
                        **{key: drawn[f"{one}/{name}"][row] for key, one in (("colour", "trained"), ("grey", "grey"))},
                    }
                    for name in BESIDE_GREY
                ],
            }
            if "grey_predicted" in table
            else None,
        }
        for row in range(len(pictures))
    ]


def _film(evidence: Evidence, table: Columns) -> dict[str, Any] | None:
    """The frames one after another and a strip of some of them; None where nothing was filmed."""
    seen = read_tensors(evidence.files.film)
    last = len(seen["maps"]) - 1
    if last < 1 or not len(seen["rows"]):
        return None
    frames = np.unique(np.linspace(0, last, min(last + 1, MOST_FRAMES)).round().astype(int))
    pictures = images(evidence.files.test, table["sample_id"][seen["rows"]], side=THUMBNAIL_SIDE)
    # It forms fast at first: the strip's frames lie closer there.
    strip = sorted({0, last, *(step for step in (1, 2, 4, 8, 16, 32, 64, 128, 256) if step < last)})
    drawn = {int(frame): stacked(_drawn(seen["maps"][frame].astype(np.float32))) for frame in {*frames.tolist(), *strip}}
    return {
        "animated": film_uri(np.stack([drawn[int(frame)] for frame in frames]), milliseconds=FRAME_MILLISECONDS),
        "last": data_uri(drawn[last], lossless=True),
        "images": data_uri(stacked(pictures)),
        "names": [evidence.description.class_names[label] for label in table["explained"][seen["rows"]]],
        "strip": [
            {"after": frame, "uri": data_uri(drawn[frame], lossless=True), "sure": float(seen["probability"][frame].mean())}
            for frame in strip
        ],
        "minibatches": last,
        "frames": len(frames),
        "losses": (float(seen["losses"][0]), float(seen["losses"][-1])),
    }


def _border(found: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Shares of the border by method, and per class for those classes that have the most of it by the first method."""
    trained = found["trained"]
    methods = [name for name in METHODS if name in trained]
    by_class = trained["integrated_gradients"]["per_class"]
    labels = sorted(range(len(names)), key=lambda label: -(by_class[label] or 0))[:MOST_CLASSES]
    return {
        "width": found["width"],
        "area": found["area"],
        "methods": [{"name": METHODS[name], **{model: found[model][name] for model in ("trained", "untrained")}} for name in methods],
        "classes": [{"name": names[label], "shares": [trained[name]["per_class"][label] for name in methods]} for label in sorted(labels)],
        "all_classes": len(names),
    }


def _grey(found: Mapping[str, Any] | None, rows: Sequence[Mapping[str, Any]], names: tuple[str, ...]) -> dict[str, Any] | None:
    """Accuracy with and without colours, and the examples beside each other; None where this was not asked for."""
    if found is None:
        return None
    recalls = {model: found[model]["per_class"]["recall"] for model in ("colour", "grey")}
    return {
        "methods": [METHODS[name] for name in BESIDE_GREY],
        "models": {model: found[model] for model in recalls},
        "classes": [{"name": name, **{model: values[label] for model, values in recalls.items()}} for label, name in enumerate(names)],
        "rows": [row for row in rows if row["pair"] < 0],
    }
