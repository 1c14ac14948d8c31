"""Time and memory of the detectors up to 1,000,000 samples of 512 half-precision features, streamed from disk.

    python benchmarks/scaling.py                                   # 250,000 to 1,000,000 samples
    python benchmarks/scaling.py --most 250000 --only spectral_signatures scan

Ten labels of Gaussian features with a shifted group of 1 % in one of them; each detector and size in a process of its own, so that its peak
of resident memory is its own (mapped pages of the features count too, although the system may take them back at any time). Writes
results/benchmarks/scaling.json and docs/scaling.svg.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from wellcheck import memory
from wellcheck.artifacts import write_json, write_text
from wellcheck.detectors import DETECTORS
from wellcheck.detectors.case import Case
from wellcheck.models import device_name, pick_device
from wellcheck.report.charts import Line, line_chart

RESULT, PLOT = Path("results/benchmarks/scaling.json"), Path("docs/scaling.svg")
WIDTH, LABELS = 512, 10
STEPS = 4  # sizes: one, two, three and four quarters of the most
CHUNK = 50_000
ASKED = ("centroid_penultimate", "spectral_signatures", "activation_clustering", "spectre", "scan", "mixture")
COLOURS = ("#3465a4", "#c4452f", "#2e8b57", "#8a5cd0", "#b8860b", "#444444")


def main() -> None:
    """Measure every detector at every size; print, write, draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--most", type=int, default=1_000_000, help="samples of the largest set (1000000)")
    parser.add_argument("--only", nargs="*", default=list(ASKED), help="detectors (those that read the penultimate layer)")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)  # detector, samples, features: what a process of its own does
    options = parser.parse_args()
    if options.one:
        memory.keep_freed()  # as every stage does
        name, count, path = options.one
        print(json.dumps(measure(name, int(count), Path(path))))
        return
    sizes = [options.most * step // STEPS for step in range(1, STEPS + 1)]
    figures: dict[str, list[dict[str, float]]] = {name: [] for name in options.only}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "features.npy"
        write_features(path, options.most)
        for name in options.only:
            for count in sizes:
                command = [sys.executable, __file__, "--one", name, str(count), str(path)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                figures[name].append(json.loads(done.stdout.splitlines()[-1]))
                print(name, figures[name][-1], flush=True)
    ratios = {}
    for name, rows in figures.items():
        ratios[f"{name}: seconds at {sizes[-1]:,} / at {sizes[0]:,}, samples × {STEPS}"] = rows[-1]["seconds"] / rows[0]["seconds"]
        ratios[f"{name}: peak of resident memory at {sizes[-1]:,}, GiB"] = rows[-1]["gibibytes"]
    device = f"{device_name(pick_device('cpu'))}, shared with other work"
    write_json(
        RESULT,
        {
            "command": f"python benchmarks/scaling.py --most {options.most}",
            "device": device,
            "figures": figures,
            "ratios": ratios,
            "runs": 1,
        },
    )
    write_text(PLOT, draw(dict(sorted(figures.items()))))


def write_features(path: Path, count: int) -> None:
    """Float16 [count, WIDTH] in a file, label by position modulo LABELS; every hundredth of label 0 is shifted."""
    features = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(count, WIDTH))
    rng = np.random.default_rng(0)
    means = rng.standard_normal((LABELS, WIDTH))
    for start in range(0, count, CHUNK):
        rows = np.arange(start, min(start + CHUNK, count))
        values = means[rows % LABELS] + rng.standard_normal((len(rows), WIDTH))
        values[rows % (LABELS * 100) == 0] += 1.0
        features[rows] = values
    features.flush()


def measure(name: str, count: int, path: Path) -> dict[str, float]:
    """Seconds and the peak of resident memory of one detector."""
    features = np.load(path, mmap_mode="r")[:count]
    labels = np.arange(count) % LABELS
    small = features[:, :32]  # the mixture starts from neighbours in pixels; here, in few columns of the features
    case = Case(labels=labels, classes=LABELS, layers={"pixels": small, "feature_map": features, "penultimate": features})
    start = time.perf_counter()
    DETECTORS[name].score(case)  # type: ignore[index]
    return {"samples": count, "seconds": round(time.perf_counter() - start, 2), "gibibytes": round(peak_memory(), 2)}


def peak_memory() -> float:
    """This process's largest resident memory so far, GiB (Linux). What `getrusage` says would include the parent's."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) / 2**20


def draw(figures: dict[str, list[dict[str, float]]]) -> str:
    """How each detector's seconds grow with the samples, as an SVG that stands alone: a straight line is linear, whatever its slope."""
    lines = [
        Line(
            name,
            f"one{place}",
            [row["samples"] / 1000 for row in rows],
            [row["seconds"] / rows[0]["seconds"] for row in rows],
            marks=True,
        )
        for place, (name, rows) in enumerate(figures.items())
    ]
    chart = str(line_chart(lines, title="Seconds over samples", x_label="thousand samples", y_label="seconds, over those of the first"))
    svg = chart[chart.index("<svg") : chart.index("</svg>")]
    style = "".join(f".one{place}{{stroke:{colour};fill:none}}circle.one{place}{{fill:{colour}}}" for place, colour in enumerate(COLOURS))
    names = "".join(
        f'<text x="60" y="{24 + 13 * place}" font-size="10" fill="{colour}">{name}: {rows[-1]["seconds"]:.0f} s for the last</text>'
        for place, ((name, rows), colour) in enumerate(zip(figures.items(), COLOURS, strict=False))
    )
    return (
        svg.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg" font-family="sans-serif" font-size="11"', 1)
        + f"<style>{style}</style>{names}</svg>\n"
    )


if __name__ == "__main__":
    main()
