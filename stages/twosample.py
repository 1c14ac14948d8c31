"""Compare traffic with natural inputs by what the trained model's layers make of it: attacked, noisy, shifted, triggered and mixed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wellcheck import params, projections, samples, stage, traffic
from wellcheck.artifacts import replacing, write_columns, write_json
from wellcheck.embeddings.named_layers import Captured
from wellcheck.models import pick_device, storage
from wellcheck.params import Project, TwoSample
from wellcheck.samples import Samples
from wellcheck.stage import Output
from wellcheck.watch import Scored, Watch

NATURAL, TRIGGERED = "natural", "trigger"
MAPPED = 200  # natural queries in a map, and as many changed ones
MAPPED_LAYERS = 6
SHOWN = 24  # suspicious inputs whose images are kept


def main(test: Path, triggered: Path, clean: Path, poisoned: Path, *, figures: Output, listed: Output, maps: Output, images: Output) -> str:
    settings, confidence = params.load(params.TwoSample), params.load(params.Evaluate).confidence
    device = pick_device(params.load(params.Device).root)
    whole = samples.read(test)
    known = whole.take(np.sort(samples.in_turns(whole.labels, settings.seed)[: settings.images]))
    watch = Watch.over(storage.load(clean), known.images, settings, device)
    asked = known.take(watch.rows)
    rows = [{"kind": NATURAL, "epsilon": None, "success": None, **watch.alarms(watch.natural, 0.0, confidence)}]
    main_kind = traffic.Kind(traffic.PGD, max(settings.epsilons))
    for kind in traffic.kinds(settings):
        made = traffic.make(kind, watch.classifier, asked.images, settings, device)
        seen = watch.see(made, kind.told)
        rows.append({"kind": kind.name, "epsilon": kind.epsilon, **_compared(watch, seen, confidence)})
        if kind == main_kind:
            attacked, pictures = seen, made
    rows += _with_trigger(poisoned, samples.read(triggered), known, settings, confidence, device)
    scored = watch.score(attacked)
    mixed = [{"share": share, **watch.alarms(attacked, share, confidence)} for share in [*sorted(settings.shares), 1.0]]
    told = _figures(rows, mixed, watch, scored, confidence, main_kind)
    write_json(figures, told)
    order = np.argsort(-scored.witness, kind="stable")[: settings.listed]
    write_json(listed, {"inputs": list(_listed(order, scored, asked, watch, attacked))})
    _write_images(images, order[:SHOWN], scored, asked, pictures, watch, attacked)
    write_columns(maps, _maps(watch, asked, attacked, pictures, params.load(params.Project)))
    seen, false, auroc = told["combined"], told["false_alarm_rate"], told["per_sample"]["auroc"]
    return f"PGD at {main_kind.epsilon:g} raises {seen:.0%} alarms, natural inputs {false:.1%}; AUROC of single inputs {auroc:.3f}"


def _compared(watch: Watch, seen: Captured, confidence: float) -> dict[str, Any]:
    """How many answers such inputs change, and how often they raise an alarm."""
    return {"success": float((seen.labels != watch.natural.labels).mean()), **watch.alarms(seen, 1.0, confidence)}


def _with_trigger(
    poisoned: Path, triggered: Samples, known: Samples, settings: TwoSample, confidence: float, device: torch.device
) -> list[dict[str, Any]]:
    """Inputs with the trigger, seen by the model that learnt it; none where nothing was planted."""
    if not np.isin(known.sample_id, triggered.sample_id).all():
        return []
    watch = Watch.over(storage.load(poisoned), known.images, settings, device)
    asked = known.sample_id[watch.rows]
    stamped = triggered.take(np.searchsorted(triggered.sample_id, asked))
    return [{"kind": TRIGGERED, "epsilon": None, **_compared(watch, watch.see(stamped.images, TRIGGERED), confidence)}]


def _figures(
    rows: list[dict[str, Any]], mixed: list[dict[str, Any]], watch: Watch, scored: Scored, confidence: float, kind: traffic.Kind
) -> dict[str, Any]:
    settings, natural = watch.settings, rows[0]
    (attacked,) = [one for one in rows if (one["kind"], one["epsilon"]) == (kind.name, kind.epsilon)]
    return {
        "level": settings.level,
        "false_alarm_rate": natural["combined"],
        "false_alarm_interval": natural["combined_interval"],
        "attack": kind.name,
        "epsilon": kind.epsilon,
        "layers": attacked["layers"],
        "combined": attacked["combined"],
        "by_epsilon": {
            f"{one['epsilon']:g}": {"layers": one["layers"], "combined": one["combined"]} for one in rows if one["kind"] == kind.name
        },
        "per_sample": scored.figures(settings.level, confidence),
        "traffic": rows,
        "mixed": mixed,
        "silent_layers": watch.silent,
        "trials": settings.trials,
        "permutations": settings.permutations,
        "queries": natural["queries"],
        "natural": len(watch.rows),
    }


def _listed(order: np.ndarray, scored: Scored, asked: Samples, watch: Watch, attacked: Captured) -> Iterator[dict[str, Any]]:
    """The most suspicious inputs first."""
    for place in order.tolist():
        row, changed = int(scored.rows[place]), bool(scored.changed[place])
        yield {
            "sample_id": int(asked.sample_id[row]),
            "witness": float(scored.witness[place]),
            "p_value": float(scored.p_value[place]),
            "label": int(asked.labels[row]),
            "answer": int((attacked if changed else watch.natural).labels[row]),
            "attacked": changed,
        }


def _write_images(
    path: Path,
    order: np.ndarray,
    scored: Scored,
    asked: Samples,
    pictures: np.ndarray,
    watch: Watch,
    attacked: Captured,
) -> None:
    """The most suspicious inputs as they came, and beside each a natural one with the same answer; bytes, [n, C, H, W]."""
    rows, changed = scored.rows[order], scored.changed[order]
    came = np.where(changed[:, None, None, None], (pictures[rows] * 255).round().astype(np.uint8), asked.images[rows])
    answers = np.where(changed, attacked.labels[rows], watch.natural.labels[rows])
    beside = np.zeros_like(came)
    for place, (row, answer) in enumerate(zip(rows.tolist(), answers.tolist(), strict=True)):
        alike = np.flatnonzero((watch.natural.labels == answer) & (np.arange(len(asked)) != row))
        if len(alike):
            beside[place] = asked.images[alike[place % len(alike)]]
    with replacing(path) as temporary:
        storage.write_tensors(temporary, {"suspicious": torch.from_numpy(came), "natural": torch.from_numpy(beside)})


def _maps(watch: Watch, asked: Samples, attacked: Captured, pictures: np.ndarray, project: Project) -> dict[str, np.ndarray]:
    """t-SNE of the images themselves and of six layers, natural inputs and attacked ones, and of one answer's penultimate features."""
    count = min(MAPPED, len(asked))
    few = slice(0, count)
    both = watch.natural.joined(attacked)
    taken = np.concatenate([np.arange(count), len(asked) + np.arange(count)])
    columns = {
        "sample_id": np.tile(asked.sample_id[few], 2),
        "attacked": np.repeat([False, True], count),
        "answer": both.labels[taken],
    }
    mapped = [watch.layers[place] for place in np.unique(np.linspace(0, len(watch.layers) - 1, MAPPED_LAYERS).round().astype(int))]
    inputs = np.concatenate([asked.images[few].astype(np.float32) / 255, pictures[few]]).reshape(2 * count, -1)
    for name, values in {"input": inputs, **{name: both.layers[name][taken] for name in mapped}}.items():
        columns[f"{name}_x"], columns[f"{name}_y"] = _tsne(values, project).T
    answers, times = np.unique(columns["answer"], return_counts=True)
    alike = columns["answer"] == answers[times.argmax()]
    points = np.full((2 * count, 2), np.nan, np.float32)
    points[alike] = _tsne(both.layers[watch.layers[-1]][taken[alike]], project)
    columns["one_answer_x"], columns["one_answer_y"] = points.T
    return columns


def _tsne(values: np.ndarray, project: Project) -> np.ndarray:
    return projections.tsne(
        values, perplexity=project.perplexity, components=project.components, iterations=project.iterations, seed=project.seed
    )


if __name__ == "__main__":
    stage.run(main)
