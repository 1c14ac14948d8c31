"""The section on the verdict: evidence per label, scores and curves, the flagged images, what they carry, before and after, controls."""

from typing import Any

import numpy as np
from markupsafe import Markup

from wellcheck.patterns import Pattern
from wellcheck.report.charts import Bars, Line, histogram, line_chart
from wellcheck.report.evidence import Evidence, flagged
from wellcheck.report.pictures import THUMBNAIL_SIDE, data_uri, shrink, signed, with_opacity
from wellcheck.report.wording import not_examined

MOST_LABELS = 20  # with their evidence
BEST = 4  # detectors whose curves have a colour
MOST_FLAGGED = 200  # thumbnails
MOST_TRIGGERS = 12  # labels whose pattern is shown
TRIGGER_SIDE = 96  # pixels
BINS = 20
VERDICT = "verdict"  # its name among the detectors' curves
VARIANTS = {
    "poisoned": ("poisoned", "the set as delivered"),
    "cleansed": ("cleansed", "what was flagged is taken out or relabelled"),
    "perfect_filter": ("perfect filter", "exactly what was planted is taken out"),
    "random_filter": ("random filter", "as many are taken out at random"),
    "clean": ("clean", "nothing was ever planted"),
}


def verdict(evidence: Evidence, *, most: int) -> dict[str, Any]:
    """What the section shows, by part."""
    return {
        "convicted": [evidence.description.class_names[label] for label in evidence.verdict["target_labels"]],
        "labels": labels(evidence),
        "scores": scores(evidence),
        "curves": curves(evidence),
        "flagged": contact_sheet(evidence, most),
        "triggers": triggers(evidence),
        "variants": variants(evidence),
        "controls": controls(evidence),
    }


def labels(evidence: Evidence) -> dict[str, Any]:
    """The labels with the most evidence against them first, at most MOST_LABELS, and what became of each group that was tried."""
    names, all_labels = evidence.description.class_names, evidence.verdict["labels"]
    worst = sorted(all_labels, key=lambda one: (not one["convicted"], -one["evidence"], -one["z"], one["label"]))[:MOST_LABELS]
    rows = [{**one, "name": names[one["label"]]} for one in worst]
    return {
        "rows": rows,
        "all": len(all_labels),
        "threshold": evidence.verdict["threshold"],
        "not_examined": not_examined(evidence.verdict, names),
    }


def scores(evidence: Evidence) -> list[Markup]:
    """Histograms over the convicted labels: the probability of being poison, and the mixture's score if it was asked for."""
    train, judged = evidence.train["poisoned"], evidence.judged
    inside = np.isin(train.labels, evidence.verdict["target_labels"])
    if not inside.any():
        return []
    found = judged["flagged"][inside]
    charts = [_split(judged["probability"][inside], found, np.linspace(0, 1, BINS + 1), "Probability of being poison", "probability")]
    if "mixture" in evidence.scores:
        values = evidence.scores["mixture"][inside]
        known = ~np.isnan(values)
        if known.any():
            low, high = float(values[known].min()), float(values[known].max())
            edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
            charts.append(_split(values[known], found[known], edges, "Score of the detector mixture", "standard deviations"))
    return charts


def _split(values: np.ndarray, found: np.ndarray, edges: np.ndarray, title: str, x_label: str) -> Markup:
    groups = [
        Bars(name, style, np.histogram(values[mask], edges)[0].tolist())
        for name, style, mask in (("not flagged", "clean", ~found), ("flagged", "poisoned", found))
    ]
    return histogram(groups, edges.tolist(), title=title, x_label=x_label, y_label="images (logarithmic)")


def curves(evidence: Evidence) -> dict[str, Any] | None:
    """ROC and precision over recall of the verdict and every detector, and the `others`, drawn in grey; None without a truth."""
    if not evidence.roc and not evidence.precision_recall:
        return None
    tpr, fpr, precision = (evidence.detection["verdict"][name] for name in ("tpr", "fpr", "precision"))
    return {
        "others": [name for name in evidence.detection["detectors"] if name not in _styles(evidence)],
        "roc": _shares(
            _lines(evidence, evidence.roc, ("false_positive_rate", "true_positive_rate")) + _decision(fpr, tpr),
            ("ROC", "false positive rate", "true positive rate"),
        ),
        "precision_recall": _shares(
            _lines(evidence, evidence.precision_recall, ("recall", "precision")) + _decision(tpr, precision),
            ("Precision and recall", "recall: share of the planted images found", "precision"),
        ),
    }


def _shares(lines: list[Line], named: tuple[str, str, str]) -> Markup:
    title, x_label, y_label = named
    return line_chart(lines, title=title, x_label=x_label, y_label=y_label, y_range=(0, 1))


def _lines(evidence: Evidence, rows: list[dict[str, str]], columns: tuple[str, str]) -> list[Line]:
    """One line a detector: the verdict, the best in colours on top of it, and the rest in one grey below."""
    style = _styles(evidence)
    named = dict.fromkeys(row["detector"] for row in rows)
    across, up = ([float(row[column]) for row in rows] for column in columns)
    return [
        Line(
            name,
            style.get(name, "rest"),
            [value for value, row in zip(across, rows, strict=True) if row["detector"] == name],
            [value for value, row in zip(up, rows, strict=True) if row["detector"] == name],
            listed=name in style,
        )
        for name in [*(one for one in named if one not in style), *(one for one in style if one in named)]
    ]


