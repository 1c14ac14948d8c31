"""Plant a backdoor: stamp the trigger on some of the training set and give those samples the label that the policy says."""

from pathlib import Path

import numpy as np

from wellcheck import params, poisons, samples, stage, truth
from wellcheck.errors import InputError
from wellcheck.stage import Output


def main(clean: Path, *, poisoned: Output, truth_out: Output) -> str:
    poison = params.load(params.Poison)
    known = samples.read_labels(clean)
    poisons.check(poison, known.description.class_names)
    plan = poisons.plan(known.labels, len(known.description.class_names), poison)
    rows = np.flatnonzero(plan.poisoned)
    perturbed = _perturbed(clean, rows, poison) if poison.policy == "label_consistent" and len(rows) else None
    unchanged = 0
    with samples.writing(poisoned, known.description, known.image_shape) as writer:
        start = 0
        for batch in samples.batches(clean):
            here = slice(start, start + len(batch))
            if perturbed is not None:
                batch.images[plan.poisoned[here]] = perturbed[(rows >= here.start) & (rows < here.stop)]
            for chosen, cover in ((plan.poisoned[here], False), (plan.cover[here], True)):
                if chosen.any():
                    planted = poisons.plant(batch.images[chosen], poison, batch.sample_id[chosen], cover=cover)
                    unchanged += 0 if cover else int((planted == batch.images[chosen]).all((1, 2, 3)).sum())
                    batch.images[chosen] = planted
            batch.labels[:] = plan.labels[here]
            writer.append(batch)
            start += len(batch)
        if poison.trigger != "none" and unchanged == len(rows) > 0:
            raise InputError(
                f"poison.trigger: {poison.trigger} changes none of the {len(rows):,} images that it was put on: see poison.strength, "
                "poison.picture, and whether it can be seen at all on images of this size"
            )
    if not poison.plants:
        nothing = np.empty(0, np.int64)
        truth.write(truth_out, truth.Truth(nothing, nothing.astype(bool), nothing.astype(bool), nothing))
        return f"{len(known):,} samples left as they came"
    truth.write(truth_out, truth.Truth(known.sample_id, plan.poisoned, plan.cover, known.labels))
    told = [f"{plan.poisoned.sum():,} of {len(known):,} samples {_told(poison, known.description.class_names)}"]
    if plan.cover.any():
        told.append(f"{plan.cover.sum():,} more carry it and keep their label")
    if unchanged and poison.trigger != "none":
        told.append(f"{unchanged:,} of the poisoned images are not changed by it")
    return "; ".join(told)


def _perturbed(clean: Path, rows: np.ndarray, poison: params.Poison) -> np.ndarray:
    # Here, and not above: no other policy needs PyTorch, which takes seconds to import.
    from wellcheck.models import pick_device
    from wellcheck.poisons.perturbation import perturb

    return perturb(samples.read(clean), rows, poison, pick_device(params.load(params.Device).root))


def _told(poison: params.Poison, names: tuple[str, ...]) -> str:
    if poison.policy == "label_noise":
        return "have another label"
    if poison.policy == "all_to_all":
        return f"carry the {poison.trigger} and the label after their own"
    return f"carry the {poison.trigger} and the label {poison.target_label} ({names[poison.target_label]})"


if __name__ == "__main__":
    stage.run(main)
