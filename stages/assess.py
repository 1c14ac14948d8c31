"""Hold the detectors' scores against what was planted. The only stage that may know."""

from pathlib import Path

import numpy as np

from wellcheck import metrics, samples, stage, truth
from wellcheck.artifacts import read_columns, write_columns, write_csv, write_json
from wellcheck.stage import Output, last_runs


def main(train: Path, scores: Path, truth_file: Path, *, detection: Output, roc: Output, planted: Output) -> str:
    labels = samples.read_labels(train).labels
    columns = read_columns(scores)
    sample_id = columns.pop("sample_id")
    known = truth.read(truth_file)
    poisoned = np.isin(sample_id, known.sample_id[known.poisoned])
    targets = np.unique(labels[poisoned])
    seconds = last_runs().get("detect", {}).get("parts", {})
    figures, curves = {}, []
    for name, values in columns.items():
        scored = ~np.isnan(values)
        inside = scored & np.isin(labels, targets)
        figures[name] = {
            "samples": int(scored.sum()),
            **metrics.ranking(values[scored], poisoned[scored]),
            # The question within the poisoned label alone: there every method of the field is at home.
            "auroc_in_target_label": metrics.ranking(values[inside], poisoned[inside])["auroc"],
            "seconds": seconds.get(name),
        }
        curves += [(name, fpr, tpr) for fpr, tpr in metrics.roc_points(values[scored], poisoned[scored])]
    write_json(detection, {"planted": int(poisoned.sum()), "detectors": figures})
    write_csv(roc, ["detector", "false_positive_rate", "true_positive_rate"], curves)
    write_columns(planted, {"sample_id": sample_id[poisoned]})
    if not poisoned.any():
        return "nothing was planted by us, so there is nothing to hold the scores against"
    known_rates = {name: "–" if values["auroc"] is None else f"{values['auroc']:.3f}" for name, values in figures.items()}
    return "AUROC " + ", ".join(f"{name} {rate}" for name, rate in known_rates.items())


if __name__ == "__main__":
    stage.run(main)
