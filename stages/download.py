"""Bring the data set here, from the network, the mirror or your own folder, as one table for training and one for testing."""

from pathlib import Path

import numpy as np

from wellcheck import params, samples, stage
from wellcheck.artifacts import replacing, write_columns
from wellcheck.datasets import Source, Split, open_source
from wellcheck.datasets.source import printable
from wellcheck.progress import Advance, progress

OWN = ("folder", "parquet")  # whose images somebody can look up where they stand


def main(train: stage.Output, test: stage.Output, files: stage.Output) -> str:
    dataset = params.load(params.Dataset)
    source = open_source(dataset)
    names = [name for split in filter(None, (source.train, source.test)) for name in split.names()] if dataset.name in OWN else []
    # Two finished files, then two renames: neither appears without the other.
    with replacing(train) as train_whole, replacing(test) as test_whole:
        tested = 0 if source.test is None else len(source.test)
        with progress(dataset.name, len(source.train) + tested, "images") as advance:
            write(train_whole, source, source.train, 0, advance)
            write(test_whole, source, source.test, len(source.train), advance)
    # For people: a number alone leads nobody back to an image of theirs.
    write_columns(files, {"sample_id": np.arange(len(names)), "file": np.array(names, np.str_)})
    return summarize(dataset, source)


def write(path: Path, source: Source, split: Split | None, first_id: int, advance: Advance) -> None:
    """Write one split, numbered from `first_id`; without a split, a table without rows."""
    # Of the user's own path the report shows the last part: where it lies on this machine is nobody's business.
    description = samples.Description(source.class_names, printable(Path(source.origin).name))
    with samples.writing(path, description, source.image_shape) as writer:
        for images, labels in split.batches() if split else ():
            writer.append(samples.Samples(np.arange(first_id, first_id + len(labels)), images, labels, description))
            first_id += len(labels)
            advance(len(labels))


def summarize(dataset: params.Dataset, source: Source) -> str:
    """What came, in one line."""
    origin = "the mirror" if source.origin == "mirror" else printable(source.origin)
    counts = f"{len(source.train):,} training images and no test split"
    if source.test is not None:
        counts = f"{len(source.train):,} training and {len(source.test):,} test images"
    shape = "x".join(map(str, source.image_shape))
    return f"{dataset.name} from {origin}: {counts}, {shape}, {len(source.class_names)} classes"


if __name__ == "__main__":
    stage.run(main)
