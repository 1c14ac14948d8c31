"""params.yaml: what is right passes, and every mistake is one sentence that names the parameter."""

import copy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from wellcheck import params
from wellcheck.datasets import SOURCES
from wellcheck.detectors import DETECTORS
from wellcheck.errors import InputError
from wellcheck.models import ARCHITECTURES
from wellcheck.poisons import TRIGGERS
from wellcheck.poisons.policies import POLICIES

COMMITTED = Path(__file__).parents[1] / "params.yaml"
RAW = params.read_yaml(COMMITTED)


def leaves(values: dict[str, Any], prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value, (*prefix, key))
        else:
            yield (*prefix, key)


LEAVES = [".".join(path) for path in leaves(RAW)]


def changed(key: str, value: Any) -> dict[str, Any]:
    """The committed values with one of them replaced."""
    values: dict[str, Any] = copy.deepcopy(RAW)
    *sections, last = key.split(".")
    inner = values
    for section in sections:
        inner = inner[section]
    inner[last] = value
    return values


def complaint(values: Any) -> str:
    with pytest.raises(InputError) as caught:
        params.validate(values, "p.yaml")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_committed_file_is_valid() -> None:
    whole = params.load_all(COMMITTED)
    assert whole == params.load(params.Params, COMMITTED)
    assert whole.train.learning_rate == RAW["train"]["learning_rate"]


@pytest.mark.parametrize("name", list(params.Params.model_fields))
def test_a_stage_gets_its_own_section(name: str) -> None:
    kind: Any = params.Params.model_fields[name].annotation
    assert params.load(kind, COMMITTED) == getattr(params.load_all(COMMITTED), name)


@pytest.mark.parametrize(
    ("names", "registry"),
    [
        (params.DatasetName, set(SOURCES)),
        (params.TriggerName, {"none", *TRIGGERS}),
        (params.OwnModelName, set(ARCHITECTURES)),
        (params.DetectorName, set(DETECTORS)),
        (params.PolicyName, set(POLICIES)),
    ],
)
def test_the_names_are_those_of_the_registry(names: Any, registry: set[str]) -> None:
    assert set(get_args(names)) == registry
    assert len(get_args(names)) == len(registry)


