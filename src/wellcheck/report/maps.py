"""The t-SNE maps: sampled points, and one sheet of thumbnails that every map shares, for a look at the image under the pointer."""

from typing import Any

import numpy as np

from wellcheck.params import Report
from wellcheck.report.evidence import VARIANTS, Evidence, images
from wellcheck.report.pictures import SPRITE_SIDE, sprite

SPRITE_COLUMNS = 64
GRID = 1000  # coordinates are sent as whole numbers from 0 to GRID


def build_maps(evidence: Evidence, settings: Report) -> dict[str, Any]:
    """`sheet` (address, columns, cell size), `layers` and one entry a map: points as [x, y, label, cell, sample_id, planted]."""
    shown = _choose(evidence, settings)
    changed = shown[np.isin(shown, np.union1d(evidence.planted, evidence.cover))]
    before = images(evidence.files.clean_train, shown, side=SPRITE_SIDE)
    after = images(evidence.files.poisoned_train, changed, side=SPRITE_SIDE)
    cells = np.concatenate([before, after])
    layers = sorted({name.removesuffix("_x") for name in evidence.maps["clean"] if name.endswith("_x")}, key=lambda name: name != "pixels")
    cell_of = {"clean": {}, "poisoned": {int(sample): len(shown) + index for index, sample in enumerate(changed)}}
    place = {int(sample): index for index, sample in enumerate(shown)}
    maps = [
        {"variant": variant, "layer": layer, "points": _points(evidence, variant, layer, shown, place | cell_of[variant])}
        for layer in layers
        for variant in VARIANTS
    ]
    _, _, height, width = cells.shape
    sheet = {
        "address": sprite(cells, columns=SPRITE_COLUMNS),
        "columns": SPRITE_COLUMNS,
        "rows": -(-len(cells) // SPRITE_COLUMNS),
        "width": width,
        "height": height,
    }
    return {"sheet": sheet, "layers": layers, "maps": maps, "shown": len(shown), "mapped": len(evidence.maps["clean"]["sample_id"])}


def _choose(evidence: Evidence, settings: Report) -> np.ndarray:
    """Sample ids that are drawn: all that were planted, up to half of the points, and a random choice of the others."""
    rng = np.random.default_rng(settings.seed)
    mapped = evidence.maps["clean"]["sample_id"]
    planted = mapped[np.isin(mapped, evidence.planted)]
    planted = rng.permutation(planted)[: settings.points_per_map // 2]
    others = rng.permutation(mapped[~np.isin(mapped, evidence.planted)])[: settings.points_per_map - len(planted)]
    return np.sort(np.concatenate([planted, others]))


def _points(evidence: Evidence, variant: str, layer: str, shown: np.ndarray, cell: dict[int, int]) -> list[list[int]]:
    table = evidence.maps[variant]
    rows = np.searchsorted(table["sample_id"], shown)
    position = np.column_stack([table[f"{layer}_x"], table[f"{layer}_y"]])[rows].astype(np.float64)
    low, high = position.min(0), position.max(0)
    extent = (high - low).max() or 1  # one scale for both axes: distances keep their meaning
    whole = (((position - (low + high) / 2) / extent + 0.5) * GRID).round().astype(int)
    train = evidence.train[variant]
    labels = train.labels[np.searchsorted(train.sample_id, shown)]
    planted = np.isin(shown, evidence.planted) & (variant == "poisoned")
    return [
        [int(x), int(y), int(label), cell[int(sample)], int(sample), int(mark)]
        for (x, y), label, sample, mark in zip(whole, labels, shown, planted, strict=True)
    ]
