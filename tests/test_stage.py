"""The frame of every stage: its summary, its one line about an error, its exit status, its seconds."""

import ast
import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from wellcheck import samples, stage
from wellcheck.artifacts import write_text
from wellcheck.errors import InputError
from wellcheck.samples import Description, Samples
from wellcheck.stage import Output

STAGES = sorted((Path(__file__).parents[1] / "stages").glob("*.py"))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every stage here runs in a folder of its own and remembers nothing of the one before."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stage, "_remembered", {"parts": {}})


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a main as the script stages/copy.py; returns its exit status, stdout and stderr."""

    def run_main(main: Callable[..., str], *arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["stages/copy.py", *arguments])
        with pytest.raises(SystemExit) as caught:
            stage.run(main)
        out, err = capsys.readouterr()
        return int(caught.value.code or 0), out, err

    return run_main


Run = Callable[..., tuple[int, str, str]]


def copy(source: Path, *, target: Output) -> str:
    write_text(target, source.read_text(encoding="utf-8"))
    return f"{target} written"


def failing_with(error: BaseException) -> Callable[..., str]:
    """A main that has half-written its output when the error comes."""

    def main(*, target: Output) -> str:
        samples.write(target, Samples(np.arange(2), np.zeros((2, 1, 2, 2), np.uint8), np.zeros(2, np.int64), Description(("a",), "x")))
        with samples.writing(target, Description(("a",), "x"), (1, 2, 2)):
            raise error

    return main


def test_a_stage_tells_one_line_and_its_seconds(run: Run) -> None:
    Path("in.txt").write_text("x")
    status, out, err = run(copy, "in.txt", "--target", "deep/out.txt")
    assert (status, err) == (0, "")
    assert out.startswith("copy: deep/out.txt written (0.") and out.endswith(" s)\n") and out.count("\n") == 1
    assert Path("deep/out.txt").read_text() == "x"
    remembered = json.loads(Path(".wellcheck/seconds/copy.json").read_text())
    assert set(remembered) == {"seconds", "parts", "made"} and remembered["parts"] == {} and 0 <= remembered["seconds"] < 60


def test_bad_input_is_one_line_and_exit_1(run: Run) -> None:
    status, out, err = run(failing_with(InputError("data/x.parquet: row 3: found 7, expected 0 to 4")), "--target", "out")
    assert (status, out, err) == (1, "", "copy: error: data/x.parquet: row 3: found 7, expected 0 to 4\n")
    assert not Path(".wellcheck").exists()


def test_ctrl_c_is_exit_130(run: Run) -> None:
    status, out, err = run(failing_with(KeyboardInterrupt()), "--target", "out")
    assert (status, out) == (130, "")
    assert err.startswith("copy: error: interrupted; nothing is half-written") and err.count("\n") == 1
    assert [path.name for path in Path().iterdir()] == ["out"]


def test_a_full_disk_is_one_line_and_exit_1(run: Run) -> None:
    status, out, err = run(failing_with(OSError(errno.ENOSPC, "No space left on device")), "--target", "out")
    assert (status, out) == (1, "")
    assert err.startswith("copy: error: the disk is full; nothing is half-written") and err.count("\n") == 1
    assert [path.name for path in Path().iterdir()] == ["out"]
    assert len(samples.read(Path("out"))) == 2  # the one before


def test_a_disk_that_fills_while_a_footer_is_written(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def main(*, target: Output) -> str:
        with samples.writing(target, Description(("a",), "x"), (1, 2, 2)):
            monkeypatch.setattr(pq.ParquetWriter, "close", full)
        return "never"

    status, out, err = run(main, "--target", "out")
    assert (status, out) == (1, "") and err.startswith("copy: error: the disk is full")
    assert list(Path().iterdir()) == []


def test_a_disk_that_fills_while_the_seconds_are_written(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, value: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(stage, "write_json", full)
    Path("in.txt").write_text("x")
    status, _, err = run(copy, "in.txt", "--target", "out.txt")
    assert status == 1 and err.startswith("copy: error: the disk is full")


def test_our_own_mistakes_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["stages/copy.py", "--target", "out"])
    for error in (ZeroDivisionError("ours"), PermissionError(errno.EACCES, "no")):
        with pytest.raises(type(error)):
            stage.run(failing_with(error))


def test_dvcs_name_of_the_stage_is_used(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_STAGE", "train@clean")
    Path("in.txt").write_text("x")
    _, out, _ = run(copy, "in.txt", "--target", "out.txt")
    assert out.startswith("train@clean: ")
    assert list(stage.last_runs()) == ["train@clean"]
    assert run(failing_with(InputError("bad")), "--target", "out")[2] == "train@clean: error: bad\n"


def test_a_stage_that_was_started_from_a_subfolder(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_STAGE", "../dvc.yaml:train@clean")
    Path("in.txt").write_text("x")
    _, out, _ = run(copy, "in.txt", "--target", "out.txt")
    assert out.startswith("train@clean: ")
    assert list(stage.last_runs()) == ["train@clean"]


def test_what_a_stage_remembers(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def main(*, target: Output) -> str:
        with stage.timed("centroid"):
            time.sleep(0.02)
        with pytest.raises(InputError), stage.timed("never"):
            raise InputError("bad")
        stage.remember("device", "CPU, 2 threads")
        stage.remember("training_seconds", 12.5)
        return "done"

    assert run(main, "--target", "out")[0] == 0
    (kept,) = stage.last_runs().values()
    assert set(kept) == {"seconds", "parts", "made", "device", "training_seconds"}
    assert (kept["device"], kept["training_seconds"]) == ("CPU, 2 threads", 12.5)
    assert set(kept["parts"]) == {"centroid"} and 0.02 <= kept["parts"]["centroid"] <= kept["seconds"] + 0.01


def test_nothing_ran_nothing_is_remembered() -> None:
    assert stage.last_runs() == {}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "Missing argument"),
        (["in.txt"], "Missing option"),
        (["in.txt", "--target", "a", "b"], "unexpected extra argument"),
        (["--targte", "a"], "--targte"),
    ],
)
def test_wrong_arguments_are_exit_2(arguments: list[str], told: str, run: Run) -> None:
    status, out, err = run(copy, *arguments)
    assert (status, out) == (2, "") and told in err


@dataclass(frozen=True)
class Inputs:
    clean_model: Path
    test: Path


def test_a_dataclass_of_paths_is_one_option_for_each_field(run: Run) -> None:
    def main(first: Path, *, files: Inputs, detection_file: Output) -> str:
        return f"{first} {files} {detection_file.name}"

    _, out, _ = run(main, "x", "--detection-file", "b", "--test", "c", "--clean-model", "a")
    assert out.startswith(f"copy: x {Inputs(Path('a'), Path('c'))} b (")
    status, _, err = run(main, "x", "--detection-file", "b", "--test", "c")
    assert status == 2 and "--clean-model" in err


def test_help_is_the_scripts_own(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "__doc__", "Copy one file, whole or not at all.")
    status, out, _ = run(copy, "--help")
    assert status == 0 and "Copy one file, whole or not at all." in out
    assert "source" in out.lower() and "--target" in out and "required" in out


@pytest.mark.parametrize("path", STAGES, ids=lambda path: path.stem)
def test_every_stage_has_help_a_main_and_the_frame(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documented = ast.get_docstring(tree)
    assert documented and "\n" not in documented and documented.endswith(".")
    (main,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "main")
    assert main.returns is not None and ast.unparse(main.returns) == "str"
    assert ast.unparse(tree.body[-1]) == "if __name__ == '__main__':\n    stage.run(main)"


# as a process


SCRIPT = '''
"""Wait until someone has enough."""
import sys, time
from pathlib import Path
from wellcheck import stage
from wellcheck.artifacts import replacing
from wellcheck.errors import InputError

def main(mode: str, *, target: stage.Output) -> str:
    with replacing(target) as temporary:
        temporary.write_text("half")
        if mode == "bad":
            raise InputError("found 3, expected 4")
        if mode == "wait":
            print("ready", flush=True)
            time.sleep(30)
    return "done"

stage.run(main)
'''


def start(mode: str) -> subprocess.Popen[str]:
    Path("wait.py").write_text(textwrap.dedent(SCRIPT), encoding="utf-8")
    return subprocess.Popen(
        [sys.executable, "wait.py", mode, "--target", "out/a"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ.copy(),
        # What a shell starts in the background ignores Ctrl-C, and so would all that it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def test_a_real_process(tmp_path: Path) -> None:
    good, bad = start("good"), start("bad")
    out, err = good.communicate(timeout=60)
    assert (good.returncode, err) == (0, "") and out.startswith("wait: done (")
    assert bad.communicate(timeout=60) == ("", "wait: error: found 3, expected 4\n") and bad.returncode == 1
    assert [path.name for path in Path("out").iterdir()] == ["a"]


def test_a_real_ctrl_c(tmp_path: Path) -> None:
    waiting = start("wait")
    assert waiting.stdout is not None and waiting.stdout.readline() == "ready\n"
    waiting.send_signal(signal.SIGINT)
    out, err = waiting.communicate(timeout=60)
    assert (waiting.returncode, out) == (130, "")
    assert err.startswith("wait: error: interrupted; nothing is half-written") and err.count("\n") == 1
    assert list(Path("out").iterdir()) == []
