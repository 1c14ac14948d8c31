"""The report: what every section shows, in the order of the page."""

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from wellcheck.artifacts import read_json
from wellcheck.experiments import Experiment, differences, flatten
from wellcheck.params import Params
from wellcheck.report.charts import Line, line_chart
from wellcheck.report.evasion import evasion
from wellcheck.report.evidence import VARIANTS, Evidence, images
from wellcheck.report.explanations import explanations
from wellcheck.report.label_errors import label_errors
from wellcheck.report.maps import build_maps
from wellcheck.report.pictures import SPRITE_SIDE, THUMBNAIL_SIDE, data_uri
from wellcheck.report.rounding import chance, figure, percent
from wellcheck.report.verdict import MOST_FLAGGED, verdict
from wellcheck.report.watch import watch
from wellcheck.report.wording import aim, summary, trigger_name

TEMPLATES = Path(__file__).parent / "templates"
MOST_BYTES = 9_900_000
MOST_MATRIX_CLASSES = 20
MOST_OUTLIERS = 1500  # thumbnails on the page, over all labels and detectors


def render(evidence: Evidence, params: Params, provenance: Mapping[str, Any], experiment: Experiment | None) -> str:
    """The whole page as one self-contained HTML text of at most 10 MB: where it would be larger, fewer images are shown, at least one."""
    shown, most = params.report, MOST_FLAGGED
    while True:
        page = _render(evidence, params.model_copy(update={"report": shown}), provenance, experiment, most)
        fewer = {name: max(1, getattr(shown, name) // 2) for name in ("points_per_map", "outliers_per_label", "images_per_grid")}
        least = most == 1 and all(getattr(shown, name) == 1 for name in fewer)
        if len(page.encode()) <= MOST_BYTES or least:
            return page
        shown, most = shown.model_copy(update=fewer), max(1, most // 2)


def _render(evidence: Evidence, params: Params, provenance: Mapping[str, Any], experiment: Experiment | None, most: int) -> str:
    sections = {
        "summary": summary(evidence, params),
        "verdict": verdict(evidence, most=most),
        "classes": classes(evidence),
        "grids": grids(evidence, params),
        "curves": curves(evidence),
        "accuracy": accuracy(evidence, experiment),
        "backdoor": backdoor(evidence, params),
        "maps": build_maps(evidence, params.report),
        "detectors": evidence.detection["detectors"],
        "outliers": outliers(evidence, params),
        "label_errors": label_errors(evidence, most=most),
        "explanations": explanations(evidence, most=most),
        "evasion": evasion(evidence, params, most=most),
        "watch": watch(evidence, experiment, most=most),
        "article": beside_article(evidence, params, experiment),
    }
    template = environment().get_template("report.html.j2")
    return template.render(params=params, flat=flatten(params.model_dump()), provenance=provenance, evidence=evidence, **sections)


def environment() -> Environment:
    """Templates with everything from outside escaped and every missing name an error."""
    loaded = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # The page runs this one script and no other, whatever a file or class name may have smuggled in.
    script = (TEMPLATES / "maps.js").read_text(encoding="utf-8")
    loaded.globals["script"] = Markup(script)
    loaded.globals["script_hash"] = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    loaded.filters["percent"] = percent
    loaded.filters["figure"] = figure
    loaded.filters["chance"] = chance
    return loaded


def classes(evidence: Evidence) -> list[dict[str, Any]]:
    """How many training images each class has, healthy and as trained on."""
    names = evidence.description.class_names
    counts = {variant: np.bincount(evidence.train[variant].labels, minlength=len(names)) for variant in VARIANTS}
    most = max(int(values.max()) for values in counts.values())
    return [
        {"name": name, **{variant: int(counts[variant][label]) for variant in VARIANTS}, "most": most} for label, name in enumerate(names)
    ]


def grids(evidence: Evidence, params: Params) -> dict[str, list[dict[str, Any]]]:
    """The same random training images, healthy and as trained on."""
    rng = np.random.default_rng(params.report.seed)
    count = params.report.images_per_grid
    ids = evidence.train["poisoned"].sample_id
    planted = rng.permutation(evidence.planted)[: count // 4]  # a quarter planted: at 1 % a fair draw would mostly show none
    chosen = np.sort(np.concatenate([planted, rng.permutation(np.setdiff1d(ids, planted))[: count - len(planted)]]))
    files = {"clean": evidence.files.clean_train, "poisoned": evidence.files.poisoned_train}
    return {variant: _labelled(evidence, variant, chosen, images(files[variant], chosen, side=THUMBNAIL_SIDE)) for variant in VARIANTS}


def _labelled(evidence: Evidence, variant: str, sample_id: np.ndarray, pictures: np.ndarray) -> list[dict[str, Any]]:
    train = evidence.train[variant]
    labels = train.labels[np.searchsorted(train.sample_id, sample_id)]
    planted = np.isin(sample_id, evidence.planted) & (variant == "poisoned")
    return [
        {"uri": data_uri(picture), "label": evidence.description.class_names[label], "id": int(sample), "planted": bool(mark)}
        for picture, label, sample, mark in zip(pictures, labels, sample_id, planted, strict=True)
    ]


def curves(evidence: Evidence) -> dict[str, Markup]:
    """Loss and accuracy by epoch, both models."""
    epochs = {variant: [row["epoch"] or 0 for row in rows] for variant, rows in evidence.history.items()}

    def line(variant: str, part: str, kind: str) -> Line:
        values = [row[f"{part}_{kind}"] for row in evidence.history[variant]]
        return Line(f"{evidence.models[variant]}, {part}", f"{variant} {part}", epochs[variant], values)

    lines = {
        kind: [line(variant, part, kind) for variant in evidence.models for part in ("train", "valid")] for kind in ("loss", "accuracy")
    }
    return {
        "loss": line_chart(lines["loss"], title="Log loss by epoch", x_label="epoch", y_label="log loss (nats)"),
        "accuracy": line_chart(lines["accuracy"], title="Accuracy by epoch", x_label="epoch", y_label="accuracy"),
    }


def accuracy(evidence: Evidence, experiment: Experiment | None) -> dict[str, Any]:
    """Accuracy of both models, per class and as confusion matrices."""
    names = evidence.description.class_names
    article = experiment.article.per_class if experiment and experiment.article else {}
    if any(len(values) != len(names) for values in article.values()):
        article = {}  # another data set under this experiment's name; the differences are listed below the figures
    variants = {variant: evidence.classify[variant] for variant in evidence.models}
    rows = [
        {
            "name": name,
            **{
                f"{variant}_{kind}": variants[variant]["per_class"][kind][label] for variant in variants for kind in ("recall", "precision")
            },
            **{f"article_{kind}": values[label] for kind, values in article.items()},
            "mistaken_for": _most_confused(evidence.confusion["poisoned"], label, names),
        }
        for label, name in enumerate(names)
    ]
    matrices = {variant: evidence.confusion[variant] for variant in variants} if len(names) <= MOST_MATRIX_CLASSES else {}
    shaded = {
        variant: [[(int(count), count / max(total, 1)) for count in counts] for counts, total in zip(matrix, matrix.sum(1), strict=True)]
        for variant, matrix in matrices.items()
    }
    return {"variants": variants, "rows": rows, "matrices": shaded, "article": sorted(article)}


def _most_confused(confusion: np.ndarray, label: int, names: tuple[str, ...]) -> str:
    wrong = confusion[label].copy()
    wrong[label] = 0
    return f"{names[wrong.argmax()]} ({wrong.max()})" if wrong.any() else "–"


def backdoor(evidence: Evidence, params: Params) -> dict[str, Any] | None:
    """Both rates of both models, and test images without and with the trigger beside what the models say of them."""
    if not evidence.attacked:
        return None
    rng = np.random.default_rng(params.report.seed)
    mine = evidence.outcomes["variant"] == "poisoned"
    meant = evidence.outcomes["sample_id"][mine & (evidence.outcomes["target"] >= 0)]
    chosen = np.sort(rng.permutation(meant)[: params.report.images_per_grid])
    before, after = (images(path, chosen, side=THUMBNAIL_SIDE) for path in (evidence.files.test, evidence.files.triggered))
    names = evidence.description.class_names
    answers = {variant: _answers(evidence, variant, chosen) for variant in VARIANTS}
    labels = evidence.test.labels[np.searchsorted(evidence.test.sample_id, chosen)]
    pairs = [
        {
            "label": names[labels[row]],
            "wanted": names[answers["poisoned"]["target"][row]],
            "before": {"uri": data_uri(before[row]), **{v: names[answers[v]["label_before"][row]] for v in VARIANTS}},
            "after": {"uri": data_uri(after[row]), **{v: names[answers[v]["label_after"][row]] for v in VARIANTS}},
        }
        for row in range(len(chosen))
    ]
    answer, whom = aim(params.poison, names)
    rates = {variant: evidence.classify[variant]["backdoor"] for variant in VARIANTS}
    return {"pairs": pairs, "rates": rates, "answer": answer, "whom": whom, "trigger": trigger_name(params.poison)}


def _answers(evidence: Evidence, variant: str, sample_id: np.ndarray) -> dict[str, np.ndarray]:
    mine = evidence.outcomes["variant"] == variant
    rows = np.searchsorted(evidence.outcomes["sample_id"][mine], sample_id)
    return {name: evidence.outcomes[name][mine][rows] for name in ("target", "label_before", "label_after")}


def outliers(evidence: Evidence, params: Params) -> dict[str, Any]:
    """Per detector and label, the most suspicious images; where labels are many, the labels whose worst images stand out most."""
    scores = {name: values for name, values in evidence.scores.items() if name != "sample_id"}
    train, count = evidence.train["poisoned"], params.report.outliers_per_label
    labels = len(evidence.description.class_names)
    most_labels = max(1, MOST_OUTLIERS // (count * len(scores)))
    tables = {name: _worst(values, train.labels, count, most_labels) for name, values in scores.items()}
    wanted = np.unique(np.concatenate([rows for table in tables.values() for rows in table.values()]))
    pictures = images(evidence.files.poisoned_train, train.sample_id[wanted], side=SPRITE_SIDE)
    uris = {int(row): data_uri(picture) for row, picture in zip(wanted, pictures, strict=True)}
    planted = np.isin(train.sample_id, evidence.planted)

    def show(detector: str, row: int) -> dict[str, Any]:
        score, sample = float(scores[detector][row]), int(train.sample_id[row])
        return {"uri": uris[row], "id": sample, "score": score, "planted": bool(planted[row])}

    shown = {
        detector: [
            {
                "label": evidence.description.class_names[label],
                "planted": int(planted[rows].sum()),
                "images": [show(detector, row) for row in rows.tolist()],
            }
            for label, rows in table.items()
        ]
        for detector, table in tables.items()
    }
    return {"shown": shown, "labels": min(labels, most_labels), "all_labels": labels}


def _worst(scores: np.ndarray, labels: np.ndarray, count: int, most_labels: int) -> dict[int, np.ndarray]:
    order = np.argsort(-np.nan_to_num(scores, nan=-np.inf), kind="stable")
    order = order[~np.isnan(scores[order])]
    worst = {int(label): order[labels[order] == label][:count] for label in np.unique(labels[order])}
    kept = sorted(worst, key=lambda label: -scores[worst[label]].mean())[:most_labels]
    return {label: worst[label] for label in sorted(kept)}


def beside_article(evidence: Evidence, params: Params, experiment: Experiment | None) -> dict[str, Any] | None:
    """The article's figures beside this run's, and every setting that is not the experiment's."""
    if experiment is None:
        return None
    others = {
        "evasion": "evasion",
        "disparity": "disparity",
        "explain": "explanations",
        "label_errors": "label_errors",
        "adversarial_detection": "watched",
    }
    metrics = {name: read_json(getattr(evidence.files, field)) for name, field in others.items()}
    history = {variant: rows[-1] for variant, rows in evidence.history.items()}
    ours = {"classify": evidence.classify, "poison_detection": evidence.detection, "history": history, **metrics}
    figures = [
        {"name": one.name, "article": one.value, "ours": flatten(ours).get(one.ours)}
        for one in (experiment.article.figures if experiment.article else [])
    ]
    return {
        "title": experiment.title,
        "about": experiment.about,
        "note": experiment.article.note if experiment.article else "",
        "figures": figures,
        "differences": differences(experiment, params.model_dump()),
    }
