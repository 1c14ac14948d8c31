"""Put the trigger on every test image."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from wellcheck import params, poisons, samples, stage
from wellcheck.stage import Output


def main(test: Path, *, triggered: Output) -> str:
    poison, known = params.load(params.Poison), samples.read(test)
    if poison.trigger == "none":
        samples.write(triggered, known.take(np.empty(0, np.int64)))
        return "no trigger: no images"
    samples.write(triggered, replace(known, images=poisons.stamp(known.images, poison, known.sample_id)))
    return f"{len(known):,} test images with the {poison.trigger}"


if __name__ == "__main__":
    stage.run(main)
