"""Capture the wanted layers of every training sample in one pass."""

from pathlib import Path

from wellcheck import params, stage
from wellcheck.embeddings.capture import embed
from wellcheck.models import pick_device, storage
from wellcheck.stage import Output


def main(train: Path, model: Path, *, embedded: Output) -> str:
    layers = params.load(params.Embed).layers
    device = pick_device(params.load(params.Device).root)
    widths = embed(storage.load(model), train, embedded, layers=layers, device=device, title=f"embed@{model.name}")
    return ", ".join(f"{layer} {width:,} wide" for layer, width in widths.items())


if __name__ == "__main__":
    stage.run(main)
