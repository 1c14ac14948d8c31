"""Score every training sample with every detector. What was planted is not among the inputs."""

from pathlib import Path

import numpy as np

from wellcheck import embeddings, params, samples, stage
from wellcheck.artifacts import read_columns, write_columns
from wellcheck.detectors import DETECTORS
from wellcheck.progress import progress
from wellcheck.stage import Output, timed


def main(train: Path, embedded: Path, projection: Path, *, scores: Output) -> str:
    names = params.load(params.Detect).detectors
    known = samples.read_labels(train)
    columns = {"sample_id": known.sample_id}
    with progress("detect", len(names), "detectors") as advance:
        for name in names:
            features = _map(projection) if DETECTORS[name].features == "tsne" else embeddings.read(embedded, DETECTORS[name].features)
            # The map holds the first samples only; a sample that a detector has not looked at has no score (NaN).
            columns[name] = np.full(len(known), np.nan)
            with timed(name):
                columns[name][: len(features)] = DETECTORS[name].score(features, known.labels[: len(features)])
            advance(1, name)
    write_columns(scores, columns)
    return f"{len(known):,} samples scored by {', '.join(names)}"


def _map(projection: Path) -> np.ndarray:
    columns = read_columns(projection, ["pixels_x", "pixels_y"])
    return np.column_stack([columns["pixels_x"], columns["pixels_y"]])


if __name__ == "__main__":
    stage.run(main)
