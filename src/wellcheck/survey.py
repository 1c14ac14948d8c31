"""What was seen when a model's inputs were attacked: the figures, the most suspicious inputs, and maps of natural and attacked ones."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wellcheck import projections
from wellcheck.artifacts import Columns
from wellcheck.embeddings.named_layers import Captured
from wellcheck.params import Project, TwoSample
from wellcheck.samples import Samples
from wellcheck.traffic import Kind
from wellcheck.watch import LEAST, Scored, Watch

MAPPED = 200  # natural inputs in a map, and as many attacked ones
MAPPED_LAYERS = 6


def figures(watch: Watch, rows: Sequence[dict[str, Any]], mixed: Sequence[dict[str, Any]], kind: Kind) -> dict[str, Any]:
    """The metrics file but for single inputs: alarms for every kind of traffic, the natural one first, and what counts as the attack."""
    natural, settings = rows[0], watch.settings
    by_epsilon = {f"{one['epsilon']:g}": {part: one[part] for part in ("layers", "combined")} for one in rows if one["kind"] == kind.name}
    return {
        "level": settings.level,
        "false_alarm_rate": natural["combined"],
        "false_alarm_interval": natural["combined_interval"],
        "attack": kind.name,
        "epsilon": kind.epsilon,
        **by_epsilon[f"{kind.epsilon:g}"],
        "by_epsilon": by_epsilon,
        "traffic": list(rows),
        "mixed": list(mixed),
        "silent_layers": watch.silent,
        "trials": settings.trials,
        "permutations": settings.permutations,
        "queries": watch.size,
        "natural": len(watch.rows),
    }


def nothing(found: int, settings: TwoSample) -> dict[str, Any]:
    """The metrics file where there are too few test images."""
    unknown = {"false_alarm_rate": None, "layers": {}, "combined": None, "per_sample": {"auroc": None}}
    return {"level": settings.level, **unknown, "too_few": found, "needed": LEAST}


@dataclass(frozen=True)
class Survey:
    """The inputs of a watch, natural and attacked, each scored once as the one or the other."""

    watch: Watch
    asked: Samples
    images: np.ndarray  # float32 [n, C, H, W] in [0, 1]: attacked
    attacked: Captured
    scored: Scored

    def most_suspicious(self, most: int) -> np.ndarray:
        """Places in `scored`, int64."""
        return np.argsort(-self.scored.witness, kind="stable")[:most]

    def answers(self, places: np.ndarray) -> np.ndarray:
        """What the model answered, int64 [n]."""
        rows = self.scored.rows[places]
        answers: np.ndarray = np.where(self.scored.changed[places], self.attacked.labels[rows], self.watch.natural.labels[rows])
        return answers

    def listed(self, most: int) -> Iterator[dict[str, Any]]:
        """The most suspicious inputs first."""
        places = self.most_suspicious(most)
        for place, answer in zip(places.tolist(), self.answers(places).tolist(), strict=True):
            row = int(self.scored.rows[place])
            yield {
                "sample_id": int(self.asked.sample_id[row]),
                "witness": float(self.scored.witness[place]),
                "p_value": float(self.scored.p_value[place]),
                "label": int(self.asked.labels[row]),
                "answer": answer,
                "attacked": bool(self.scored.changed[place]),
            }

    def pictures(self, most: int) -> dict[str, np.ndarray]:
        """`suspicious`: those inputs as they came, `natural`: beside each a natural one with its answer, black if there is none; uint8."""
        places = self.most_suspicious(most)
        rows, changed = self.scored.rows[places], self.scored.changed[places]
        came = np.where(changed[:, None, None, None], (self.images[rows] * 255).round().astype(np.uint8), self.asked.images[rows])
        beside = np.zeros_like(came)
        for place, (row, answer) in enumerate(zip(rows.tolist(), self.answers(places).tolist(), strict=True)):
            alike = np.flatnonzero((self.watch.natural.labels == answer) & (np.arange(len(self.asked)) != row))
            if len(alike):
                beside[place] = self.asked.images[alike[place % len(alike)]]
        return {"suspicious": came, "natural": beside}

    def maps(self, project: Project) -> Columns:
        """t-SNE of the images themselves and of six layers, natural and attacked, and of the last layer for the most frequent answer."""
        count, watch = min(MAPPED, len(self.asked)), self.watch
        both = watch.natural.joined(self.attacked)
        taken = np.concatenate([np.arange(count), len(self.asked) + np.arange(count)])
        columns = {
            "sample_id": np.tile(self.asked.sample_id[:count], 2),
            "attacked": np.repeat([False, True], count),
            "answer": both.labels[taken],
        }
        inputs = np.concatenate([self.asked.images[:count].astype(np.float32) / 255, self.images[:count]]).reshape(2 * count, -1)
        spread = np.unique(np.linspace(0, len(watch.layers) - 1, MAPPED_LAYERS).round().astype(int))
        for name, values in {"input": inputs, **{watch.layers[place]: both.layers[watch.layers[place]][taken] for place in spread}}.items():
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
