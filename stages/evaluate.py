"""Measure every model on the test set, what the trigger does to them, and what does that the verdict recovered."""

from pathlib import Path

import numpy as np

from wellcheck import metrics, params, patterns, proof, samples, stage
from wellcheck.artifacts import Columns, read_columns, write_columns, write_csv, write_json
from wellcheck.models import pick_device, storage
from wellcheck.predictions import Predictions, predict
from wellcheck.samples import Samples
from wellcheck.stage import Output


def main(
    test: Path, outcomes: Path, recovered: Path, models: list[Path], *, predictions: Output, classify: Output, confusion: Output
) -> str:
    confidence = params.load(params.Evaluate).confidence
    device = pick_device(params.load(params.Device).root)
    known, attacked = samples.read(test), read_columns(outcomes)
    classifiers = {folder.name: storage.load(folder) for folder in models}
    answers = {name: predict(classifier, known.images, device=device, title=name) for name, classifier in classifiers.items()}
    tried = proof.trials(patterns.read(recovered), known, classifiers["poisoned"], answers["poisoned"].labels, device=device)
    figures: dict[str, dict[str, object]] = {}
    tables: list[Columns] = []
    for name, predicted in answers.items():
        figures[name] = _figures(known, predicted, confidence) | _backdoor(known, attacked, name, confidence)
        if tried:
            found = proof.outcome(tried, known, classifiers[name], predicted.labels, device=device, confidence=confidence)
            figures[name]["recovered"] = found
        tables.append(_table(name, known, predicted))
        _write_pairs(confusion / f"{name}.csv", known, predicted)
    write_columns(predictions, {name: np.concatenate([table[name] for table in tables]) for name in tables[0]})
    write_json(classify, figures)
    told = ", ".join(f"{name} {values['accuracy']:.2%}" for name, values in figures.items())
    return f"accuracy: {told}"


def _figures(known: Samples, predicted: Predictions, confidence: float) -> dict[str, object]:
    found = metrics.classification(known.labels, predicted.labels, len(known.description.class_names), confidence)
    return {**found, "log_loss": predicted.log_loss(known.labels)}


def _backdoor(known: Samples, attacked: Columns, variant: str, confidence: float) -> dict[str, object]:
    rows = attacked["variant"] == variant
    if not rows.any():
        return {}
    counts = metrics.backdoor(known.labels, attacked["label_after"][rows], attacked["target"][rows])
    return {"backdoor": counts.figures(confidence)}


def _table(variant: str, known: Samples, predicted: Predictions) -> Columns:
    return {
        "variant": np.full(len(known), variant),
        "sample_id": known.sample_id,
        "label": known.labels,
        "predicted": predicted.labels,
        "confidence": predicted.confidences,
    }


def _write_pairs(path: Path, known: Samples, predicted: Predictions) -> None:
    names = known.description.class_names
    rows = [(names[actual], names[guess]) for actual, guess in zip(known.labels, predicted.labels, strict=True)]
    write_csv(path, ["actual", "predicted"], rows)


if __name__ == "__main__":
    stage.run(main)
