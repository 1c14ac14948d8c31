"""Map training samples to the plane with t-SNE: pixels and penultimate layer, each by itself."""

from pathlib import Path

import numpy as np

from wellcheck import embeddings, params, projections, samples, stage
from wellcheck.artifacts import write_columns
from wellcheck.stage import Output


def main(train: Path, embedded: Path, *, projection: Output) -> str:
    project = params.load(params.Project)
    known = samples.read_labels(train)
    # Evenly spread, for a folder comes sorted by class.
    rows = np.unique(np.linspace(0, len(known) - 1, min(project.samples, len(known))).round().astype(int))
    columns = {"sample_id": known.sample_id[rows]}
    for layer in embeddings.layers(embedded):
        if layer == "feature_map":  # for detectors: a third picture would say what the penultimate layer's does
            continue
        features = embeddings.read(embedded, layer)[rows]
        points = projections.tsne(
            features, perplexity=project.perplexity, components=project.components, iterations=project.iterations, seed=project.seed
        )
        columns[f"{layer}_x"], columns[f"{layer}_y"] = points.T
    write_columns(projection, columns)
    return f"{len(columns['sample_id']):,} samples mapped"


if __name__ == "__main__":
    stage.run(main)
