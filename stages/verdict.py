"""Reach a verdict on one training set: poisoned or not, which labels, which samples. What was planted is not among the inputs."""

from dataclasses import replace
from pathlib import Path

from wellcheck import params, samples, stage, verdict
from wellcheck import patterns as carried
from wellcheck.artifacts import cache_folder, write_json
from wellcheck.detectors.reading import read_case
from wellcheck.models import device_name, pick_device, storage
from wellcheck.stage import Output
from wellcheck.verdict import account
from wellcheck.verdict.charges import CONVICTS


def main(train: Path, embedded: Path, model: Path, *, summary: Output, judged: Output, flagged: Output, patterns: Output) -> str:
    recipe, detect = params.load(params.Train), params.load(params.Detect)
    device = pick_device(params.load(params.Device).root)
    stage.remember("device", device_name(device))
    delivered = samples.read(train)
    case = read_case(samples.read_labels(train), embedded, model, seed=detect.seed, device=device)
    case = replace(case, images=delivered.images, classifier=storage.load(model).to(device))
    reached = verdict.reach(case, delivered, recipe, cache=cache_folder() / "checkpoints")
    write_json(summary, account.as_json(reached))
    account.write_judged(judged, delivered, reached)
    account.write_flagged(flagged, delivered, reached)
    carried.write(patterns, reached.patterns)
    names = ", ".join(delivered.description.class_names[label] for label in reached.convicted)
    most = max((one.evidence for one in reached.labels), default=0.0)
    evidence = f"evidence {most:.2f}, {CONVICTS} is enough"
    but = f"; {reached.not_examined:,} of {len(reached.labels):,} labels not examined" if reached.not_examined else ""
    if not reached.convicted:
        return f"no sign of poison in {len(delivered):,} samples ({evidence}){but}"
    return f"poisoned: {reached.flagged.sum():,} of {len(delivered):,} samples flagged, in {names} ({evidence}){but}"


if __name__ == "__main__":
    stage.run(main)
