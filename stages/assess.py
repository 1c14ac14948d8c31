"""Hold the detectors' scores and the verdict against what was planted. Nobody but this stage and the control filters may know."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wellcheck import assessment, cleansing, params, samples, stage
from wellcheck.artifacts import read_columns, read_json, write_columns, write_csv, write_json
from wellcheck.stage import Output, last_runs


@dataclass(frozen=True)
class Reached:
    """The verdicts and the filters; each is an option."""

    verdict: Path
    judged: Path
    clean_verdict: Path
    perfect_filter: Path
    random_filter: Path


def main(
    train: Path, scores: Path, truth: Path, *, reached: Reached, detection: Output, roc: Output, precision_recall: Output, planted: Output
) -> str:
    delivered = samples.read_labels(train)
    known = assessment.read_known(truth, delivered, trigger=params.load(params.Poison).trigger != "none")
    judged = cleansing.read_judged(reached.judged, delivered)
    columns = read_columns(scores)
    cleansing.match_ids(scores, columns.pop("sample_id"), delivered)
    seconds = last_runs().get("detect", {}).get("parts", {})
    detectors = {name: assessment.detector_figures(values, known) | {"seconds": seconds.get(name)} for name, values in columns.items()}
    verdict = assessment.verdict_figures(read_json(reached.verdict), judged, known)
    counts = {"planted": int(known.poisoned.sum()), "cover": int(known.cover.sum())}
    write_json(detection, counts | {"verdict": verdict, "detectors": detectors, "controls": _controls(reached, len(delivered))})
    drawn = [assessment.curves(name, values, known) for name, values in {**columns, "verdict": judged.probability}.items()]
    write_csv(roc, ["detector", "false_positive_rate", "true_positive_rate"], [point for curve, _ in drawn for point in curve])
    write_csv(precision_recall, ["detector", "recall", "precision"], [point for _, curve in drawn for point in curve])
    shown = known.poisoned | known.cover
    write_columns(planted, {"sample_id": delivered.sample_id[shown], "cover": known.cover[shown]})
    if not known.poisoned.any():
        return "nothing was planted by us, so there is nothing to hold the scores against"
    aurocs = ", ".join(f"{name} {_told(one['auroc'], '.3f')}" for name, one in detectors.items())
    return f"verdict: TPR {_told(verdict['tpr'], '.1%')} at FPR {_told(verdict['fpr'], '.2%')}; AUROC {aurocs}"


def _controls(reached: Reached, delivered: int) -> dict[str, Any]:
    clean = read_json(reached.clean_verdict)
    filters = {"perfect_filter": reached.perfect_filter, "random_filter": reached.random_filter}
    removed = {name: {"removed": delivered - len(samples.read_labels(path))} for name, path in filters.items()}
    return {"clean_data": {"flagged": clean["flagged"], "verdict": clean["poisoned"]}, **removed}


def _told(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


if __name__ == "__main__":
    stage.run(main)
