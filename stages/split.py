"""Cut the training set into train, valid and test."""

from pathlib import Path

from wellcheck import params, samples, splits, stage
from wellcheck.progress import progress
from wellcheck.stage import Output


def main(downloaded_train: Path, downloaded_test: Path, *, train: Output, valid: Output, test: Output) -> str:
    known, own_test = samples.read_labels(downloaded_train), samples.read_labels(downloaded_test)
    parts = splits.cut(known, own_test, params.load(params.Split))
    about = (known.description, known.image_shape)
    with (
        samples.writing(train, *about) as trains,
        samples.writing(valid, *about) as valids,
        samples.writing(test, *about) as tests,
        progress("split", len(known) + len(own_test), "images") as advance,
    ):
        start = 0
        for batch in samples.batches(downloaded_train):
            rows = slice(start, start + len(batch))
            for writer, mask in ((trains, parts.train), (valids, parts.valid), (tests, parts.test)):
                writer.append(batch.take(mask[rows]))
            start += len(batch)
            advance(len(batch))
        start = 0
        for batch in samples.batches(downloaded_test):
            tests.append(batch.take(parts.own_test[start : start + len(batch)]))
            start += len(batch)
            advance(len(batch))
    return f"{parts.train.sum():,} train, {parts.valid.sum():,} valid, {parts.test.sum() + parts.own_test.sum():,} test"


if __name__ == "__main__":
    stage.run(main)