MISTAKES: list[tuple[str, Any, str]] = [
    ("device", "gpu", "'auto', 'cpu' or 'cuda'"),
    ("device", None, "'auto', 'cpu' or 'cuda'"),
    ("dataset.size", 3, "greater than or equal to 4"),
    ("dataset.size", "28", "a valid integer"),
    ("dataset.channels", 2, "1 or 3"),
    ("dataset.name", "imagenet", "'digits', "),
    ("split.seed", -1, "greater than or equal to 0"),
    ("split.stratify", "yes", "a valid boolean"),  # YAML 1.2: a string
    ("split.stratify", 1, "a valid boolean"),
    ("split.valid", -0.1, "greater than 0"),
    ("split.valid", -1, "greater than or equal to 0"),
    ("split.valid", 1.5, "less than 1"),
    ("split.valid", "some", "a valid number"),
    ("split.valid", True, "a valid integer"),
    ("split.test", "own", "'auto'"),
    ("split.test", 0, "greater than or equal to 1"),
    ("split.test", 1.0, "less than 1"),
    ("split.limit", 9, "greater than or equal to 10"),
    ("poison.trigger", "stamp", "'none', 'watermark'"),
    ("poison.rate", 1.01, "less than or equal to 1"),
    ("poison.rate", float("nan"), "a finite number"),
    ("poison.rate", "1e-3", "a valid number"),
    ("poison.target_label", 3.0, "a valid integer"),
    ("poison.target_label", -1, "greater than or equal to 0"),
    ("poison.seed", 2**32, "less than 4294967296"),
    ("poison.policy", "dirty", "'all_to_one', 'others_to_one'"),
    ("poison.source_label", -1, "greater than or equal to 0"),
    ("poison.cover_rate", 1.5, "less than or equal to 1"),
    ("poison.strength", 0, "greater than 0"),
    ("poison.strength", 101, "less than or equal to 100"),
    ("poison.epsilon", 0, "greater than 0"),
    ("poison.epsilon", 1.01, "less than or equal to 1"),
    ("poison.picture", None, "a valid string"),
    ("poison.picture", "", "at least 1 character"),
    ("poison.position", [1], "at least 2 items"),
    ("poison.position", [1, 2, 3], "at most 2 items"),
    ("poison.position", -1, "a valid list"),
    ("train.model", "resnet", "'residual_cnn', "),
    ("train.model", "resnet", "or a classifier of torchvision's, such as 'torchvision/resnet50'"),
    ("train.model", "torchvision/", "'residual_cnn', "),
    ("train.model", "torchvision/../x", "'residual_cnn', "),
    ("train.model", "torchvision/resnet50\n", "'residual_cnn', "),
    ("train.model", 18, "a valid string"),
    ("train.model", None, "a valid string"),
    ("train.epochs", 0, "greater than or equal to 1"),
    ("train.epochs", True, "a valid integer"),
    ("train.batch_size", 0, "greater than or equal to 1"),
    ("train.learning_rate", 0, "greater than 0"),
    ("train.learning_rate", float("nan"), "a finite number"),
    ("train.precision", "float16", "'auto', 'float32'"),
    ("evaluate.confidence", 1, "less than 1"),
    ("evaluate.confidence", 0, "greater than 0"),
    ("embed.layers", "pixels", "a valid list"),
    ("embed.layers", [], "at least 1 item"),
    ("project.samples", 9, "greater than or equal to 10"),
    ("project.perplexity", 1, "greater than 1"),
    ("detect.detectors", [], "at least 1 item"),
    ("detect.trusted", "test", "'valid'"),
    ("detect.trusted", True, "'valid'"),
    ("detect.seed", -1, "greater than or equal to 0"),
    ("cleanse.action", "delete", "'remove' or 'relabel'"),
    ("cleanse.seed", 2**32, "less than 4294967296"),
    ("train.augment", "yes", "a valid boolean"),
    ("train.augment", 1, "a valid boolean"),
    ("train.schedule", "cosine", "'constant' or 'one_cycle'"),
    ("train.snapshots", -1, "greater than or equal to 0"),
    ("train.snapshots", True, "a valid integer"),
    ("label_errors.folds", 1, "greater than or equal to 2"),
    ("label_errors.epochs", 0, "greater than or equal to 1"),
    ("label_errors.samples", 9, "greater than or equal to 10"),
    ("explain.images", 0, "greater than or equal to 1"),
    ("explain.images", 51, "less than or equal to 50"),
    ("explain.pairs", -1, "greater than or equal to 0"),
    ("explain.measured", 1, "greater than or equal to 2"),
    ("explain.patch", 0, "greater than or equal to 1"),
    ("explain.stride", "2", "a valid integer"),
    ("explain.steps", 0, "greater than or equal to 1"),
    ("explain.border", 0, "greater than or equal to 1"),
    ("explain.film", 501, "less than or equal to 500"),
    ("explain.grey", "yes", "a valid boolean"),
    ("train.early_epochs", -1, "greater than or equal to 0"),
    ("train.early_epochs", None, "a valid integer"),
    ("report.title", 3, "a valid string"),
    ("report.images_per_grid", 101, "less than or equal to 100"),
    ("train", 3, "a valid dictionary"),
    ("train", None, "a valid dictionary"),
]


@pytest.mark.parametrize(("key", "value", "expected"), MISTAKES)
def test_a_mistake_is_named_with_what_was_found_and_expected(key: str, value: Any, expected: str) -> None:
    told = complaint(changed(key, value))
    assert told.startswith(f"p.yaml: {key}: found {value!r}, expected ")
    assert expected in told
    # Nothing but this parameter is spoken of, though a union complains once a branch.
    assert all(one.startswith(f"p.yaml: {key}: ") for one in told.split("; "))


@pytest.mark.parametrize("name", [*get_args(params.OwnModelName), "torchvision/resnet50", "torchvision/not_looked_up_here"])
def test_a_model_is_ours_or_torchvisions(name: str) -> None:
    assert params.validate(changed("train.model", name), "p.yaml").train.model == name


def test_params_are_read_without_torch() -> None:
    # It takes seconds to import, and DVC starts a process for every stage.
    code = "import sys; from wellcheck import params; params.load_all(params.Path(sys.argv[1])); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code, str(COMMITTED)], capture_output=True, text=True, check=True)
    assert "'pydantic'" in done.stdout and "'torch'" not in done.stdout and "'torchvision'" not in done.stdout


