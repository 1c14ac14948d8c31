"""Score every training sample with every detector. What was planted is not among the inputs."""

from dataclasses import replace
from pathlib import Path

from wellcheck import params, samples, stage
from wellcheck.artifacts import write_columns
from wellcheck.detectors import DETECTORS
from wellcheck.detectors.reading import read_case, read_trusted
from wellcheck.models import device_name, pick_device, storage
from wellcheck.progress import progress
from wellcheck.stage import Output, timed


def main(train: Path, embedded: Path, projection: Path, model: Path, valid: Path, *, scores: Output) -> str:
    detect = params.load(params.Detect)
    device = pick_device(params.load(params.Device).root)
    stage.remember("device", device_name(device))
    names = detect.detectors
    known = samples.read_labels(train)
    case = read_case(known, embedded, model, seed=detect.seed, device=device, projection=projection)
    if any(DETECTORS[name].images for name in names):
        case = replace(case, images=samples.read(train).images, classifier=storage.load(model).to(device))
    if detect.trusted is not None:
        case = replace(case, trusted=read_trusted(valid, case.classifier or storage.load(model), like=case))
    columns = {"sample_id": known.sample_id}
    with progress("detect", len(names), "detectors") as advance:
        for name in names:
            with timed(name):
                columns[name] = DETECTORS[name].score(case)  # NaN: a sample that the detector has not looked at
            advance(1, name)
    write_columns(scores, columns)
    return f"{len(known):,} samples scored by {', '.join(names)}"


if __name__ == "__main__":
    stage.run(main)
