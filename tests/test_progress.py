"""Progress: a line every few seconds in a log, a bar on a terminal, and an estimate that is arithmetic."""

import sys
from collections.abc import Callable

import pytest
from rich.progress import Progress, TaskID

from wellcheck import progress as module
from wellcheck.progress import clock, progress


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Clock:
    hand = Clock()
    monkeypatch.setattr(module, "time", hand)
    return hand


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Callable[[], list[str]]:
    """The lines told since the last call; nothing may go to stdout, which is the summary's."""

    def told() -> list[str]:
        out, err = capsys.readouterr()
        assert out == ""
        return err.splitlines()

    return told


def test_a_log_gets_a_line_every_few_seconds(time: Clock, lines: Callable[[], list[str]]) -> None:
    with progress("train", 100, "epochs") as advance:
        for _ in range(10):
            time.now += 1
            advance(2, "loss 0.5")
        # 10 steps in 5 s, 90 to go: 45 s; then 20 steps in 10 s.
        assert lines() == ["train: 10/100 epochs, ETA 0:45  loss 0.5", "train: 20/100 epochs, ETA 0:40  loss 0.5"]
        time.now += 4.9
        advance(1)
        assert lines() == []
        time.now += 1085.1
        advance(29)
        assert lines() == ["train: 50/100 epochs, ETA 18:20"]  # 1,100 s for the first half
    assert lines() == []


def test_steps_that_were_taken_earlier_do_not_count_for_the_estimate(time: Clock, lines: Callable[[], list[str]]) -> None:
    with progress("train", 100, "epochs", done=80) as advance:
        time.now += 60
        advance(1)
    assert lines() == ["train: 81/100 epochs, ETA 19:00"]


def test_without_a_unit_and_without_a_step(time: Clock, lines: Callable[[], list[str]]) -> None:
    with progress("detect", 3) as advance:
        time.now += 10
        advance(0, "centroid")
        time.now += 10
        advance()
    assert lines() == ["detect: 0/3, ETA 0:30  centroid", "detect: 1/3, ETA 0:40"]


@pytest.mark.parametrize("total", [0, 1])
def test_nothing_to_do_or_more_than_there_was(total: int, time: Clock, lines: Callable[[], list[str]]) -> None:
    with progress("split", total, "images") as advance:
        time.now += 6
        advance(5)
    assert lines() == [f"split: 5/{total} images, ETA 0:00"]


def test_a_failure_passes_through(lines: Callable[[], list[str]]) -> None:
    with pytest.raises(KeyboardInterrupt), progress("train", 3):
        raise KeyboardInterrupt
    assert lines() == []


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch, lines: Callable[[], list[str]]) -> None:
    shown: list[tuple[float, float | None, str]] = []
    update = Progress.update

    def record(bar: Progress, task: TaskID, **changes: float | str) -> None:
        update(bar, task, **changes)  # type: ignore[arg-type]
        shown.append((bar.tasks[0].completed, bar.tasks[0].total, bar.tasks[0].fields["note"]))

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(Progress, "update", record)
    with progress("train", 10, "epochs", done=4) as advance:
        advance(2, "loss 0.5")
        advance()
    assert shown == [(6, 10, "loss 0.5"), (7, 10, "")]
    assert not any("ETA 0:00  loss" in line for line in lines())


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0:00"),
        (-3, "0:00"),
        (0.4, "0:00"),
        (59.4, "0:59"),
        (59.6, "1:00"),
        (61, "1:01"),
        (3599, "59:59"),
        (3600, "1:00:00"),
        (90061, "25:01:01"),
    ],
)
def test_clock(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown
