"""Published results are data: one JSON a run in results/, with where it comes from; every table in the docs is made from them."""

import datetime
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from wellcheck import detection_results, experiments, params, provenance
from wellcheck.artifacts import read_csv, read_json, write_json, write_text
from wellcheck.errors import InputError
from wellcheck.experiments import Experiment, flatten

FOLDER = Path("results")
METRICS = Path("reports/metrics")
MODELS = Path("data/models")
PAGE = Path("docs/results.md")
BEGIN, END = "<!-- made from results/ by `wellcheck tables`: do not edit -->\n", "<!-- end of what is made -->\n"
DETECTOR_HEAD = [
    "| detector | AUROC | in the target label | average precision | TPR at 1 % FPR | images |",
    "|---|---|---|---|---|---|",
]


def stale_outputs() -> set[Path]:
    """Outputs of stages that are not of the params, data and code in this folder, as DVC sees it, and of all that rest on these."""
    import networkx  # these two take seconds
    from dvc.repo import Repo

    with Repo(".") as repo:
        status, graph = repo.status(), repo.index.graph  # status knows who has changed inputs, and not who will have
        changed = {stage for stage in repo.index.stages if stage.addressing in status}
        later = {further for stage in changed for further in networkx.ancestors(graph, stage)}
        return {Path(out.def_path) for stage in changed | later for out in stage.outs}


def publish(name: str, changed: Collection[str] = (), stages: Sequence[str] = ()) -> Path:
    """Write results/<name>.json from the run in this folder. Raises InputError if what was run is not that experiment.

    changed: settings, as dotted keys, that are meant to be others, as on a smaller machine; stages: those that were run with what they
    need, if not all: then what rests on others is left out. Both stand in the result and above its table.
    """
    experiment = experiments.read(name)
    used = params.load_all().model_dump()
    differing = experiments.differences(experiment, used)
    unmeant = {key: values for key, values in differing.items() if not _is_meant(key, changed)}
    if unmeant:
        raise InputError(f"cannot publish {name}: the run in this folder has other settings ({_told(unmeant)})")
    set_by_it = flatten(experiment.params)
    beyond = {key: {"run": found} for key, found in flatten(used).items() if key not in set_by_it and _is_meant(key, changed)}
    stale = stale_outputs() if stages else set()
    result = {
        "experiment": name,
        "changed": beyond | {key: {"experiment": wanted, "run": found} for key, (wanted, found) in differing.items()},
        "stages": list(stages),
        "metrics": {file.stem: read_json(file) for file in sorted(METRICS.glob("*.json")) if file not in stale},
        "not_run": sorted(file.stem for file in METRICS.glob("*.json") if file in stale),
        "history": {folder.name: _last_epoch(folder) for folder in sorted(MODELS.iterdir()) if folder not in stale},
        "params": used,
        "provenance": provenance.gather() | {"date": datetime.datetime.now(datetime.UTC).date().isoformat()},
    }
    path = FOLDER / f"{name}.json"
    write_json(path, result)
    return path


def _is_meant(key: str, changed: Collection[str]) -> bool:
    """Whether a setting is among those changed, or within one of them."""
    return any(key == one or key.startswith(f"{one}.") for one in changed)


def _told(differing: Mapping[str, tuple[Any, Any]]) -> str:
    return "; ".join(f"{key} is {found!r} instead of {wanted!r}" for key, (wanted, found) in differing.items())


def _last_epoch(model: Path) -> dict[str, float | None]:
    return {key: float(value) if value else None for key, value in read_csv(model / "history.csv")[-1].items()}


