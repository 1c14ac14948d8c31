"""What every stage script shares: its arguments, its one-line summary, its errors and its seconds.

A stage is `def main(...) -> str` that returns its summary; `stage.run(main)` makes it a command. A `Path` parameter is a positional
argument (an input), an `Output` parameter is a named option (`--model data/models/clean`), and a dataclass of paths is one such option
for each of its fields.
"""

import dataclasses
import errno
import functools
import inspect
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from wellcheck import memory
from wellcheck.artifacts import digest, read_json, write_json
from wellcheck.errors import InputError

Output = Annotated[Path, typer.Option()]

# Seconds are no DVC output: they differ at every run, and an output that differs reruns everything below it.
SECONDS = Path(".wellcheck/seconds")

_remembered: dict[str, Any] = {}


def run(main: Callable[..., str]) -> None:
    """Run `main` as this process: exit 0 with its summary, 1 with one line about bad input, 130 on Ctrl-C."""
    # From a subfolder DVC gives the stage's full address, ../dvc.yaml:train@clean.
    name = os.environ.get("DVC_STAGE", Path(sys.argv[0]).stem).rpartition(":")[2]
    _remembered.clear()
    _remembered["parts"] = {}
    signature, bundles = _spread(main)
    memory.keep_freed()

    @functools.wraps(main)
    def command(*args: Any, **options: Any) -> None:
        clock, start = time.time() - 1, time.perf_counter()  # a file system's clock may lag behind
        try:
            for bundle, kind in bundles.items():
                options[bundle] = kind(**{field.name: options.pop(field.name) for field in dataclasses.fields(kind)})
            summary = main(*args, **options)
            seconds = time.perf_counter() - start
            outputs = [path for path in options.values() if isinstance(path, Path) and path.exists() and path.stat().st_mtime >= clock]
            made = {str(path): digest(path) for path in outputs}
            write_json(SECONDS / f"{name}.json", {"seconds": round(seconds, 2), "made": made, **_remembered})
        except InputError as error:
            _fail(name, str(error), 1)
        except KeyboardInterrupt:
            _fail(name, "interrupted; nothing is half-written, `dvc repro` takes up the work again", 130)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                _fail(name, "the disk is full; nothing is half-written: make room and run it again", 1)
            if error.filename is None:
                raise
            _fail(name, f"{error.filename}: {error.strerror}", 1)
        print(f"{name}: {summary} ({seconds:.1f} s)")

    command.__signature__ = signature  # type: ignore[attr-defined]
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(help=sys.modules["__main__"].__doc__)(command)
    app()


def _spread(main: Callable[..., str]) -> tuple[inspect.Signature, dict[str, Any]]:
    """The signature of `main` with its dataclasses spread out into options, and those dataclasses by parameter name."""
    signature = inspect.signature(main)
    bundles = {name: one.annotation for name, one in signature.parameters.items() if dataclasses.is_dataclass(one.annotation)}
    spread = [
        inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, annotation=Output)
        for kind in bundles.values()
        for field in dataclasses.fields(kind)
    ]
    return signature.replace(parameters=[one for name, one in signature.parameters.items() if name not in bundles] + spread), bundles


@contextmanager
def timed(part: str) -> Iterator[None]:
    """Count the seconds of one part of a stage, such as one detector."""
    start = time.perf_counter()
    yield
    _remembered["parts"][part] = round(time.perf_counter() - start, 3)


def remember(key: str, value: str | float) -> None:
    """Keep a fact about this run, such as the device, beside its seconds."""
    _remembered[key] = value


def last_runs() -> dict[str, dict[str, Any]]:
    """What is remembered of every stage that made what lies here now: `seconds`, `parts` and more.

    A stage whose output has changed since, because DVC restored it from its cache, is left out.
    """
    runs = {path.stem: read_json(path) for path in sorted(SECONDS.glob("*.json"))}
    return {name: run for name, run in runs.items() if all(digest(Path(path)) == known for path, known in run.get("made", {}).items())}


def _fail(name: str, message: str, status: int) -> NoReturn:
    print(f"{name}: error: {message}", file=sys.stderr)
    raise typer.Exit(status)