def test_a_wrong_item_of_a_list_is_named_with_its_place() -> None:
    told = complaint(changed("detect.detectors", ["centroid_tsne", "oracle"]))
    assert told.startswith("p.yaml: detect.detectors.1: found 'oracle', expected 'centroid_tsne'")


@pytest.mark.parametrize(
    ("section", "values", "told"),
    [
        ("embed", {"layers": ["pixels"]}, "detect.detectors has centroid_penultimate, which needs penultimate in embed.layers"),
        ("embed", {"layers": ["penultimate", "feature_map"]}, "detect.detectors has centroid_tsne, which needs pixels in embed.layers"),
        ("embed", {"layers": ["penultimate", "pixels"]}, "detect.detectors has mixture, which needs feature_map in embed.layers"),
        ("train", {"early_epochs": 0}, "detect.detectors has loss_ranking, which needs train.early_epochs of at least 1"),
        ("detect", {"detectors": ["strip", "scan", "agpd"]}, "detect.detectors has agpd, strip, which needs samples vouched for"),
    ],
)
def test_a_detector_without_what_it_needs_is_found_before_anything_runs(section: str, values: dict[str, Any], told: str) -> None:
    assert told in complaint({**RAW, section: {**RAW[section], **values}})


@pytest.mark.parametrize("lacking", ["pixels", "feature_map", "penultimate"])
def test_the_verdict_has_all_its_layers(lacking: str) -> None:
    layers = [layer for layer in ("pixels", "feature_map", "penultimate") if layer != lacking]
    detect = {"detectors": ["trigger_inversion"], "trusted": None, "seed": 0}
    told = complaint({**RAW, "detect": detect, "embed": {"layers": layers}})
    assert told == f"p.yaml: embed.layers lacks {lacking}, which the verdict needs"


def test_every_detector_may_run_where_somebody_vouches() -> None:
    detect = {"detectors": list(get_args(params.DetectorName)), "trusted": "valid", "seed": 1}
    assert params.validate({**RAW, "detect": detect}, "p.yaml").detect.trusted == "valid"


def poison_with(**values: Any) -> dict[str, Any]:
    """The committed values with these in the section poison."""
    return {**RAW, "poison": {**RAW["poison"], **values}}


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"policy": "source_specific"}, "needs a poison.source_label other than the target"),
        ({"policy": "source_specific", "source_label": 3}, "needs a poison.source_label other than the target"),
        ({"policy": "label_noise"}, "set poison.trigger to none (found watermark)"),
        ({"trigger": "blend", "strength": 1.5}, "poison.strength: found 1.5, expected at most 1 for blend"),
        ({"trigger": "picture", "strength": 2}, "poison.strength: found 2.0, expected at most 1 for picture"),
        ({"trigger": "sinusoid", "strength": 20}, "poison.strength: found 20.0, expected at most 1 for sinusoid"),
        ({"policy": "clean_label", "cover_rate": 0.1}, "poison.cover_rate: found 0.1, expected 0 for clean_label"),
        ({"policy": "label_consistent", "cover_rate": 0.1}, "expected 0 for label_consistent"),
        ({"policy": "label_noise", "trigger": "none", "cover_rate": 0.1}, "expected 0 for label_noise"),
    ],
)
def test_poison_settings_that_do_not_fit_together(values: dict[str, Any], told: str) -> None:
    complained = complaint(poison_with(**values))
    assert complained.startswith("p.yaml: poison.") and told in complained


@pytest.mark.parametrize(
    ("values", "plants"),
    [
        ({"policy": "source_specific", "source_label": 0, "cover_rate": 1}, True),
        ({"policy": "label_noise", "trigger": "none"}, True),
        ({"trigger": "none"}, False),
        ({"trigger": "none", "policy": "label_consistent"}, False),
        ({"trigger": "warp", "strength": 2, "policy": "all_to_all", "cover_rate": 0.2}, True),
        ({"trigger": "picture", "strength": 1, "position": [0, -3]}, True),
    ],
)
def test_poison_settings_that_do(values: dict[str, Any], plants: bool) -> None:
    assert params.validate(poison_with(**values), "p.yaml").poison.plants is plants