def _styles(evidence: Evidence) -> dict[str, str]:
    """The verdict, and the detectors of the largest average precision, with their styles."""
    figures = evidence.detection["detectors"]
    best = sorted(figures, key=lambda name: -(figures[name]["average_precision"] or 0))[:BEST]
    return {VERDICT: VERDICT} | {name: f"series{index}" for index, name in enumerate(best)}


def _decision(across: float | None, up: float | None) -> list[Line]:
    """What the verdict decided on, as one dot."""
    return [] if across is None or up is None else [Line("the verdict’s decision", f"{VERDICT} point", [across], [up], marks=True)]


def contact_sheet(evidence: Evidence, most: int) -> dict[str, Any]:
    """The flagged images, the surest first, with what is said of each."""
    names, total = evidence.description.class_names, evidence.verdict["flagged"]
    found = flagged(evidence.files.flagged, most)
    pictures = shrink(found.images, THUMBNAIL_SIDE)
    innocent = ~np.isin(found.sample_id, np.union1d(evidence.planted, evidence.cover)) & evidence.known
    images = [
        {
            "uri": data_uri(picture),
            "id": int(found.sample_id[row]),
            "given": names[found.label[row]],
            "shown": names[found.suspected_label[row]],
            "probability": float(found.probability[row]),
            "reasons": found.reasons[row],
            "innocent": bool(innocent[row]),
        }
        for row, picture in enumerate(pictures)
    ]
    return {"images": images, "total": total, "innocent": int(innocent.sum())}


def triggers(evidence: Evidence) -> list[dict[str, Any]]:
    """Per convicted label, what its flagged images have in common, as pictures."""
    found = evidence.verdict["target_labels"]
    bent = {one["label"] for one in evidence.verdict["labels"] if one["bent"]}
    return [
        {"label": evidence.description.class_names[label], **_pictures(evidence.patterns[label], bent=label in bent)}
        for label in found[:MOST_TRIGGERS]
        if label in evidence.patterns
    ]


def _pictures(pattern: Pattern, *, bent: bool) -> dict[str, Any]:
    difference, factor = signed(pattern.difference)
    pasted = with_opacity(pattern.colour, pattern.weight)
    small = [shrink(picture[None], TRIGGER_SIDE)[0] for picture in (difference, pasted)]
    return {
        "difference": data_uri(small[0], lossless=True) if pattern.difference.any() else None,
        "factor": factor,
        "pasted": data_uri(small[1], lossless=True) if pattern.weight.any() else None,
        "share": float((pattern.weight > 0).mean()),
        "mesh": _mesh(pattern.displacement, pattern.weight.shape) if bent and pattern.displacement.any() else None,
        "moved": float(np.hypot(*pattern.displacement).mean()),
    }


def _mesh(displacement: np.ndarray, shape: tuple[int, ...]) -> Markup:
    """A square net through the knots of a displacement, bent as images are, over the straight one."""
    knots = displacement.shape[1]
    rows, columns = (np.linspace(0, length - 1, knots) for length in shape)
    straight = np.stack(np.meshgrid(rows, columns, indexing="ij"))
    # What comes from further down is moved up.
    nets = (("straight", straight), ("bent", straight - displacement))
    threads = [
        f'<polyline class="{name}" points="{" ".join(f"{x:.1f},{y:.1f}" for y, x in thread)}"/>'
        for name, net in nets
        for one in (net, net.swapaxes(1, 2))
        for thread in one.transpose(1, 2, 0)
    ]
    box = f"{-0.08 * shape[1]:.1f} {-0.08 * shape[0]:.1f} {1.16 * shape[1]:.1f} {1.16 * shape[0]:.1f}"
    return Markup(f'<svg class="mesh" viewBox="{box}" role="img" aria-label="how the images are bent">{"".join(threads)}</svg>')


def variants(evidence: Evidence) -> list[dict[str, Any]]:
    """What each training set makes of the model: those that are there, and mean something in this run."""
    meaningful = [name for name in VARIANTS if evidence.known or name not in ("perfect_filter", "clean")]
    return [
        {
            "variant": name,
            "name": VARIANTS[name][0] if evidence.known or name != "poisoned" else "as it came",
            "about": VARIANTS[name][1],
            "trained_on": evidence.trained_on.get(name),
            "backdoor": evidence.classify[name].get("backdoor") if evidence.attacked else None,
            "recovered": evidence.classify[name].get("recovered"),
            **{key: evidence.classify[name][key] for key in ("accuracy", "accuracy_interval")},
        }
        for name in meaningful
        if name in evidence.classify
    ]


def controls(evidence: Evidence) -> list[dict[str, Any]]:
    """What the same examination says where there is nothing to find; none where nobody knows that there is nothing."""
    if not evidence.known:
        return []
    clean = evidence.clean_verdict
    names = evidence.description.class_names
    detail = {
        "labels": len(clean["labels"]),
        "groups": sum(one["groups"] for one in clean["labels"]),
        "evidence": max((one["evidence"] for one in clean["labels"]), default=0.0),
        "named": [names[label] for label in clean["target_labels"]],
    }
    rows = [{"name": "the clean set", "poisoned": clean["poisoned"], "flagged": clean["flagged"], "detail": detail}]
    others = {name: one for name, one in evidence.detection["controls"].items() if name != "clean_data" and "verdict" in one}
    return rows + [
        {"name": name.replace("_", " "), "poisoned": bool(one["verdict"]), "flagged": one["flagged"], "detail": None}
        for name, one in others.items()
    ]
