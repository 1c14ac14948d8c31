"""Two filters to compare the cleansing with: one that knows what was planted, and one that removes as many samples at random."""

from pathlib import Path

import numpy as np

from wellcheck import cleansing, params, samples, stage, truth
from wellcheck.cleansing import Plan
from wellcheck.errors import InputError
from wellcheck.samples import Labels
from wellcheck.stage import Output


def main(train: Path, truth_file: Path, judged: Path, *, perfect: Output, random: Output) -> str:
    seed = params.load(params.Cleanse).seed
    known = samples.read_labels(train)
    planted = _planted(truth_file, known)
    count = int(cleansing.read_judged(judged, known).flagged.sum())
    # A stream of its own: every section's seed is 0 by default, and the poisoner has drawn from that.
    drawn = np.zeros(len(known), bool)
    drawn[np.random.default_rng([seed, *b"random filter"]).permutation(len(known))[:count]] = True
    for reason, path, removed in ((truth_file, perfect, planted), (judged, random, drawn)):
        if removed.all():
            raise InputError(f"{reason}: all {len(known):,} samples are to be removed, nothing would be left to train {path.stem} on")
        cleansing.rewrite(train, path, known, Plan(~removed, known.labels))
    return f"perfect filter: {planted.sum():,} of {len(known):,} samples removed, random filter: {count:,}"


def _planted(truth_file: Path, known: Labels) -> np.ndarray:
    """The samples that were planted, bool [N]: without cover, which is labelled as it should be. None where nothing is known."""
    planted = truth.read(truth_file)
    if not len(planted.sample_id):
        return np.zeros(len(known), bool)
    cleansing.match_ids(truth_file, planted.sample_id, known)
    return planted.poisoned


if __name__ == "__main__":
    stage.run(main)
