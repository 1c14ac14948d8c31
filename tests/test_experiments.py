"""Overlays: read, flattened, quoted so that Hydra reads what was meant, and compared."""

import re
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from hypothesis import given
from hypothesis import strategies as st

from wellcheck import experiments, params
from wellcheck.errors import InputError
from wellcheck.experiments import Experiment, differences, flatten, overrides

ROOT = Path(__file__).parents[1]
COMMITTED = experiments.names(ROOT / "experiments")
MINIMAL = "title: T\nabout: A\nparams: {train: {epochs: 3}}\n"


def write(folder: Path, text: str, name: str = "mine") -> None:
    (folder / f"{name}.yaml").write_text(text, encoding="utf-8")


def unquoted(value: Any) -> Any:
    if isinstance(value, QuotedString):
        return value.text
    return [unquoted(item) for item in value] if isinstance(value, list) else value


def as_hydra_reads(line: str) -> tuple[str, Any]:
    (override,) = OverridesParser.create().parse_overrides([line])
    return override.key_or_group, unquoted(override._value)


# the committed ones


@pytest.mark.parametrize("name", COMMITTED)
def test_a_committed_experiment_is_a_valid_overlay(name: str) -> None:
    experiment = experiments.read(name, ROOT / "experiments")
    values = params.read_yaml(ROOT / "params.yaml")
    known = flatten(values)
    for key, value in flatten(experiment.params).items():
        assert key in known, f"{key} is no parameter"
        section, _, inner = key.partition(".")
        if inner:
            values[section][inner] = value
        else:
            values[section] = value
    whole = params.validate(values, name)
    assert differences(experiment, whole.model_dump()) == {}
    assert whole.report.experiment == name


@pytest.mark.parametrize("name", COMMITTED)
def test_hydra_reads_a_committed_experiment_as_it_stands(name: str) -> None:
    experiment = experiments.read(name, ROOT / "experiments")
    read = dict(as_hydra_reads(line) for line in overrides(experiment.params))
    assert read == flatten(experiment.params)


@pytest.mark.parametrize("name", COMMITTED)
def test_an_articles_figures_can_be_ours(name: str) -> None:
    article = experiments.read(name, ROOT / "experiments").article
    if article is None:
        return
    for figure in article.figures:
        assert re.fullmatch(r"[a-z0-9_@]+(\.[a-z0-9_@]+)+", figure.ours)
    assert len({figure.ours for figure in article.figures}) == len(article.figures)
    for shares in article.per_class.values():
        assert all(0 <= share <= 1 for share in shares)


# reading


def test_an_experiment_without_an_article(tmp_path: Path) -> None:
    write(tmp_path, MINIMAL)
    assert experiments.read("mine", tmp_path) == Experiment(title="T", about="A", params={"train": {"epochs": 3}})


def test_there_is_no_such_experiment(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no experiment 'yours' in .*; there are: none"):
        experiments.read("yours", tmp_path / "absent")
    for name in ("b", "a"):
        write(tmp_path, MINIMAL, name)
    (tmp_path / "README.md").write_text("x")
    with pytest.raises(InputError, match=r"no experiment 'yours' in .*; there are: a, b$"):
        experiments.read("yours", tmp_path)
    assert experiments.names(tmp_path) == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("title: [", "not valid YAML"),
        ("", "valid dictionary"),
        ("title: T\nabout: A\n", "params: Field required"),
        (MINIMAL + "autor: me\n", "autor: Extra inputs are not permitted"),
        (MINIMAL.replace("T", "3", 1).replace("title: 3", "title: 3"), "title: Input should be a valid string"),
        (
            MINIMAL + "article: {note: n, figures: [{name: a, ours: b, value: about half}]}",
            "article.figures.0.value: Input should be a valid number",
        ),
        (MINIMAL + "article: {note: n, figures: [], per_class: {recall: [0.5, x]}}", "article.per_class.recall.1: "),
    ],
)
def test_a_wrong_file_is_named(text: str, told: str, tmp_path: Path) -> None:
    write(tmp_path, text)
    with pytest.raises(InputError) as caught:
        experiments.read("mine", tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'mine.yaml'}: ") and told in str(caught.value)
    assert "\n" not in str(caught.value)


# flattening and quoting


