"""Published results: what is written, what is refused, and that the docs say what results/ says."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from wellcheck import params, results
from wellcheck.artifacts import read_json, write_csv, write_json
from wellcheck.errors import InputError

ROOT = Path(__file__).parent.parent
DETECTORS = {"spectral": {"auroc": 0.75, "auroc_in_target_label": None, "average_precision": 0.5, "tpr_at_1pct_fpr": 0.25, "samples": 1234}}
EXPERIMENT = """
title: A quick one
about: For the test.
params: {poison: {rate: 0.25}}
article:
  note: Made up.
  figures: [{name: accuracy of theirs, ours: classify.clean.accuracy, value: 0.5}]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project in which the experiment `quick` was just run."""
    monkeypatch.chdir(tmp_path)
    settings = params.load_all(ROOT / "params.yaml").model_dump()
    settings["poison"]["rate"] = 0.25
    with Path("params.yaml").open("w", encoding="utf-8") as file:
        YAML().dump(settings, file)
    for name in ("experiments", "docs"):
        Path(name).mkdir()
    Path("experiments/quick.yaml").write_text(EXPERIMENT, encoding="utf-8")
    Path("docs/results.md").write_text(f"before\n{results.BEGIN}{results.END}after\n", encoding="utf-8")
    write_json(Path("reports/metrics/classify.json"), {"clean": {"accuracy": 0.8125}, "poisoned": {"accuracy": 0.875}})
    write_json(Path("reports/metrics/poison_detection.json"), {"detectors": DETECTORS})
    write_csv(Path("data/models/clean/history.csv"), ["epoch", "valid_loss"], [[0, 2.5], [1, ""]])
    yield tmp_path


def rate(value: float) -> None:
    text = Path("params.yaml").read_text(encoding="utf-8")
    Path("params.yaml").write_text(text.replace("rate: 0.25", f"rate: {value}"), encoding="utf-8")


def test_the_docs_say_what_the_results_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert results.write_tables(check=True), "docs/results.md is stale: run `wellcheck tables`"


def test_a_published_run_holds_its_figures_and_where_they_come_from(folder: Path) -> None:
    published: dict[str, Any] = read_json(results.publish("quick"))
    assert published["experiment"] == "quick"
    assert published["params"]["poison"]["rate"] == 0.25
    assert published["metrics"]["classify"]["poisoned"]["accuracy"] == 0.875
    assert published["history"] == {"clean": {"epoch": 1.0, "valid_loss": None}}
    assert {"git_commit", "versions", "device", "seconds", "date"} <= set(published["provenance"])


def test_a_run_with_other_settings_is_not_published(folder: Path) -> None:
    rate(0.125)
    with pytest.raises(InputError, match=r"cannot publish quick: .*poison\.rate is 0\.125 instead of 0\.25"):
        results.publish("quick")
    assert not (folder / "results").exists()


@pytest.mark.parametrize("named", ["poison.rate", "poison"])
def test_settings_that_are_meant_to_be_others_stand_in_the_result_and_in_its_table(folder: Path, named: str) -> None:
    rate(0.125)
    with pytest.raises(InputError, match=r"poison\.rate is 0\.125"):
        results.publish("quick", ["train.epochs"])
    with pytest.raises(InputError, match=r"poison\.rate is 0\.125"):
        results.publish("quick", ["poison.ra"])
    published = read_json(results.publish("quick", [named, "train.epochs"]))
    assert published["changed"]["poison.rate"] == {"experiment": 0.25, "run": 0.125}
    epochs = published["params"]["train"]["epochs"]
    assert published["changed"]["train.epochs"] == {"run": epochs}  # which the experiment leaves open
    results.write_tables()
    page = results.PAGE.read_text(encoding="utf-8")
    assert "`wellcheck experiment quick --publish " in page and " -S poison.rate=0.125" in page
    assert "Not the whole experiment: poison.rate is 0.125 instead of 0.25; " in page and f"train.epochs is {epochs}" in page


def test_what_was_not_run_is_not_published_as_if_it_were(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stale = {results.METRICS / "poison_detection.json", results.MODELS / "clean"}
    monkeypatch.setattr(results, "stale_outputs", lambda: stale)
    published = read_json(results.publish("quick", stages=["evasion"]))
    assert published["not_run"] == ["poison_detection"]
    assert set(published["metrics"]) == {file.stem for file in results.METRICS.glob("*.json")} - {"poison_detection"}
    assert not published["history"]
    results.write_tables()
    page = results.PAGE.read_text(encoding="utf-8")
    assert "Not the whole experiment: without poison_detection." in page and "| detector |" not in page
    assert "`wellcheck experiment quick --publish --stage evasion`" in page


def test_tables_follow_the_results(folder: Path) -> None:
    results.publish("quick")
    assert not results.write_tables(check=True)
    results.write_tables()
    assert results.write_tables(check=True)
    page = results.PAGE.read_text(encoding="utf-8")
    assert page.startswith("before\n") and page.endswith("after\n")
    assert "| accuracy of theirs | 0.5 | 0.8125 |" in page
    assert "| spectral | 0.75 | – | 0.5 | 0.25 | 1,234 |" in page


@pytest.mark.parametrize("text", ["no marks\n", results.BEGIN, results.END])
def test_a_page_without_its_marks_is_left_alone(folder: Path, text: str) -> None:
    results.PAGE.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"docs/results\.md: the lines .* are missing"):
        results.write_tables()
    assert results.PAGE.read_text(encoding="utf-8") == text
