"""Compare traffic with natural inputs by what the trained model's layers make of it: attacked, noisy, shifted, triggered and mixed."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from wellcheck import params, samples, stage, survey, traffic
from wellcheck.artifacts import replacing, write_columns, write_json
from wellcheck.embeddings.named_layers import Captured
from wellcheck.models import pick_device, storage
from wellcheck.stage import Output
from wellcheck.survey import Survey
from wellcheck.watch import LEAST, Watch

NATURAL, TRIGGERED = "natural", "trigger"
SHOWN = 24  # suspicious inputs whose images are kept


def main(test: Path, triggered: Path, clean: Path, poisoned: Path, *, figures: Output, listed: Output, maps: Output, images: Output) -> str:
    settings, confidence = params.load(params.TwoSample), params.load(params.Evaluate).confidence
    device = pick_device(params.load(params.Device).root)
    whole = samples.read(test)
    known = whole.take(np.sort(samples.in_turns(whole.labels, settings.seed)[: settings.images]))
    if len(known) < LEAST:
        write_json(figures, survey.nothing(len(known), settings))
        write_json(listed, {"inputs": []})
        write_columns(maps, {"sample_id": known.sample_id[:0], "attacked": np.zeros(0, bool), "answer": known.labels[:0]})
        _write_pictures(images, {"suspicious": known.images[:0], "natural": known.images[:0]})
        return f"not enough data: {len(known)} test images, and {LEAST} are needed"
    watch = Watch.over(storage.load(clean), known.images, settings, device)
    asked = known.take(watch.rows)
    rows = [{"kind": NATURAL, "epsilon": None, "success": None, **watch.alarms(watch.natural, 0.0, confidence)}]
    attack = traffic.Kind(traffic.PGD, max(settings.epsilons))
    for kind in traffic.kinds(settings):
        made = traffic.make(kind, watch.classifier, asked.images, settings, device)
        seen = watch.see(made, kind.told)
        rows.append({"kind": kind.name, "epsilon": kind.epsilon, **_compared(watch, seen, confidence)})
        if kind == attack:
            surveyed = Survey(watch, asked, made, seen, watch.score(seen))
    stamped = samples.read(triggered)
    if np.isin(asked.sample_id, stamped.sample_id).all():
        misled = Watch.over(storage.load(poisoned), known.images, settings, device)
        carrying = stamped.take(np.searchsorted(stamped.sample_id, asked.sample_id))
        rows.append({"kind": TRIGGERED, "epsilon": None, **_compared(misled, misled.see(carrying.images, TRIGGERED), confidence)})
    shares = [*sorted(settings.shares), 1.0]
    mixed = [{"share": share, **watch.alarms(surveyed.attacked, share, confidence)} for share in shares]
    found = survey.figures(watch, rows, mixed, attack) | {"per_sample": surveyed.scored.figures(settings.level, confidence)}
    write_json(figures, found)
    write_json(listed, {"inputs": list(surveyed.listed(settings.listed))})
    write_columns(maps, surveyed.maps(params.load(params.Project)))
    _write_pictures(images, surveyed.pictures(min(SHOWN, settings.listed)))
    alarms, false, auroc = found["combined"], found["false_alarm_rate"], found["per_sample"]["auroc"]
    return f"PGD at {attack.epsilon:g} raises {alarms:.0%} alarms, natural inputs {false:.1%}; AUROC of single inputs {auroc:.3f}"


def _compared(watch: Watch, seen: Captured, confidence: float) -> dict[str, Any]:
    """How many answers such inputs change, and how often they raise an alarm."""
    return {"success": float((seen.labels != watch.natural.labels).mean()), **watch.alarms(seen, 1.0, confidence)}


def _write_pictures(path: Path, pictures: dict[str, np.ndarray]) -> None:
    with replacing(path) as temporary:
        storage.write_tensors(temporary, {name: torch.from_numpy(kept) for name, kept in pictures.items()})


if __name__ == "__main__":
    stage.run(main)
