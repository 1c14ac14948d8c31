"""The section on likely label errors: how many, which classes, and the images themselves with what they seem to show."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from wellcheck.artifacts import Columns, read_columns, read_json
from wellcheck.report.evidence import Evidence, images
from wellcheck.report.pictures import THUMBNAIL_SIDE, data_uri

MOST_SHOWN = 96  # thumbnails
MOST_CLASSES = 30  # with their bars
MOST_PAIRS = 10
WEAK = 0.7  # models that answer fewer than that as labelled mostly name what they cannot read


def label_errors(evidence: Evidence, *, most: int) -> dict[str, Any]:
    """What the section shows: figures, classes with their rates, pairs given → suggested, and at most so many candidates."""
    found, judged = read_json(evidence.files.label_errors), read_columns(evidence.files.judged_labels)
    names = evidence.description.class_names
    candidates = judged["sample_id"][judged["candidate"]]
    return {
        **{key: found[key] for key in ("samples", "candidates", "share", "share_interval", "answered_as_labelled", "of", "folds")},
        "weak": found["candidates"] > 0 and found["answered_as_labelled"] < WEAK,
        "skipped": [{**one, "label": names[one["label"]]} for one in found["skipped"]],
        "classes": _classes(found["per_class"], names),
        "all_classes": len(names),
        "pairs": [{**pair, **{key: names[pair[key]] for key in ("label", "suggested")}} for pair in found["pairs"][:MOST_PAIRS]],
        "all_pairs": len(found["pairs"]),
        "images": _contact_sheet(evidence, judged, min(most, MOST_SHOWN)),
        "planted": int(np.isin(candidates, evidence.planted).sum()),
        "planted_asked": int(np.isin(judged["sample_id"], evidence.planted).sum()),
    }


def _classes(figures: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Rates and intervals as shares of the page's longest, which is `scale`; the worst classes where there are many."""
    labels = [label for label, count in enumerate(figures["samples"]) if count]
    if len(labels) > MOST_CLASSES:
        labels = sorted(labels, key=lambda label: -figures["rate"][label])[:MOST_CLASSES]
    scale = max((figures["interval"][label][1] for label in labels), default=1)
    rows = [
        {
            "name": names[label],
            **{key: figures[key][label] for key in ("samples", "candidates", "rate")},
            "drawn": [value / scale for value in (figures["rate"][label], *figures["interval"][label])],
            "suggested": None if figures["suggested"][label] is None else names[figures["suggested"][label]],
        }
        for label in labels
    ]
    return {"rows": rows, "scale": scale}


def _contact_sheet(evidence: Evidence, judged: Columns, most: int) -> list[dict[str, Any]]:
    """The candidates, the likeliest error first."""
    rows = np.flatnonzero(judged["candidate"])
    rows = rows[np.argsort(judged["quality"][rows], kind="stable")][:most]
    names = evidence.description.class_names
    pictures = images(evidence.files.poisoned_train, judged["sample_id"][rows], side=THUMBNAIL_SIDE)
    return [
        {
            "uri": data_uri(picture),
            "id": int(judged["sample_id"][row]),
            "given": names[judged["label"][row]],
            "suggested": names[judged["suggested"][row]],
            "quality": float(judged["quality"][row]),
        }
        for row, picture in zip(rows.tolist(), pictures, strict=True)
    ]