def write_tables(*, check: bool = False) -> bool:
    """Bring docs/results.md up to date with results/; with `check` only say whether it is."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    if not rest or END not in rest:
        raise InputError(f"{PAGE}: the lines '{BEGIN.strip()}' and '{END.strip()}' are missing")
    fresh = before + BEGIN + _tables() + END + after
    if not check and fresh != text:
        write_text(PAGE, fresh)
    return fresh == text


def _tables() -> str:
    parts = [_experiment_table(read_json(path)) for path in sorted(FOLDER.glob("*.json"))]
    parts += [_benchmark_table(path.stem, read_json(path)) for path in sorted((FOLDER / "benchmarks").glob("*.json"))]
    parts.append(detection_results.tables(FOLDER / "detection"))
    return "\n" + "\n".join(filter(None, parts))


def _experiment_table(result: dict[str, Any]) -> str:
    experiment = experiments.read(result["experiment"])
    where, detection = result["provenance"], result["metrics"].get("poison_detection", {"detectors": {}})
    commit = (where["git_commit"] or "unknown")[:12]
    seconds = ", ".join(f"{name} {value:.0f} s" for name, value in where["seconds"].items() if name.startswith("train"))
    missing = _missing(result)
    lines = [
        f"## {experiment.title}",
        "",
        f"`{_command(result)}`, one run, seed {result['params']['train']['seed']}, {where['date']}, "
        f"commit `{commit}`, {where['device']} ({seconds}), torch {where['versions']['torch']}.",
        "",
        *([f"Not the whole experiment: {'; '.join(missing)}.", ""] if missing else []),
        *_figure_rows(experiment, result),
        "",
        *(DETECTOR_HEAD if detection["detectors"] else []),
        *(
            f"| {name} | {_cell(one['auroc'])} | {_cell(one['auroc_in_target_label'])} | {_cell(one['average_precision'])} "
            f"| {_cell(one['tpr_at_1pct_fpr'])} | {one['samples']:,} |"
            for name, one in detection["detectors"].items()
        ),
        "",
    ]
    return "\n".join([*lines, *_class_rows(experiment, result), ""])


def _command(result: dict[str, Any]) -> str:
    """What makes it."""
    settings = experiments.overrides({key: one["run"] for key, one in result.get("changed", {}).items()})
    options = [*(f"-S {one}" for one in settings), *(f"--stage {one}" for one in result.get("stages", []))]
    return " ".join(["wellcheck experiment", result["experiment"], "--publish", *options])


def _missing(result: dict[str, Any]) -> list[str]:
    """What is not as in the experiment; nothing of one that was run whole."""
    changed = result.get("changed", {})
    instead = {key: (one["experiment"], one["run"]) for key, one in changed.items() if "experiment" in one}
    beyond = [f"{key} is {one['run']!r}" for key, one in changed.items() if key not in instead]
    left_out = [f"without {', '.join(result['not_run'])}"] if result.get("not_run") else []
    return [*([_told(instead)] if instead else []), *beyond, *left_out]


def _figure_rows(experiment: Experiment, result: dict[str, Any]) -> list[str]:
    ours = flatten({**result["metrics"], "history": result["history"]})
    article = {one.ours: one for one in experiment.article.figures} if experiment.article else {}
    shown: list[tuple[str, float | None, float | None]] = [(one.name, one.value, ours.get(one.ours)) for one in article.values()]
    for variant in ("clean", "poisoned"):
        for key in ("accuracy", "backdoor.attack_success_rate", "backdoor.predicted_target_rate"):
            path = f"classify.{variant}.{key}"
            if path not in article and path in ours:
                shown.append((f"{key.split('.')[-1].replace('_', ' ')}, {variant} model", None, ours[path]))
    rows = [f"| {name} | {_cell(theirs)} | {_cell(mine)} |" for name, theirs, mine in shown]
    return ["| figure | article | ours |", "|---|---|---|", *rows]


def _class_rows(experiment: Experiment, result: dict[str, Any]) -> list[str]:
    if not experiment.article or not experiment.article.per_class:
        return []
    theirs, ours = experiment.article.per_class, result["metrics"]["classify"]["clean"]["per_class"]
    head = ["| class | recall, article | recall, ours | precision, article | precision, ours |", "|---|---|---|---|---|"]
    rows = [
        f"| {label} | {_cell(theirs['recall'][label])} | {_cell(recall)} | {_cell(theirs['precision'][label])} "
        f"| {_cell(ours['precision'][label])} |"
        for label, recall in enumerate(ours["recall"])
    ]
    return [*head, *rows]


def _benchmark_table(name: str, result: dict[str, Any]) -> str:
    head = [
        f"## Benchmark: {name}",
        "",
        f"`{result['command']}`, {result['runs']} run{'s' if result['runs'] > 1 else ''}, {result['device']}.",
        "",
    ]
    rows = [f"| {what} | {value:.3g} |" for what, value in result["ratios"].items()]
    return "\n".join([*head, "| measured | |", "|---|---|", *rows, ""])


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}".rstrip("0").rstrip(".")
