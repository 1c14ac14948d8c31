"""The tables of results/detection/: how much of what was planted the verdict finds, and what is left of the backdoor without it."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import mean
from typing import Any

from wellcheck.artifacts import read_json

FLAGS = (
    "A detector's flags are scores beyond five robust standard deviations, the same rule for all. Where most scores are the same, as those "
    "of activation clustering outside suspicious labels or of neighbours that all agree, it flags nobody: what activation clustering "
    "decides by its own gates stands in the benchmark `peers`."
)
GRID = "grid.json"  # all cells, run or not
TOOK_HOLD = 0.5  # attack success of a backdoor that works
# Of other seeds than 0 these were looked at while the method was made.
LOOKED_AT = (
    "mnist-source_specific-0.1-1",
    "mnist-source_specific-0.05-2",
    "mnist-adaptive-0.01-1",
    "mnist-warp-0.05-1",
    "fashion_mnist-warp-0.05-1",
    "fashion_mnist-none-0-1",
    "mnist-none-0-1",
    "fashion_mnist-none-0-3",
    "fashion_mnist-none-0-5",
    "fashion_mnist-label_noise-0.05-1",
    "fashion_mnist-picture-0.01-1",
    "fashion_mnist-pixel-0.01-1",
)
Result = dict[str, Any]


def tables(folder: Path) -> str:
    """Markdown for all cells that were run, and a word on those that were not; empty without a grid."""
    if not (folder / GRID).exists():
        return ""
    wanted = read_json(folder / GRID)["cells"]
    results = {name: read_json(folder / f"{name}.json") for name in wanted if (folder / f"{name}.json").exists()}
    planted = {name: one for name, one in results.items() if one["attack_success_rate"] is not None}
    held = {name: one for name, one in planted.items() if one["attack_success_rate"] >= TOOK_HOLD}
    working = list(held.values())
    nothing = [one for one in results.values() if one["attack_success_rate"] is None]
    parts = [_head(wanted, list(results.values()), held)]
    if working:
        parts += [_totals(held), _by_poison(wanted, planted), _by_detector(working)]
    if nothing:
        parts.append(_null(nothing))
    return "\n".join(parts)


def _head(wanted: list[str], results: list[Result], working: dict[str, Result]) -> str:
    devices = sorted({one["provenance"]["device"] for one in results})
    commits = Counter((one["provenance"]["git_commit"] or "unknown")[:12] for one in results)
    return "\n".join(
        [
            "## The verdict: what it finds and what is left",
            "",
            "`python benchmarks/detection.py`: 20,000 training images, no clean data, no rate, no target. A backdoor works from an attack "
            "success of 50 % on; nobody is asked about one that does not. Cells of seed 0 were looked at while the method was made, and "
            f"{', '.join(f'`{name}`' for name in LOOKED_AT)}; the others were not{_not_among(working)}. "
            f"{len(results)} of {len(wanted)} cells were run, in {len(working)} of them a backdoor works. "
            f"{', '.join(devices)}; commits {', '.join(f'`{one}` ({count} cells)' for one, count in sorted(commits.items()))}. "
            "The method was mended between these (docs/decisions/0007-verdict.md): cells it failed on were run again, most others not.",
            "",
        ]
    )


def _looked_at(name: str) -> bool:
    return name.endswith("-0") or name in LOOKED_AT


def _not_among(working: dict[str, Result]) -> str:
    """Which data sets and poisons that work nobody can judge by the cells that were not looked at."""
    fresh = [one for name, one in working.items() if not _looked_at(name)]
    missing = [sorted({one[key] for one in working.values()} - {one[key] for one in fresh}) for key in ("dataset", "poison")]
    told = ", ".join(name.replace("_", " ") for names in missing for name in names)
    return f", and where a backdoor works there is none of {told} among these" if told else ""


def _totals(working: dict[str, Result]) -> str:
    """Over all cells whose backdoor works, over those that were looked at, and over the others."""
    parts = {
        "all": list(working.values()),
        "looked at": [one for name, one in working.items() if _looked_at(name)],
        "not looked at": [one for name, one in working.items() if not _looked_at(name)],
    }
    columns = {f"{title}: {_counted(some)}": _figures(some) for title, some in parts.items() if some}
    rows = [(*asked, *(figures[asked] for figures in columns.values())) for asked in next(iter(columns.values()))]
    head = ["over the cells whose backdoor works", "target", *columns]
    return "\n".join([_row(head), "|---" * len(head) + "|", *map(_row, rows), ""])


def _counted(some: list[Result]) -> str:
    return ", ".join(f"{count} of {dataset}" for dataset, count in Counter(one["dataset"] for one in some).items())


def _figures(working: list[Result]) -> dict[tuple[str, str], str]:
    """What is measured, by what is asked for and its target."""
    lost = [one["perfect_filter"]["accuracy"] - one["cleansed"]["accuracy"] for one in working]
    left = [one["cleansed"]["attack_success_rate"] - one["perfect_filter"]["attack_success_rate"] for one in working]
    stamps = [one for one in working if one["poison"] in ("watermark", "pixel", "random_patch") and one["rate"] == 0.01]
    known = [one["calibration_error"] for one in working if one["calibration_error"] is not None]
    return {
        ("average TPR", "≥ 98 %"): _percent(mean(one["tpr"] for one in working), 2),
        ("average FPR", "≤ 0.05 %"): _percent(mean(one["fpr"] for one in working), 3),
        ("TPR, patch and pixel triggers at 1 %", "≥ 99 %"): _percent(mean(one["tpr"] for one in stamps), 2) if stamps else "not run",
        ("right target named, and no other label", "≥ 95 %"): _share(working, _right),
        ("attack success after cleansing, above the perfect filter's: average", "≤ 2 points"): f"{100 * mean(left):.1f} points",
        ("… largest", "≤ 2 points"): f"{100 * max(left):.1f} points",
        ("… in so many cells at most 2 points", ""): _share(left, lambda one: one <= 0.02),
        ("accuracy after cleansing, below the perfect filter's: average", "≤ 0.5 points"): f"{100 * mean(lost):.2f} points",
        ("… in so many cells at most 0.5 points", ""): _share(lost, lambda one: one <= 0.005),
        ("calibration error in the labels named, average", ""): f"{mean(known):.4f} ({len(known)} cells)" if known else "no label named",
    }


def _by_poison(wanted: list[str], planted: dict[str, Result]) -> str:
    """One row a data set, poison and rate: over the seeds that were run."""
    groups: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for name in wanted:
        dataset, poison, rate, _ = name.split("-")
        if poison not in ("none", "label_noise"):
            groups[dataset, poison, rate].append(name)
    rows = []
    for (dataset, poison, rate), names in groups.items():
        found = [planted[name] for name in names if name in planted]
        working = [one for one in found if one["attack_success_rate"] >= TOOK_HOLD]
        success = _percent(mean(one["attack_success_rate"] for one in found), 1) if found else "not run"
        figures = [_percent(mean(one[key] for one in working), digits) if working else "" for key, digits in (("tpr", 2), ("fpr", 3))]
        after = [
            _percent(mean(one[filtered]["attack_success_rate"] for one in working), 1) if working else ""
            for filtered in ("cleansed", "perfect_filter")
        ]
        change = f"{100 * mean(one['cleansed']['accuracy'] - one['accuracy'] for one in working):+.2f}" if working else ""
        seeds = f"{len(working)} / {len(found)} / {len(names)}"
        right = _share(working, _right) if working else ""
        rows.append((dataset, poison.replace("_", " "), f"{100 * float(rate):g} %", seeds, success, right, *figures, *after, change))
    head = (
        "| data | poison | rate | seeds: working / run / all | attack success | target right | TPR | FPR "
        "| success, cleansed | perfect filter | accuracy, points |"
    )
    return "\n".join([head, "|---|---|---|---|---|---|---|---|---|---|---|", *map(_row, rows), ""])


def _by_detector(working: list[Result]) -> str:
    """Every detector beside the verdict: how it ranks, and what it flags by the rule that all detectors share."""
    names = list(dict.fromkeys(name for one in working for name in one["detectors"]))
    rows = [("**verdict**", len(working), "", *(_percent(mean(one[key] for one in working), 2) for key in ("tpr", "fpr")))]
    for name in names:
        asked = [one["detectors"][name] for one in working if name in one["detectors"]]
        known = [one["auroc"] for one in asked if one["auroc"] is not None]
        rows.append((name, len(asked), f"{mean(known):.3f}", *(_percent(mean(one[key] for one in asked), 2) for key in ("tpr", "fpr"))))
    return "\n".join(
        ["| detector, alone | cells | AUROC | TPR of its flags | FPR |", "|---|---|---|---|---|", *map(_row, rows), "", FLAGS, ""]
    )


def _null(nothing: list[Result]) -> str:
    groups: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for one in nothing:
        groups[one["dataset"], one["poison"]].append(one)
    rows = [
        (dataset, poison.replace("_", " "), len(found), sum(one["verdict"]["poisoned"] for one in found), max(map(_most, found)))
        for (dataset, poison), found in groups.items()
    ]
    false = sum(one["verdict"]["poisoned"] for one in nothing)
    lines = [
        f"Where no backdoor is planted, a false verdict in {false} of {len(nothing)} trainings (target: ≤ 5 %). The images are the same "
        "20,000 of each data set every time: the seed changes the network, and which labels are wrong.",
        "",
        "| data | planted | trainings | false verdicts | most evidence against a label (0.5 convicts) |",
        "|---|---|---|---|---|",
        *map(_row, ((*row[:4], f"{row[4]:.2f}") for row in rows)),
    ]
    return "\n".join([*lines, ""])


def _most(result: Result) -> float:
    return max(map(float, result["verdict"]["evidence"]))


def _right(result: Result) -> bool:
    """Whether all labels that the backdoor leads to are named, and no other: with all-to-all that is every label."""
    named, target = result["verdict"]["target_labels"], result["target_label"]
    return len(named) == len(result["verdict"]["evidence"]) if target is None else named == [target]


def _share(values: list[Any], holds: Callable[[Any], bool]) -> str:
    count = sum(map(holds, values))
    return f"{count} of {len(values)} ({_percent(count / len(values), 1)})"


def _percent(value: float, digits: int) -> str:
    return f"{100 * value:.{digits}f} %"


def _row(cells: Iterable[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"
