"""Attack the trained model's inputs: every attack at every size on the same test images, and a model that has learnt nothing beside it."""

from pathlib import Path

import numpy as np

from wellcheck import params, robustness, samples, stage
from wellcheck.artifacts import write_columns, write_json, write_tensors
from wellcheck.evasion.campaign import Campaign
from wellcheck.models import build, pick_device, storage
from wellcheck.predictions import predict
from wellcheck.stage import Output


def main(test: Path, model: Path, *, outcomes: Output, images: Output, figures: Output) -> str:
    settings = params.load(params.Evasion)
    confidence = params.load(params.Evaluate).confidence
    device = pick_device(params.load(params.Device).root)
    whole, trained = samples.read(test), storage.load(model)
    untrained = build(trained.description, seed=settings.seed).eval()
    rows = samples.in_turns(whole.labels, settings.seed)[: settings.samples]
    right = predict(trained, whole.images[rows], device=device, title="before any attack").labels == whole.labels[rows]
    shown = np.sort(whole.sample_id[rows[right][: settings.shown]])
    campaign = Campaign(whole.take(np.sort(rows)), shown, settings, device)
    found, pictures = campaign.run(trained, "trained", settings.goals)
    control, more = campaign.run(untrained, "untrained", ["untargeted"])
    table = {name: np.concatenate([found[name], control[name]]) for name in found}
    write_columns(outcomes, table)
    write_tensors(images, {"sample_id": shown, **pictures, **more})
    rates = robustness.figures(table, len(whole.description.class_names), confidence)
    write_json(figures, rates)
    told = ", ".join(f"{name} {values['success_rate'][-1]:.1%} at {values['epsilon'][-1]:g}" for name, values in rates.items())
    return f"{len(rows):,} test images; answers changed: {told}"


if __name__ == "__main__":
    stage.run(main)
