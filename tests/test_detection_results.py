"""The tables of the verdict's grid, from made-up cells."""

from pathlib import Path
from typing import Any

import pytest

from wellcheck.artifacts import write_json
from wellcheck.detection_results import GRID, tables

CELLS = [
    "mnist-watermark-0.01-0",
    "mnist-watermark-0.01-1",
    "mnist-watermark-0.01-2",
    "mnist-warp-0.05-0",
    "mnist-none-0-0",
    "mnist-none-0-1",
]


def cell(name: str, *, success: float | None = None, named: tuple[int, ...] = (), **figures: Any) -> dict[str, Any]:
    """One result as benchmarks/detection.py leaves it."""
    dataset, poison, rate, seed = name.split("-")
    result: dict[str, Any] = {
        "dataset": dataset, "poison": poison, "rate": float(rate), "seed": int(seed), "target_label": None if success is None else 3,
        "accuracy": 0.98, "attack_success_rate": success, "provenance": {"device": "CPU, 1 thread", "git_commit": "abcdef0123456789"},
    }  # fmt: skip
    if success is None or success >= 0.5:
        detector = {"auroc": 0.75, "tpr": 0.25, "fpr": 0.01}
        verdict = {"poisoned": bool(named), "target_labels": list(named), "evidence": [0.1, 0.2, 0.0, 0.7 if named else 0.15]}
        result |= {"verdict": verdict, "detectors": {"mixture": detector}, "tpr": 1.0, "fpr": 0.0, "calibration_error": 0.01}
    if success is not None and success >= 0.5:
        result |= {variant: {"accuracy": 0.97, "attack_success_rate": 0.01} for variant in ("cleansed", "perfect_filter")}
    return result | figures


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    cells = [
        cell(CELLS[0], success=0.9, named=(3,)),
        cell(CELLS[1], success=0.8, named=(2,), tpr=0.5, fpr=0.002, cleansed={"accuracy": 0.95, "attack_success_rate": 0.41}),
        cell(CELLS[2], success=0.2),
        cell(CELLS[4]),
        cell(CELLS[5], named=(1,)),
    ]
    for one in cells:
        write_json(tmp_path / f"{one['dataset']}-{one['poison']}-{one['rate']:g}-{one['seed']}.json", one)
    write_json(tmp_path / GRID, {"cells": CELLS})
    return tmp_path


def test_totals_are_over_the_cells_whose_backdoor_works(folder: Path) -> None:
    page = tables(folder)
    assert "5 of 6 cells were run, in 2 of them a backdoor works. CPU, 1 thread; commits `abcdef012345` (5 cells). " in page
    assert "| target | all: 2 of mnist | looked at: 1 of mnist | not looked at: 1 of mnist |" in page
    assert "| average TPR | ≥ 98 % | 75.00 % | 100.00 % | 50.00 % |" in page
    assert "| average FPR | ≤ 0.05 % | 0.100 % | 0.000 % | 0.200 % |" in page
    assert "| right target named, and no other label | ≥ 95 % | 1 of 2 (50.0 %) | 1 of 1 (100.0 %) | 0 of 1 (0.0 %) |" in page
    assert "above the perfect filter's: average | ≤ 2 points | 20.0 points | 0.0 points | 40.0 points |" in page
    assert "| … largest | ≤ 2 points | 40.0 points | 0.0 points | 40.0 points |" in page
    assert "below the perfect filter's: average | ≤ 0.5 points | 1.00 points | 0.00 points | 2.00 points |" in page


def test_every_cell_of_the_grid_stands_in_a_row(folder: Path) -> None:
    page = tables(folder)
    assert "| mnist | watermark | 1 % | 2 / 3 / 3 | 63.3 % | 1 of 2 (50.0 %) | 75.00 % | 0.100 % | 21.0 % | 1.0 % | -2.00 |" in page
    assert "| mnist | warp | 5 % | 0 / 0 / 1 | not run |" in page
    assert "| mixture | 2 | 0.750 | 25.00 % | 1.00 % |" in page


def test_false_verdicts_are_counted(folder: Path) -> None:
    page = tables(folder)
    assert "a false verdict in 1 of 2 trainings" in page
    assert "| mnist | none | 2 | 1 | 0.70 |" in page


@pytest.mark.parametrize("kept", [[], CELLS[4:], CELLS[2:3]])
def test_a_grid_that_has_just_begun_has_tables_too(folder: Path, kept: list[str]) -> None:
    for path in folder.glob("mnist-*.json"):
        if path.stem not in kept:
            path.unlink()
    assert f"{len(kept)} of 6 cells were run, in 0 of them" in tables(folder)


def test_without_a_grid_there_is_nothing_to_say(tmp_path: Path) -> None:
    assert tables(tmp_path) == ""
