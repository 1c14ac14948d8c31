"""Find labels that are likely wrong: models that did not see a sample say what it shows. What was planted is not among the inputs."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from wellcheck import label_errors, params, samples, second_opinions, stage
from wellcheck.artifacts import cache_folder, write_columns, write_csv, write_json
from wellcheck.cleansing import DECIMALS, as_text, read_files
from wellcheck.label_errors import LabelErrors
from wellcheck.models import device_name, pick_device
from wellcheck.samples import Samples
from wellcheck.stage import Output


def main(train: Path, files: Path, *, judged: Output, listed: Output, figures: Output) -> str:
    settings, recipe = params.load(params.LabelErrors), params.load(params.Train)
    confidence = params.load(params.Evaluate).confidence
    device = pick_device(params.load(params.Device).root)
    stage.remember("device", device_name(device))
    whole = samples.read(train)
    choice = second_opinions.choose(whole.labels, settings)
    asked = whole.take(choice.rows)
    probabilities = second_opinions.hear(asked, recipe, settings, device=device, cache=cache_folder() / "checkpoints")
    found = label_errors.find(asked.labels, label_errors.calibrated(asked.labels, probabilities))
    _write(judged, listed, asked, found, read_files(files))
    names = asked.description.class_names
    counted = label_errors.figures(asked.labels, found, probabilities.argmax(1), len(names), confidence)
    skipped = [{"label": label, "samples": count} for label, count in choice.too_few.items()]
    write_json(figures, counted | {"of": len(whole), "folds": settings.folds, "skipped": skipped})
    told = f"; not judged, for want of samples: {', '.join(names[label] for label in choice.too_few)}" if skipped else ""
    return f"{counted['candidates']:,} of {len(asked):,} labels are likely wrong{told}"


def _write(judged: Path, listed: Path, asked: Samples, found: LabelErrors, files: Mapping[int, str]) -> None:
    """What is held of every sample as a table, and the candidates as a CSV for people, the likeliest error first."""
    columns = {"sample_id": asked.sample_id, "label": asked.labels, "suggested": found.suggested, "quality": found.quality}
    write_columns(judged, columns | {"candidate": found.candidate})
    names = np.array([as_text(name) for name in asked.description.class_names], object)
    rows = found.ranked
    ids = asked.sample_id[rows].tolist()
    standing = [as_text(files.get(sample_id, "")) for sample_id in ids]
    quality = [round(value, DECIMALS) for value in found.quality[rows].tolist()]
    ranked = zip(ids, standing, names[asked.labels[rows]], names[found.suggested[rows]], quality, strict=True)
    write_csv(listed, ["sample_id", "file", "label", "suggested", "quality"], list(ranked))


if __name__ == "__main__":
    stage.run(main)
