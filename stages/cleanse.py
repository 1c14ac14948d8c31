"""Remove what the verdict flagged, or give it the label that its content suggests, and list it for people who clean by hand."""

from pathlib import Path

from wellcheck import cleansing, params, samples, stage
from wellcheck.stage import Output


def main(train: Path, judged: Path, flagged: Path, files: Path, *, cleansed: Output, listed: Output) -> str:
    action = params.load(params.Cleanse).action
    known = samples.read_labels(train)
    names = known.description.class_names
    after = cleansing.plan(known.labels, cleansing.read_judged(judged, known), action)
    # The list first: if nothing would be left, it is what a person needs.
    cleansing.write_flagged(flagged, listed, names, cleansing.read_files(files))
    cleansing.check(judged, known.labels, after, names)
    cleansing.rewrite(train, cleansed, known, after)
    removed, relabelled = after.figures(known.labels)
    told = f", {relabelled:,} relabelled" if action == "relabel" else ""
    return f"{removed:,} of {len(known):,} samples removed{told}"


if __name__ == "__main__":
    stage.run(main)
