"""What was planted. Written by `poison`, read by `assess` alone: a test follows the graph and the imports to make sure of it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wellcheck.artifacts import read_columns, write_columns


@dataclass(frozen=True)
class Truth:
    """sample_id int64 [N], poisoned bool [N], cover bool [N], original_label int64 [N].

    Cover samples carry the trigger and their right label. No rows: nothing was planted by us, so nothing is known.
    """

    sample_id: np.ndarray
    poisoned: np.ndarray
    cover: np.ndarray
    original_label: np.ndarray


def write(path: Path, truth: Truth) -> None:
    """Write the truth as Parquet."""
    write_columns(path, vars(truth))


def read(path: Path) -> Truth:
    """Read the truth. Raises InputError naming the file."""
    columns = read_columns(path)
    return Truth(columns["sample_id"], columns["poisoned"], columns["cover"], columns["original_label"])
