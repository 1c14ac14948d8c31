"""Compare traffic with natural inputs by what the trained model's layers make of it: attacked, noisy, shifted, triggered and mixed."""

from pathlib import Path

from wellcheck import params, samples, stage, survey
from wellcheck.artifacts import write_columns, write_json, write_tensors
from wellcheck.models import pick_device, storage
from wellcheck.stage import Output
from wellcheck.survey import Survey
from wellcheck.watch import LEAST


def main(test: Path, triggered: Path, clean: Path, poisoned: Path, *, figures: Output, listed: Output, maps: Output, images: Output) -> str:
    settings, confidence = params.load(params.TwoSample), params.load(params.Evaluate).confidence
    device = pick_device(params.load(params.Device).root)
    known = survey.choose(samples.read(test), settings)
    if len(known) < LEAST:
        found = survey.nothing(known, settings)
        told = f"not enough data: {len(known)} test images, and {LEAST} are needed"
    else:
        done = Survey.of(storage.load(clean), known, settings, confidence, device)
        more = survey.triggered(storage.load(poisoned), known, samples.read(triggered), settings, confidence, device)
        found = done.files(more, params.load(params.Project), confidence)
        alarms, false, auroc = found.figures["combined"], found.figures["false_alarm_rate"], found.figures["per_sample"]["auroc"]
        told = f"PGD at {done.attack.epsilon:g} raises {alarms:.0%} alarms, natural inputs {false:.1%}; AUROC of single inputs {auroc:.3f}"
    write_json(figures, found.figures)
    write_json(listed, {"inputs": found.listed})
    write_columns(maps, found.maps)
    write_tensors(images, found.pictures)
    return told


if __name__ == "__main__":
    stage.run(main)
