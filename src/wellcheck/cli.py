"""`wellcheck`: the commands a person types."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from wellcheck import experiments
from wellcheck.errors import InputError

COMPARISON = Path("reports/compare.html")

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)


@app.command(name="experiments")
def list_experiments() -> None:
    """List the ready-made experiments."""
    table = Table("name", "what it reproduces", box=None, pad_edge=False)
    for name in experiments.names():
        one = experiments.read(name)
        table.add_row(name, f"[bold]{escape(one.title)}[/bold]\n{escape(one.about)}")
    Console().print(table)


@app.command()
def experiment(
    name: Annotated[str, typer.Argument(help="A name from `wellcheck experiments`.")],
    queue: Annotated[bool, typer.Option(help="Put it in DVC's queue instead of running it now; `dvc queue start` runs the queue.")] = False,
    publish: Annotated[bool, typer.Option(help="Write results/NAME.json when it is done; settings changed by -S stand in it.")] = False,
    setting: Annotated[list[str] | None, typer.Option("--set", "-S", help="One more setting, as in dvc exp run: train.epochs=3.")] = None,
    stage: Annotated[list[str] | None, typer.Option("--stage", help="Run only this stage and what it needs; may be repeated.")] = None,
) -> None:
    """Run an experiment: `dvc exp run` with its settings. Params, metrics and the report in this folder are then those of the run.

    With --stage what was not run is left as it was, and is not published.
    """
    chosen = experiments.overrides(experiments.read(name).params) + (setting or [])
    if queue and publish:
        raise InputError("--publish needs the run's results, and --queue only puts it in the queue: give one of them")
    # Names are unique in DVC; a run with further settings gets a name of DVC's own making.
    named = [] if setting or stage else ["--name", name, "--force"]
    _dvc("exp", "run", *named, *(["--queue"] if queue else []), *(part for one in chosen for part in ("--set-param", one)), *(stage or []))
    if queue:
        print("queued; `dvc queue start` runs it, `dvc exp show` lists what is done")
    elif publish:
        from wellcheck.results import publish as write_result

        changed = [one.partition("=")[0].rpartition(":")[2].lstrip("+") for one in setting or []]  # DVC allows params.yaml:key=value
        print(f"published {write_result(name, changed, stage or [])}; `wellcheck tables` brings the docs up to date")
    else:
        print("done; the report is reports/index.html")


@app.command()
def compare(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Experiments, commits, results/NAME, `workspace`; default: workspace, HEAD, all experiments."),
    ] = None,
) -> None:
    """Write reports/compare.html: the params that differ, the metrics side by side, curves over a swept param."""
    from wellcheck import comparison

    runs = comparison.write(names or [], COMPARISON)
    print(f"{COMPARISON}: {', '.join(run.name for run in runs)}")


@app.command()
def tables(check: Annotated[bool, typer.Option(help="Only say whether they are up to date.")] = False) -> None:
    """Make the tables of docs/results.md from results/."""
    from wellcheck.results import PAGE, write_tables

    fresh = write_tables(check=check)
    if check and not fresh:
        raise InputError(f"{PAGE} is not what results/ says: run `wellcheck tables`")
    print(f"{PAGE} is up to date")


def _dvc(*arguments: str) -> None:
    """Run DVC, whose stages call `python`: this interpreter's folder comes first."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    status = subprocess.run([sys.executable, "-m", "dvc", *arguments], env={**os.environ, "PATH": path}, check=False).returncode
    if status:
        raise typer.Exit(status)


def main() -> None:
    """Entry point: bad input is one line, not a traceback."""
    try:
        app()
    except InputError as error:
        print(f"wellcheck: error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