@pytest.mark.parametrize("key", LEAVES)
def test_every_parameter_is_checked(key: str) -> None:
    assert complaint(changed(key, {"a": [1]})).startswith(f"p.yaml: {key}: found {{'a': [1]}}, expected ")


@pytest.mark.parametrize("key", [*RAW, *(key for key in LEAVES if "." in key)])
def test_every_parameter_must_be_there_and_a_typo_is_recognised(key: str) -> None:
    values = copy.deepcopy(RAW)
    *sections, last = key.split(".")
    inner = values
    for section in sections:
        inner = inner[section]
    inner[last + "x"] = inner.pop(last)
    assert set(complaint(values).split("; ")) == {f"p.yaml: {key}: missing", f"p.yaml: {key}x: unknown parameter, did you mean '{last}'?"}


def test_an_unknown_key_like_no_other_gets_no_suggestion() -> None:
    assert complaint({**RAW, "qqqqqq": 1}) == "p.yaml: qqqqqq: unknown parameter"
    assert complaint(changed("train.qqqqqq", 1)) == "p.yaml: train.qqqqqq: unknown parameter"


def test_several_mistakes_are_told_at_once() -> None:
    values = changed("train.epochs", 0)
    values["poison"]["rate"] = 2
    told = complaint(values).split("; ")
    assert [one.split(": ")[1] for one in told] == ["poison.rate", "train.epochs"]


@pytest.mark.parametrize("whole", [None, 3, [1], "text"])
def test_a_file_that_is_no_mapping(whole: Any) -> None:
    assert complaint(whole).startswith(f"p.yaml: the file: found {whole!r}, expected a valid dictionary")


@pytest.mark.parametrize(
    ("written", "value"), [("1e-3", 0.001), ("1E-3", 0.001), ("1.0e-3", 0.001), ("5.e-1", 0.5), ("1", 1.0), ("0.001  # a note", 0.001)]
)
def test_numbers_are_read_as_yaml_1_2(written: str, value: float, tmp_path: Path) -> None:
    text = COMMITTED.read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if line.startswith("  learning_rate: "))
    path = tmp_path / "params.yaml"
    path.write_text(text.replace(line, f"  learning_rate: {written}"), encoding="utf-8")
    assert params.load(params.Train, path).learning_rate == value


@pytest.mark.parametrize(
    ("key", "value"), [("split.valid", 0), ("split.valid", 10_000), ("split.valid", 0.5), ("split.test", 1), ("poison.rate", 1)]
)
def test_shares_and_numbers_are_told_apart(key: str, value: float) -> None:
    section, name = key.split(".")
    kept = getattr(getattr(params.validate(changed(key, value), "p.yaml"), section), name)
    assert kept == value
    if key.startswith("split"):
        assert type(kept) is type(value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: [", "not valid YAML"),
        ("a:\n\t- b", "line 2"),
        ("a: \x00", "not valid YAML"),
        ("a: 1\na: 2", "duplicate key"),
        ("a: *b", "undefined alias"),
        ("a: !!python/object/apply:os.system [x]", "could not determine a constructor"),
    ],
)
def test_what_is_not_yaml_is_told_in_one_line(text: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        params.load(params.Train, path)
    assert str(caught.value).startswith(f"{path}: not valid YAML: ")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["a: 2001-99-99", "a: !!int x", "a: !!float x"])
def test_values_that_cannot_be_built_are_told_too(text: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"params\.yaml: not valid YAML"):
        params.read_yaml(path)


@pytest.mark.parametrize("key", ["train.learning_rate", "project.perplexity"])
def test_infinity_is_no_setting(key: str) -> None:
    complaint(changed(key, float("inf")))


def test_a_missing_file_says_where_to_stand(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"params\.yaml: not found; run this in the project's folder"):
        params.load(params.Train, tmp_path / "params.yaml")


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not valid YAML"):
        params.load_all(path)


def test_settings_cannot_be_changed_later() -> None:
    train = params.load(params.Train, COMMITTED)
    with pytest.raises(ValidationError, match="frozen"):
        train.epochs = 3


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(key=st.sampled_from([*RAW, *LEAVES]), value=json_values)
def test_whatever_stands_there_it_is_taken_or_told(key: str, value: Any) -> None:
    try:
        params.validate(changed(key, value), "p.yaml")
    except InputError as error:
        assert str(error).startswith(f"p.yaml: {key}")
