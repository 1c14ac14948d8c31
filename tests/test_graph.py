"""dvc.yaml against the code: deps are what is imported, params are what is loaded, and what was planted stays hidden."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from dvc.repo import Repo

from wellcheck.params import Params

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src"
SCRIPTS = sorted(path.stem for path in (ROOT / "stages").glob("*.py"))
SECTIONS = {model.annotation.__name__: name for name, model in Params.model_fields.items() if model.annotation}


@cache
def stages() -> dict[str, Any]:
    """Every stage as DVC expands it, by its full name."""
    return {stage.addressing: stage for stage in Repo(str(ROOT)).index.stages if hasattr(stage, "cmd")}


def script_of(stage: Any) -> Path:
    """The script that a stage runs."""
    words: list[str] = stage.cmd.split()
    assert words[0] == "python"
    return ROOT / words[1]


def imported(path: Path, *, packages: bool = True) -> Iterator[Path]:
    """The modules of wellcheck that a file names in its imports, and with `packages` those they lie in, which Python runs first."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            parents = [node.module or ""] if packages else [node.module or ""] * any(not is_module(node, alias) for alias in node.names)
            names = [*parents, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            parts = name.split(".")
            for length in range(1 if packages else len(parts), len(parts) + 1):
                place = SOURCE.joinpath(*parts[:length])
                yield from (file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file())


def is_module(node: ast.ImportFrom, alias: ast.alias) -> bool:
    """Whether `from package import name` names a module and not something in the package."""
    place = SOURCE.joinpath(*(node.module or "").split("."), alias.name)
    return place.with_suffix(".py").is_file() or (place / "__init__.py").is_file()


def closure(script: Path, *, packages: bool = True) -> set[Path]:
    """All modules of wellcheck that a script imports, directly or not. The package's own __init__ holds no code."""
    found: set[Path] = set()
    waiting = [script]
    while waiting:
        for module in imported(waiting.pop(), packages=packages):
            if module not in found:
                found.add(module)
                waiting.append(module)
    return found - {SOURCE / "wellcheck" / "__init__.py"}


def loaded_sections(script: Path) -> set[str]:
    """The sections of params.yaml that a script loads: `params.load(params.Train)` → train."""
    sections: set[str] = set()
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("load") and ast.unparse(node.func).startswith("params"):
            (argument,) = node.args
            name = ast.unparse(argument).removeprefix("params.")
            sections |= set(Params.model_fields) if name == "Params" else {SECTIONS[name]}
    return sections


def dependencies(stage: Any) -> set[Path]:
    """A stage's deps that are files or folders."""
    return {Path(dep.fs_path) for dep in stage.deps if not hasattr(dep, "params") or dep.params is None}


def declared_sections(stage: Any) -> set[str]:
    """A stage's params."""
    return {str(name) for dep in stage.deps for name in (getattr(dep, "params", None) or [])}


def test_every_script_is_a_stage() -> None:
    assert sorted({script_of(stage).stem for stage in stages().values()}) == SCRIPTS


@pytest.mark.parametrize("name", sorted(stages()))
def test_code_dependencies_are_what_is_imported(name: str) -> None:
    stage = stages()[name]
    needed = closure(script_of(stage)) | {script_of(stage)}
    code = {path for path in dependencies(stage) if path.is_relative_to(SOURCE) or path.is_relative_to(ROOT / "stages")}
    missing = {path for path in needed if not any(path == dep or path.is_relative_to(dep) for dep in code)}
    idle = {dep for dep in code if not any(path == dep or path.is_relative_to(dep) for path in needed)}
    assert not missing, f"{name} imports what it does not declare"
    assert not idle, f"{name} declares code that it does not import"


@pytest.mark.parametrize("name", sorted(stages()))
def test_params_are_what_is_loaded(name: str) -> None:
    stage = stages()[name]
    assert declared_sections(stage) == loaded_sections(script_of(stage))


@pytest.mark.parametrize("name", sorted(stages()))
def test_paths_in_a_command_are_its_dependencies_and_outputs(name: str) -> None:
    stage = stages()[name]
    words = {ROOT / word for word in stage.cmd.split() if "/" in word}
    outputs = {Path(out.fs_path) for out in stage.outs}
    inputs = dependencies(stage)
    assert words <= inputs | outputs
    data = {path for path in inputs if not path.is_relative_to(SOURCE) and path.suffix != ".py"}
    unnamed = {path.relative_to(ROOT).as_posix() for path in data - words}
    # The user's own folder and trigger come from params, and an experiment's file from report.experiment.
    assert unnamed <= {"data/own", "experiments/trigger.png", "experiments"}


def above(*names: str) -> set[Path]:
    """Everything that these stages depend on, at any distance."""
    producers = {Path(out.fs_path): name for name, stage in stages().items() for out in stage.outs}
    found: set[Path] = set()
    waiting = list(names)
    while waiting:
        fresh = dependencies(stages()[waiting.pop()]) - found
        found |= fresh
        waiting += [producers[path] for path in fresh if path in producers]
    return found


def readers_of(*names: str) -> set[str]:
    """The stages that read what these stages made."""
    outputs = {Path(out.fs_path) for name in names for out in stages()[name].outs}
    return {name for name, stage in stages().items() if dependencies(stage) & outputs}


def test_only_assess_and_the_controls_see_what_was_planted() -> None:
    readers = {name for name, stage in stages().items() if ROOT / "data/poison/truth.parquet" in dependencies(stage)}
    assert readers == {"assess", "controls"}
    importers = {script for script in SCRIPTS if SOURCE / "wellcheck/truth.py" in closure(ROOT / "stages" / f"{script}.py")}
    assert importers == {"poison", "assess", "controls"}


def test_what_assess_says_reaches_no_stage_but_the_report() -> None:
    assert readers_of("assess") == {"report"}


def test_the_controls_are_trained_and_measured_and_nothing_else() -> None:
    filters = {"train@perfect_filter", "train@random_filter"}
    assert readers_of("controls") == {*filters, "assess", "report"}
    assert readers_of(*filters) <= {"attack", "evaluate", "report"}


@pytest.mark.parametrize(
    "name", ["detect", "verdict@clean", "verdict@poisoned", "cleanse", "train@cleansed", "embed@poisoned", "label_errors"]
)
def test_detection_and_cleansing_do_not_depend_on_any_truth_at_any_distance(name: str) -> None:
    assert (ROOT / "data/poison/train.parquet" in above(name)) == ("clean" not in name.split("@"))
    assert ROOT / "data/split/train.parquet" in above(name)
    assert ROOT / "data/poison/truth.parquet" not in above(name)
    assert SOURCE / "wellcheck/truth.py" not in dependencies(stages()[name])


def test_every_variant_is_trained_attacked_and_evaluated() -> None:
    models = [f"data/models/{variant}" for variant in ("clean", "poisoned", "cleansed", "perfect_filter", "random_filter")]
    assert [name for name in stages() if name.startswith("train@")] == [f"train@{Path(model).name}" for model in models]
    for name in ("attack", "evaluate"):
        assert [word for word in stages()[name].cmd.split() if word.startswith("data/models/")] == models
    # The clean set is a control: about it the same detectors must stay silent.
    for name in ("embed", "project", "verdict"):
        assert {one for one in stages() if one.startswith(f"{name}@")} == {f"{name}@clean", f"{name}@poisoned"}


@pytest.mark.parametrize("name", ["evasion", "disparity", "explain", "twosample"])
def test_what_is_said_of_a_served_model_waits_for_no_verdict(name: str) -> None:
    assert ROOT / "data/split/test.parquet" in above(name)
    assert not any(path.is_relative_to(ROOT / "data/verdict") or path.is_relative_to(ROOT / "data/cleanse") for path in above(name))


def test_no_module_imports_dvc_but_those_that_compare_and_publish_runs() -> None:
    users = {
        path.name
        for path in [*SOURCE.rglob("*.py"), *(ROOT / "stages").glob("*.py")]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Import) and any(alias.name.split(".")[0] == "dvc" for alias in node.names))
        or (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "dvc")
    }
    assert users == {"comparison.py", "results.py"}  # no stage imports either, and it is two seconds of the command that does


def test_nothing_loads_a_pickle() -> None:
    forbidden = {"pickle", "cPickle", "dill", "joblib", "cloudpickle", "shelve", "marshal"}
    for path in [*SOURCE.rglob("*.py"), *(ROOT / "stages").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name.split(".")[0] for alias in node.names} | {(getattr(node, "module", None) or "").split(".")[0]}
                assert not names & forbidden, path
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called != "torch.load", path
                assert not any(keyword.arg == "allow_pickle" for keyword in node.keywords), path


def test_a_module_imports_only_what_stands_below_it() -> None:
    """No import cycles: following imports from any module never comes back to it."""
    for module in SOURCE.rglob("*.py"):
        assert module not in closure(module, packages=False), module
