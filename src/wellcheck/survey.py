"""What a survey of a served model's traffic finds: alarms for every kind of it, the most suspicious inputs, maps."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from wellcheck import projections, traffic
from wellcheck.artifacts import Columns
from wellcheck.embeddings.named_layers import OF_ANSWERS, Captured
from wellcheck.errors import InputError
from wellcheck.models import Classifier
from wellcheck.params import Project, TwoSample
from wellcheck.samples import Samples, in_turns
from wellcheck.traffic import PGD, Kind
from wellcheck.watch import LEAST, Scored, Watch

NATURAL, TRIGGERED = "natural", "trigger"
MAPPED = 200  # natural inputs in a map, and as many attacked ones
MAPPED_LAYERS = 6
LEAST_MAPPED = 4  # points

Row = dict[str, Any]


class Files(NamedTuple):
    """What the stage writes."""

    figures: dict[str, Any]
    listed: list[Row]
    maps: Columns
    pictures: dict[str, np.ndarray]


def choose(test: Samples, settings: TwoSample) -> Samples:
    """The test images that are watched: of every class as many. Raises InputError where the answer to be mapped is no class."""
    classes = len(test.description.class_names)
    if settings.answer is not None and settings.answer >= classes:
        raise InputError(f"twosample.answer: found {settings.answer}, expected a class: 0 to {classes - 1}")
    return test.take(np.sort(in_turns(test.labels, settings.seed)[: settings.images]))


def nothing(known: Samples, settings: TwoSample) -> Files:
    """Where there are too few test images."""
    unknown = {"false_alarm_rate": None, "layers": {}, "combined": None, "per_sample": {"auroc": None}}
    figures = {"level": settings.level, **unknown, "too_few": len(known), "needed": LEAST}
    maps = {"sample_id": known.sample_id[:0], "attacked": np.zeros(0, bool), "answer": known.labels[:0]}
    return Files(figures, [], maps, {"suspicious": known.images[:0], "natural": known.images[:0]})


def triggered(
    classifier: Classifier, known: Samples, stamped: Samples, settings: TwoSample, confidence: float, device: torch.device
) -> list[Row]:
    """The row of inputs with the trigger (`stamped`), for the model that it misleads; none where it is not on all that are asked."""
    if not len(stamped):
        return []
    watch = Watch.over(classifier, known.images, settings, device)
    asked, order = known.sample_id[watch.rows], np.argsort(stamped.sample_id)
    if not np.isin(asked, stamped.sample_id).all():
        return []
    carrying = stamped.take(order[np.searchsorted(stamped.sample_id, asked, sorter=order)])
    seen = watch.see(carrying.images, TRIGGERED)
    return [_row(Kind(TRIGGERED, None), watch.changed_answers(seen), watch.alarms(seen, [1.0], confidence)[0])]


def _row(kind: Kind, success: float | None, alarms: Row) -> Row:
    return {"kind": kind.name, "epsilon": kind.epsilon, "success": success, **alarms}


@dataclass(frozen=True)
class Survey:
    """The inputs of a watch, natural and attacked, each scored once as the one or the other; and what raised alarms."""

    watch: Watch
    asked: Samples
    images: np.ndarray  # float32 [n, C, H, W] in [0, 1]: attacked
    attacked: Captured
    scored: Scored
    attack: Kind  # how
    rows: list[Row]  # for every kind of traffic, the natural one first
    mixed: list[Row]  # for every share of attacked inputs

    @classmethod
    def of(cls, classifier: Classifier, known: Samples, settings: TwoSample, confidence: float, device: torch.device) -> "Survey":
        """Watch a classifier by test images, and compare every kind of traffic with them. The attack is PGD at its largest."""
        watch, attack = Watch.over(classifier, known.images, settings, device), Kind(PGD, max(settings.epsilons))
        asked = known.take(watch.rows)
        made = traffic.make(attack, classifier, asked.images, settings, device)
        attacked = watch.see(made, attack.told)
        # By how many inputs that is: of few queries several shares are the same.
        shares = list({watch.changed(share): share for share in [*sorted(settings.shares), 1.0]}.values())
        natural, *mixed = watch.alarms(attacked, [0.0, *shares], confidence)
        rows = [_row(Kind(NATURAL, None), None, natural)]
        for kind in traffic.kinds(settings):
            if kind == attack:
                seen, alarms = attacked, mixed[-1]
            else:
                seen = watch.see(traffic.make(kind, classifier, asked.images, settings, device), kind.told)
                (alarms,) = watch.alarms(seen, [1.0], confidence)
            rows.append(_row(kind, watch.changed_answers(seen), alarms))
        by_share = [{"share": one["changed"] / one["queries"], **one} for one in mixed]
        return cls(watch, asked, made, attacked, watch.score(attacked), attack, rows, by_share)

    def files(self, more: list[Row], project: Project, confidence: float) -> Files:
        """What is written of it, with the rows of more traffic."""
        listed = self.watch.settings.listed
        return Files(self.figures(more, confidence), list(self.listed(listed)), self.maps(project), self.pictures(listed))

    def figures(self, more: list[Row], confidence: float) -> dict[str, Any]:
        """The metrics file."""
        natural, settings = self.rows[0], self.watch.settings
        sized = [one for one in self.rows if one["kind"] == self.attack.name]
        by_epsilon = {f"{one['epsilon']:g}": {part: one[part] for part in ("layers", "combined")} for one in sized}
        return {
            "level": settings.level,
            "false_alarm_rate": natural["combined"],
            "false_alarm_interval": natural["combined_interval"],
            "attack": self.attack.name,
            "epsilon": self.attack.epsilon,
            **by_epsilon[f"{self.attack.epsilon:g}"],
            "by_epsilon": by_epsilon,
            "traffic": [*self.rows, *more],
            "mixed": self.mixed,
            "per_sample": self.scored.figures(settings.level, confidence),
            "watched_layers": self.watch.layers,
            "silent_layers": self.watch.silent,
            "trials": settings.trials,
            "permutations": settings.permutations,
            "queries": self.watch.size,
            "natural": len(self.watch.rows),
        }

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
        """t-SNE of the images themselves and of six layers, natural and attacked, and of the last layer for one answer.

        That is `twosample.answer`, or the most frequent one. Where the network itself has no layer that is watched, of the images alone.
        """
        count, watch = min(MAPPED, len(self.asked)), self.watch
        names = [name for name in watch.layers if name not in OF_ANSWERS]
        both = watch.natural.joined(self.attacked)
        taken = np.concatenate([np.arange(count), len(self.asked) + np.arange(count)])
        columns = {
            "sample_id": np.tile(self.asked.sample_id[:count], 2),
            "attacked": np.repeat([False, True], count),
            "answer": both.labels[taken],
        }
        inputs = np.concatenate([self.asked.images[:count].astype(np.float32) / 255, self.images[:count]]).reshape(2 * count, -1)
        places = np.linspace(0, len(names) - 1, min(MAPPED_LAYERS, len(names))).round().astype(int)
        layers = {names[place]: both.layers[names[place]][taken] for place in places}
        for name, values in {"input": inputs, **layers}.items():
            columns[f"{name}_x"], columns[f"{name}_y"] = _tsne(values, project).T
        chosen, times = self.watch.settings.answer, np.bincount(columns["answer"])
        alike = columns["answer"] == (times.argmax() if chosen is None else chosen)
        points = np.full((2 * count, 2), np.nan, np.float32)
        if alike.sum() >= LEAST_MAPPED and names:
            points[alike] = _tsne(both.layers[names[-1]][taken[alike]], project)
        columns["one_answer_x"], columns["one_answer_y"] = points.T
        return columns


def _tsne(values: np.ndarray, project: Project) -> np.ndarray:
    return projections.tsne(
        values, perplexity=project.perplexity, components=project.components, iterations=project.iterations, seed=project.seed
    )
