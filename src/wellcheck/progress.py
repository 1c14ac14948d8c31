"""Progress of long work: a bar with ETA on a terminal, one line every few seconds in a log."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LOG_INTERVAL_SECONDS = 5.0

Advance = Callable[..., None]


@contextmanager
def progress(title: str, total: int, unit: str = "", *, done: int = 0) -> Iterator[Advance]:
    """Yield `advance(steps=1, note="")`; the note (a loss, a file name) stands behind the bar. `done` steps were taken earlier."""
    shown = _bar if sys.stderr.isatty() else _lines
    with shown(title, total, unit, done) as advance:
        yield advance


@contextmanager
def _bar(title: str, total: int, unit: str, done: int) -> Iterator[Advance]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total, completed=done, note="")
        yield lambda steps=1, note="": bar.update(task, advance=steps, note=note)


@contextmanager
def _lines(title: str, total: int, unit: str, already: int) -> Iterator[Advance]:
    start = last = time.monotonic()
    done = already

    def advance(steps: int = 1, note: str = "") -> None:
        nonlocal done, last
        done += steps
        now = time.monotonic()
        if now - last < LOG_INTERVAL_SECONDS:
            return
        last = now
        left = (now - start) / max(done - already, 1) * (total - done)
        line = f"{title}: {done}/{total} {unit}".rstrip()
        print(f"{line}, ETA {clock(left)}{'  ' + note if note else ''}", file=sys.stderr, flush=True)

    yield advance


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
