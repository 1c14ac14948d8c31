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
            rows, features = np.arange(len(known)), DETECTORS[name].features
            if features == "tsne":
                rows, values = _map(projection, known.sample_id)
            else:
                values = embeddings.read(embedded, features)
            # A sample that a detector has not looked at, for it is not on the map, has no score (NaN).
            columns[name] = np.full(len(known), np.nan)
            with timed(name):
                columns[name][rows] = DETECTORS[name].score(values, known.labels[rows])
            advance(1, name)
    write_columns(scores, columns)
    return f"{len(known):,} samples scored by {', '.join(names)}"


def _map(projection: Path, sample_id: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows of the samples that are on the map, and their places [n, 2]."""
    columns = read_columns(projection, ["sample_id", "pixels_x", "pixels_y"])
    return np.searchsorted(sample_id, columns["sample_id"]), np.column_stack([columns["pixels_x"], columns["pixels_y"]])


if __name__ == "__main__":
    stage.run(main)