def test_flatten_by_hand() -> None:
    nested = {"a": {"b": {"c": 1}, "d": None}, "e": [{"f": 2}], "g": "x"}
    assert flatten(nested) == {"a.b.c": 1, "a.d": None, "e": [{"f": 2}], "g": "x"}
    assert flatten({}) == {}


def test_overrides_by_hand() -> None:
    values = {
        "train": {"epochs": 3, "learning_rate": 1e-3},
        "dataset": {"size": None},
        "split": {"stratify": False},
        "report": {"title": "It's"},
    }
    wanted = ["train.epochs=3", "train.learning_rate=0.001", "dataset.size=null", "split.stratify=false", r"report.title='It\'s'"]
    assert overrides(values) == wanted


PLAIN = [
    "",
    "a",
    "it's",
    'a"b',
    "a,b",
    "{a: 1}",
    "[x]",
    "null",
    "3",
    "true",
    " a ",
    "a=b",
    "~",
    "a#b",
    "%",
    "é",
    "a: b",
    "(x)",
    "$x",
    "+a",
    "''",
]
VALUES = [
    *PLAIN,
    None,
    True,
    False,
    0,
    -3,
    10**12,
    0.5,
    -0.25,
    1e-7,
    1e300,
    [],
    [1, 2],
    ["a", "b c"],
    ["it's", 'q"q', "a,b", "]"],
    [None, True, 0.5],
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_hydra_reads_what_was_meant(value: Any) -> None:
    key, found = as_hydra_reads(overrides({"report": {"title": value}})[0])
    assert key == "report.title"
    assert found == value and type(found) is type(value)


@given(text=st.text(st.characters(exclude_characters="\\", exclude_categories=["Cs", "Cc"]), max_size=12))
def test_hydra_reads_any_text(text: str) -> None:
    assert as_hydra_reads(overrides({"a": text})[0]) == ("a", text)


@given(number=st.floats(allow_nan=False, allow_infinity=False) | st.integers())
def test_hydra_reads_any_number(number: float) -> None:
    found = as_hydra_reads(overrides({"a": number})[0])[1]
    assert found == number and type(found) is type(number)


@pytest.mark.parametrize("value", ["ends in \\", "a\\'b", "\\'", "two\\\\"], ids=repr)
def test_hydra_reads_backslashes_before_a_quote(value: str) -> None:
    assert as_hydra_reads(overrides({"a": value})[0])[1] == value


@pytest.mark.parametrize("value", ["C:\\data", "a\\\\b", ["C:\\data"], ["é"]], ids=repr)
def test_hydra_reads_other_backslashes(value: Any) -> None:
    assert as_hydra_reads(overrides({"a": value})[0])[1] == value


# differences


def test_differences_by_hand() -> None:
    experiment = Experiment(title="T", about="A", params={"train": {"epochs": 3, "seed": 0}, "dataset": {"size": None}, "device": "cpu"})
    used = {"train": {"epochs": 4, "seed": 0, "model": "x"}, "dataset": {"size": 28}, "device": "cpu"}
    assert differences(experiment, used) == {"train.epochs": (3, 4), "dataset.size": (None, 28)}
    assert differences(experiment, {}) == {"train.epochs": (3, None), "train.seed": (0, None), "device": ("cpu", None)}


def test_what_an_experiment_does_not_set_makes_no_difference() -> None:
    experiment = Experiment(title="T", about="A", params={"train": {"epochs": 3}})
    assert differences(experiment, {"train": {"epochs": 3, "seed": 9}, "poison": {"rate": 0.5}}) == {}


@pytest.mark.parametrize("name", experiments.names(ROOT / "experiments"))
def test_an_experiment_sets_everything_that_changes_a_result(name: str) -> None:
    """Otherwise what was left in params.yaml would be published under the article's name."""
    every = set(experiments.flatten(params.load_all(ROOT / "params.yaml").model_dump()))
    free = {"device", "dataset.path", *(key for key in every if key.startswith("report."))}
    given = set(experiments.flatten(experiments.read(name, ROOT / "experiments").params))
    assert given - {"report.title", "report.experiment"} == every - free


@pytest.mark.parametrize("name", ["../params", "", "nope", "/etc/passwd"])
def test_only_a_listed_experiment_is_read(name: str) -> None:
    with pytest.raises(InputError, match="no experiment"):
        experiments.read(name, ROOT / "experiments")
