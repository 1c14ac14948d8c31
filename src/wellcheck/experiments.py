"""Ready-made settings, one file each in experiments/: an overlay on params.yaml, and the figures of the article it reproduces."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from wellcheck import params
from wellcheck.errors import InputError

FOLDER = Path("experiments")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ArticleFigure(_Strict):
    """One number of an article, if it gives one, and the dotted path of ours (`classify.clean.accuracy`)."""

    name: str
    ours: str
    value: float | None


class Article(_Strict):
    """What the article reports."""

    note: str
    figures: list[ArticleFigure]
    per_class: dict[str, list[float]] = {}  # recall and precision of the clean model, where the article has them


class Experiment(_Strict):
    """One file of experiments/."""

    title: str
    about: str
    params: dict[str, Any]
    article: Article | None = None


def read(name: str, folder: Path = FOLDER) -> Experiment:
    """Read one experiment. Raises InputError that names the file, or the experiments there are if this is none of them."""
    path = folder / f"{name}.yaml"
    if name not in names(folder):
        raise InputError(f"no experiment '{name}' in {folder}/; there are: {', '.join(names(folder)) or 'none'}")
    try:
        return Experiment.model_validate(params.read_yaml(path))
    except ValidationError as error:
        problem = error.errors()[0]
        raise InputError(f"{path}: {'.'.join(map(str, problem['loc']))}: {problem['msg']}") from None


def names(folder: Path = FOLDER) -> list[str]:
    """The experiments there are."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys: {"train": {"epochs": 3}} → {"train.epochs": 3}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def overrides(values: Mapping[str, Any]) -> list[str]:
    """`key=value` as `dvc exp run -S` (Hydra's grammar) reads them."""
    return [f"{key}={_quoted(value)}" for key, value in flatten(values).items()]


def _quoted(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ",".join(map(_quoted, value)) + "]"
    if isinstance(value, str):
        # Hydra reads a backslash as itself, except before a quote: there, and at the end, backslashes come in pairs.
        return "'" + re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), value) + "'"
    return json.dumps(value)


def differences(experiment: Experiment, used: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Settings of a run that are not the experiment's: dotted key → (the experiment's, the run's)."""
    flat = flatten(used)
    return {key: (value, flat.get(key)) for key, value in flatten(experiment.params).items() if flat.get(key) != value}
