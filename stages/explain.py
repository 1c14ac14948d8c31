"""Explain the model: which pixels its answers hang on, by several methods, beside a model that has learnt nothing."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wellcheck import explanations, film, metrics, params, samples, stage, training
from wellcheck.artifacts import cache_folder, write_columns, write_json, write_tensors
from wellcheck.explanations import Methods, Shown, Subjects
from wellcheck.models import Classifier, build, device_name, pick_device, storage
from wellcheck.predictions import Predictions, predict
from wellcheck.samples import Samples
from wellcheck.stage import Output

FILMED = 4  # images


def main(train: Path, test: Path, model: Path, *, maps: Output, shown: Output, filmed: Output, figures: Output) -> str:
    settings, recipe = params.load(params.Explain), params.load(params.Train)
    confidence = params.load(params.Evaluate).confidence
    device = pick_device(params.load(params.Device).root)
    stage.remember("device", device_name(device))
    training.make_repeatable(device)
    known, tested, trained = samples.read(train), samples.read(test), storage.load(model)
    classes = len(known.description.class_names)
    methods = Methods(explanations.sizes(settings, *known.images.shape[2:]), settings.steps, explanations.mean_image(known.images), device)
    untrained = build(trained.description, seed=settings.seed).eval()
    subjects = Subjects(trained, untrained, [state for _, state in storage.load_snapshots(model)])
    answers = predict(trained, tested.images, device=device, title="who is explained")
    chosen, pairs = explanations.choose(tested.labels, answers, classes, settings)
    some = tested.take(samples.in_turns(tested.labels, settings.seed)[: settings.measured])
    found: dict[str, Any] = explanations.measure(methods, subjects, some, confidence)
    found |= {"sizes": asdict(methods.sizes), "snapshots": len(subjects.states), "pairs": [asdict(pair) for pair in pairs], "grey": None}
    pictures = methods.beside(subjects, tested.images[chosen.rows], chosen.explained)
    columns = _table(tested, answers, chosen)
    if settings.grey:
        colourless, grey_test, grey_answers, grey_mean = _without_colours(known, tested, recipe, device)
        said = {"colour": answers, "grey": grey_answers}
        found["grey"] = {name: metrics.classification(tested.labels, one.labels, classes, confidence) for name, one in said.items()}
        pictures["grey"] = replace(methods, mean=grey_mean).maps(colourless, grey_test.images[chosen.rows], chosen.explained)
        columns |= {"grey_predicted": grey_answers.labels[chosen.rows], "grey_confidence": grey_answers.confidences[chosen.rows]}
    write_columns(shown, columns)
    write_tensors(maps, {f"{name}/{method}": values for name, by_method in pictures.items() for method, values in by_method.items()})
    rows = np.flatnonzero(chosen.pair < 0)[:FILMED]
    of = tested.images[chosen.rows[rows]], chosen.explained[rows]
    seen = film.record(known, recipe, *of, minibatches=settings.film, device=device)
    write_tensors(filmed, {"rows": rows, **{name: getattr(seen, name) for name in ("maps", "probability", "losses")}})
    write_json(figures, found)
    return _summary(found, len(np.unique(chosen.rows)), len(pictures["trained"]))


def _table(tested: Samples, answers: Predictions, chosen: Shown) -> dict[str, np.ndarray]:
    """What is shown, a row for each image and explained class."""
    return {
        "sample_id": tested.sample_id[chosen.rows],
        "label": tested.labels[chosen.rows],
        "predicted": answers.labels[chosen.rows],
        "confidence": answers.confidences[chosen.rows],
        "explained": chosen.explained,
        "pair": chosen.pair,
    }


def _without_colours(
    known: Samples, tested: Samples, recipe: params.Train, device: torch.device
) -> tuple[Classifier, Samples, Predictions, np.ndarray]:
    """The same network, trained on images without colours; the test images, what it says of them, the mean training image."""
    grey_train, grey_test = explanations.in_grey(known), explanations.in_grey(tested)
    cache = cache_folder() / "checkpoints"
    trained = training.train_again(grey_train, recipe.unrecorded(), device=device, cache=cache, title="without colours")
    answers = predict(trained.classifier, grey_test.images, device=device, title="without colours")
    return trained.classifier, grey_test, answers, explanations.mean_image(grey_train.images)


def _summary(found: Mapping[str, Any], images: int, methods: int) -> str:
    share = found["border"]["trained"]["integrated_gradients"]["mean"]
    told = "" if share is None else f"; {share:.1%} of the attribution on the border, which is {found['border']['area']:.1%} of the image"
    return f"{images} test images by {methods} methods{told}"


if __name__ == "__main__":
    stage.run(main)
