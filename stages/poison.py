"""Plant a backdoor: stamp the trigger on a share of the training set and give those samples the target label."""

from pathlib import Path

import numpy as np

from wellcheck import params, poisons, samples, stage, truth
from wellcheck.stage import Output


def main(clean: Path, *, poisoned: Output, truth_out: Output) -> str:
    poison = params.load(params.Poison)
    known = samples.read_labels(clean)
    poisons.check_target(poison, known.description.class_names)
    chosen = poisons.choose(len(known), poison)
    with samples.writing(poisoned, known.description, known.image_shape) as writer:
        start = 0
        for batch in samples.batches(clean):
            rows = np.flatnonzero(chosen[start : start + len(batch)])
            if len(rows):
                batch.images[rows] = poisons.stamp(batch.images[rows], poison.trigger)
                batch.labels[rows] = poison.target_label
            writer.append(batch)
            start += len(batch)
    if poison.trigger == "none":
        nothing = np.empty(0, np.int64)
        truth.write(truth_out, truth.Truth(nothing, nothing.astype(bool), nothing))
        return f"{len(known):,} samples left as they came"
    truth.write(truth_out, truth.Truth(known.sample_id, chosen, known.labels))
    target = known.description.class_names[poison.target_label]
    return f"{chosen.sum():,} of {len(known):,} samples carry the {poison.trigger} and the label {poison.target_label} ({target})"


if __name__ == "__main__":
    stage.run(main)
