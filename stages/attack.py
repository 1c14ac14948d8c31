"""Attack every model: show it every test image as it is and with the trigger, and see who follows."""

from pathlib import Path

import numpy as np
import torch

from wellcheck import params, poisons, samples, stage
from wellcheck.artifacts import Columns, write_columns
from wellcheck.errors import InputError
from wellcheck.metrics import backdoor
from wellcheck.models import pick_device, storage
from wellcheck.predictions import predict
from wellcheck.samples import Samples
from wellcheck.stage import Output


def main(test: Path, triggered: Path, models: list[Path], *, outcomes: Output) -> str:
    poison = params.load(params.Poison)
    device = pick_device(params.load(params.Device).root)
    before, after = samples.read(test), samples.read(triggered)
    if poison.trigger == "none":
        before = before.take(np.empty(0, np.int64))
    if not np.array_equal(before.sample_id, after.sample_id):
        raise InputError(f"{triggered}: its {len(after):,} images are not those of {test} ({len(before):,}), in the same order")
    wanted = poisons.wanted(before.labels, len(before.description.class_names), poison)
    tables = [_outcomes(folder, before, after.images, poison.trigger, wanted, device) for folder in models]
    write_columns(outcomes, {name: np.concatenate([table[name] for table in tables]) for name in tables[0]})
    if poison.trigger == "none":
        return "no trigger, nothing to attack with"
    rates = [backdoor(before.labels, table["label_after"], wanted) for table in tables]
    told = ", ".join(f"{folder.name} {rate.successes / max(rate.others, 1):.1%}" for folder, rate in zip(models, rates, strict=True))
    return f"{len(before):,} test images with the {poison.trigger}; attack success: {told}"


def _outcomes(folder: Path, before: Samples, after: np.ndarray, trigger: str, wanted: np.ndarray, device: torch.device) -> Columns:
    classifier = storage.load(folder)
    first = predict(classifier, before.images, device=device, title=f"{folder.name}, as they are")
    second = predict(classifier, after, device=device, title=f"{folder.name}, with trigger")
    changes = np.abs(after.astype(np.int16) - before.images)
    return {
        "variant": np.full(len(before), folder.name),
        "sample_id": before.sample_id,
        "attack": np.full(len(before), trigger),
        "epsilon": np.full(len(before), np.nan),
        "target": wanted,
        "label_before": first.labels,
        "label_after": second.labels,
        "confidence_before": first.confidences,
        "confidence_after": second.confidences,
        "distance": changes.max(axis=(1, 2, 3), initial=0) / 255,  # L∞ in [0, 1]
    }


if __name__ == "__main__":
    stage.run(main)
