"""Runs side by side: which params differ, what the metrics are, and curves over the one param that was swept."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from wellcheck import params
from wellcheck.artifacts import read_json, write_text
from wellcheck.errors import InputError
from wellcheck.experiments import flatten
from wellcheck.report.charts import SERIES_STYLES, Line, line_chart
from wellcheck.report.page import environment
from wellcheck.results import FOLDER, METRICS

IRRELEVANT = ("report.",)  # how a run is shown is not what it is


@dataclass(frozen=True)
class Run:
    """One run: its name, and its params and metrics as dotted keys."""

    name: str
    params: dict[str, Any]
    metrics: dict[str, float | None]


def gather(names: Sequence[str]) -> list[Run]:
    """Runs by name: `workspace`, a published `results/<name>`, or any DVC experiment, branch, tag or commit.

    Without names: the workspace, this commit and the finished experiments on it, each set of params once. Raises InputError naming the one
    that is not to be found.
    """
    if names:
        return [_run(name) for name in names]
    runs = [_run(name) for name in ["workspace", "HEAD", *_experiments()]]
    # What was run last is an experiment, or what was committed, and lies in the workspace too.
    return [run for index, run in enumerate(runs) if run.params not in [later.params for later in runs[index + 1 :]]]


def _run(name: str) -> Run:
    if name == "workspace":
        metrics = {file.stem: read_json(file) for file in sorted(METRICS.glob("*.json"))}
        return Run(name, flatten(params.load_all().model_dump()), _numbers(metrics))
    published = Path(name).with_suffix(".json")
    if published.parent == FOLDER and published.is_file():
        result = read_json(published)
        return Run(name, flatten(result["params"]), _numbers(result["metrics"]))
    return _revision(name)


def _revision(name: str) -> Run:
    # DVC is imported in this module and nowhere else in the library: half a second that only this command pays.
    import dvc.api
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from scmrepo.exceptions import SCMError

    try:
        settings = dvc.api.params_show("params.yaml", rev=name)
        with Repo() as repo:
            shown = repo.metrics.show(revs=[name])  # dvc.api would mix the files, or read the repository once for each
    except (DvcException, SCMError) as error:
        raise InputError(f"no run '{name}': not in {FOLDER}/ and not an experiment or revision that DVC can read ({error})") from None
    # The workspace always comes along.
    files: dict[str, Any] = next((one.get("data", {}) for revision, one in shown.items() if revision != "workspace"), {})
    return Run(name, flatten(settings), _numbers({Path(path).stem: one.get("data", {}) for path, one in sorted(files.items())}))


def _experiments() -> list[str]:
    import dvc.api
    from dvc.exceptions import DvcException
    from scmrepo.exceptions import SCMError

    try:
        rows = dvc.api.exp_show()
    except (DvcException, SCMError) as error:
        raise InputError(f"DVC has no experiments here ({error}); name what to compare, such as results/NAME") from None
    finished = [row for row in rows if row.get("Experiment") and row.get("State") not in ("Queued", "Running", "Failed")]
    return [str(row["Experiment"]) for row in finished]


def _numbers(metrics: dict[str, Any]) -> dict[str, float | None]:
    return {key: value for key, value in flatten(metrics).items() if isinstance(value, int | float) and not isinstance(value, bool)}


def render(runs: Sequence[Run]) -> str:
    """reports/compare.html as one self-contained text. Raises InputError for fewer than two runs."""
    if len(runs) < 2:
        advice = "run some first, for instance: dvc exp run --queue -S poison.rate=0.01,0.02,0.05 && dvc queue start"
        raise InputError(f"found {len(runs)} run, expected at least two; {advice}")
    differing = {key: values for key, values in _table(run.params for run in runs).items() if len({repr(value) for value in values}) > 1}
    differing = {key: values for key, values in differing.items() if not key.startswith(IRRELEVANT)}
    swept = [key for key, values in differing.items() if all(isinstance(value, int | float) for value in values)]
    return (
        environment()
        .get_template("compare.html.j2")
        .render(
            runs=runs,
            params=differing,
            metrics=_table(run.metrics for run in runs),
            swept=swept,
            charts=curves(runs, swept[0]) if len(swept) == 1 and len(differing) == 1 else [],
        )
    )


def _table(columns: Any) -> dict[str, list[Any]]:
    listed = list(columns)
    keys = list(dict.fromkeys(key for column in listed for key in column))
    return {key: [column.get(key) for column in listed] for key in keys}


def curves(runs: Sequence[Run], swept: str) -> list[Markup]:
    """Attack success, accuracy and detection over the swept param."""
    ordered = sorted(runs, key=lambda run: run.params[swept])
    across = [float(run.params[swept]) for run in ordered]

    def line(name: str, style: str, key: str) -> Line:
        return Line(name, style, across, [run.metrics.get(key) for run in ordered])

    variants = ("clean", "poisoned")
    detectors = sorted({key.split(".")[2] for run in runs for key in run.metrics if key.startswith("poison_detection.detectors.")})

    def detector_lines(key: str) -> list[Line]:
        place = "poison_detection.detectors"
        return [line(name, f"series{index % SERIES_STYLES}", f"{place}.{name}.{key}") for index, name in enumerate(detectors)]

    groups = {
        "Attack success": [line(f"{variant} model", variant, f"classify.{variant}.backdoor.attack_success_rate") for variant in variants],
        "Accuracy": [line(f"{variant} model", variant, f"classify.{variant}.accuracy") for variant in variants],
        "AUROC of the detectors": detector_lines("auroc"),
        "TPR at 1 % FPR of the detectors": detector_lines("tpr_at_1pct_fpr"),
    }
    whole = {"Attack success", "TPR at 1 % FPR of the detectors"}
    return [
        line_chart(
            lines,
            title=f"{title} over {swept}",
            x_label=swept,
            y_label=title.lower(),
            y_range=(0, 1) if title in whole else None,
            marks=True,
        )
        for title, lines in groups.items()
    ]


def write(names: Sequence[str], path: Path) -> list[Run]:
    """Write the comparison page. Raises InputError as `gather` and `render` do."""
    runs = gather(names)
    write_text(path, render(runs))
    return runs
