"""Train one variant of the classifier."""

from pathlib import Path

from wellcheck import params, samples, stage, training
from wellcheck.artifacts import cache_folder
from wellcheck.models import device_name, pick_device, storage
from wellcheck.stage import Output


def main(train: Path, valid: Path, *, model: Output) -> str:
    recipe = params.load(params.Train)
    device = pick_device(params.load(params.Device).root)
    stage.remember("device", device_name(device))
    hashes = samples.read_labels(train).content_hash, samples.read_labels(valid).content_hash
    checkpoint = cache_folder() / "checkpoints" / training.checkpoint_name(*hashes, recipe, device)
    title = f"train@{model.name}"
    trained = training.train(samples.read(train), samples.read(valid), recipe, device=device, checkpoint=checkpoint, title=title)
    stage.remember("training_seconds", trained.seconds)  # an interrupted run's seconds are in it, those of the stage are this run's
    storage.save(model, trained.classifier, trained.history, trained.early_losses, trained.snapshots)
    last = trained.history[-1]
    heard = f", valid accuracy {last['valid_accuracy']:.2%}" if last["valid_accuracy"] is not None else ""
    return f"{recipe.model} on {device}, {recipe.epochs} epochs: train accuracy {last['train_accuracy']:.2%}{heard}"


if __name__ == "__main__":
    stage.run(main)
