"""An offline copy of the named data sets: `$WELLCHECK_MIRROR/<name>/{train,test}.parquet` in the Hugging Face image layout."""

import os
from pathlib import Path

from wellcheck.errors import InputError

VARIABLE = "WELLCHECK_MIRROR"


def find(name: str) -> list[Path] | None:
    """The training file and, if there is one, the test file; None without a mirror or if it lacks this data set.

    Raises InputError if the variable names something that is not a folder: a typing error must not start a download.
    """
    folder = os.environ.get(VARIABLE)
    if not folder:
        return None
    if not Path(folder).is_dir():
        raise InputError(f"{VARIABLE}: found '{folder}', which is not a folder; set it to the mirror's folder or unset it")
    train, test = (Path(folder) / name / f"{split}.parquet" for split in ("train", "test"))
    if not train.exists():
        return None
    return [train, test] if test.exists() else [train]


def advice(name: str) -> str:
    """What to do where a download fails: half a sentence that names the variable and the file that was looked for."""
    folder = os.environ.get(VARIABLE)
    looked = f"{Path(folder) / name / 'train.parquet'} is not there" if folder else f"{VARIABLE} is not set"
    return f"without a network, set {VARIABLE}=<mirror> to a folder with <mirror>/{name}/train.parquet ({looked})"
