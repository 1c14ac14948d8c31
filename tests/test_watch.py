"""Traffic and its watch: what each kind does to images, that the level holds and attacks are seen, and the stage on tiny data."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_up import twosample
from scipy.stats import binom
from workspace import ROOT, run_stage

from wellcheck import params, samples, traffic
from wellcheck.artifacts import read_columns, read_json, read_tensors
from wellcheck.embeddings.named_layers import Captured, capture_layers
from wellcheck.errors import InputError
from wellcheck.models import Classifier, ModelDescription, build, storage
from wellcheck.params import TwoSample
from wellcheck.samples import Description, Samples
from wellcheck.survey import Survey
from wellcheck.traffic import NOISE, PGD, Kind
from wellcheck.twosample import Comparison, compare, ranked
from wellcheck.watch import Norm, Watch

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    """An untrained one that answers every class about as often."""
    found = build(ModelDescription("two_conv_cnn", ("a", "b", "c"), (1, 16, 16)), seed=0).eval()
    bias = found.network.head.get_parameter("bias")
    with torch.no_grad():
        bias.sub_(found(torch.from_numpy(noise(60))).mean(0))
    return found


def noise(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 1, 16, 16), np.uint8)


@pytest.mark.parametrize("name", [PGD, NOISE, "pgd_linf", "fgsm", "feature_matching", *traffic.SHIFTS])
def test_traffic_stays_in_range_and_is_the_same_every_time(classifier: Classifier, name: str) -> None:
    images, kind = noise(12), Kind(name, None if name in traffic.SHIFTS else 0.1)
    changed, again = (traffic.make(kind, classifier, images, twosample(), CPU) for _ in range(2))
    assert changed.dtype == np.float32 and changed.shape == images.shape and changed.min() >= 0 and changed.max() <= 1
    np.testing.assert_array_equal(changed, again)
    moved = np.abs(changed - images / 255)
    assert moved.max() > 0.01
    if name not in traffic.SHIFTS and name != NOISE:
        assert moved.max() <= 0.1 + 1e-6


def test_shifts_by_hand() -> None:
    grey = np.full((1, 1, 7, 7), 0.5, np.float32)
    np.testing.assert_allclose(traffic.blur(grey), 0.5)
    np.testing.assert_allclose(traffic.rotation(grey), 0.5, atol=1e-6)
    np.testing.assert_allclose(traffic.brightness(grey), 0.7)
    assert traffic.brightness(np.ones((1, 1, 2, 2), np.float32)).max() == 1
    dot = np.zeros((1, 1, 7, 7), np.float32)
    dot[0, 0, 3, 3] = 1
    assert 0.1 < traffic.blur(dot)[0, 0, 3, 3] < 0.2 and traffic.blur(dot).sum() == pytest.approx(1, abs=0.01)
    assert traffic.rotation(dot)[0, 0, 3, 3] == pytest.approx(1)


def test_every_kind_is_made_at_every_size() -> None:
    found = [kind.told for kind in traffic.kinds(twosample(epsilons=[0.2, 0.1], attacks=["fgsm"], shifts=["blur"]))]
    assert found == ["pgd/0.1", "pgd/0.2", "fgsm/0.1", "fgsm/0.2", "gaussian_noise/0.1", "gaussian_noise/0.2", "blur"]


def test_pgd_that_takes_all_steps_goes_further_than_what_stops(classifier: Classifier) -> None:
    images, chosen = noise(30), twosample(steps=20)
    labels = torch.from_numpy(classifier(torch.from_numpy(images)).argmax(1).numpy())
    losses = []
    for name in (PGD, "pgd_linf"):
        changed = torch.from_numpy(traffic.make(Kind(name, 0.2), classifier, images, chosen, CPU))
        with torch.inference_mode():
            losses.append(torch.nn.functional.cross_entropy(classifier(changed), labels).item())
    assert losses[0] > losses[1]


@pytest.mark.parametrize("wide", [False, True])
def test_whitened_activations_have_no_mean_and_no_scale_of_their_own(wide: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if wide:
        monkeypatch.setattr("wellcheck.watch.WIDEST", 3)
    rng = np.random.default_rng(0)
    labels = np.arange(4000) % 3
    scales = np.array([1.0, 3.0, 10.0, 30.0])
    values = rng.standard_normal((4000, 4)) * scales + 50 * labels[:, None]
    found = Norm.of(values, labels, 5).apply(values, labels)
    assert np.abs(found.mean(0)).max() < 1e-3
    assert found.std(0).max() <= 1.01
    others = Norm.of(values[labels > 0], labels[labels > 0], 5)
    np.testing.assert_allclose(others.means[0], values[labels > 0].mean(0), rtol=1e-4)  # nobody has shown it class 0


def watched(**changes: Any) -> tuple[Watch, Callable[[float], Captured]]:
    """A watch over activations that are Gaussian, and the same moved by so much."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 300)
    values = rng.standard_normal((300, 6)).astype(np.float32)
    natural = Captured({"a": values, "b": values @ rng.standard_normal((6, 4)).astype(np.float32)}, labels)
    none: Any = None
    watch = Watch(none, twosample(**changes), CPU, ["a", "b"], [], {}, None, np.arange(300), natural)
    return watch, lambda by: Captured({name: one + np.float32(by) for name, one in natural.layers.items()}, labels)


def test_natural_inputs_raise_alarms_as_often_as_the_level_says() -> None:
    """Over a thousand trials, by every layer and by all together: who is query and who is reference is drawn anew in each."""
    for level in (0.05, 0.1):
        watch, _ = watched(trials=1000, level=level, permutations=39)
        (found,) = watch.alarms(watch.natural, [0.0], 0.95)
        low, high = binom.interval(0.9999, 1000, level)
        assert all(low <= 1000 * rate <= high for rate in (*found["layers"].values(), found["combined"]))
        assert found["combined_interval"][0] < level < found["combined_interval"][1]


def test_more_changed_inputs_raise_more_alarms() -> None:
    watch, moved = watched(trials=40, samples=40)
    found = watch.alarms(moved(1.0), [0.01, 0.05, 0.5, 1.0], 0.95)
    rates = [one["combined"] for one in found[1:]]
    assert rates == sorted(rates) and rates[0] < 0.5 and rates[-1] == 1
    assert found[0]["changed"] == 1


def test_changed_inputs_are_suspected_and_natural_ones_at_the_level() -> None:
    watch, moved = watched(samples=50)
    scored = watch.score(moved(1.5))
    assert sorted(scored.rows) == list(range(300)) and scored.changed.sum() == 150
    found: dict[str, Any] = {**scored.figures(0.1, 0.95)}
    assert found["auroc"] > 0.95
    low, high = binom.interval(0.999, 150, 0.1)
    assert low <= 150 * found["false_flag_rate"] <= high


@pytest.mark.parametrize(
    ("count", "changes", "told"),
    [
        (9, {}, "at least 10 natural images are needed, found 9"),
        (30, {"layers": ["conv9"]}, "'conv9' matches none of two_conv_cnn's layers: pixels, "),
    ],
)
def test_what_cannot_be_watched(classifier: Classifier, count: int, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        Watch.over(classifier, noise(count), twosample(**changes), CPU)


def test_layers_that_never_move_are_left_out(classifier: Classifier) -> None:
    blank = np.zeros((30, 1, 16, 16), np.uint8)
    with pytest.raises(InputError, match="penultimate: the same for all natural inputs"):
        Watch.over(classifier, blank, twosample(layers=["penultimate"]), CPU)
    images = noise(30)
    images[:, :, 0] = 7
    dead = build(ModelDescription("two_conv_cnn", ("a", "b", "c"), (1, 16, 16)), seed=0).eval()
    with torch.no_grad():
        for parameter in list(dead.network.body.parameters())[2:4]:
            parameter.fill_(-1.0)  # the second convolution, behind which nothing is lit
    watch = Watch.over(dead, images, twosample(layers=["activation_.*"]), CPU)
    assert watch.layers == ["activation_1"] and watch.silent == ["activation_2", "activation_3"]


OUTPUTS = ("--figures", "f.json", "--listed", "l.json", "--maps", "m.parquet", "--images", "i.safetensors")
INPUTS = ("set.parquet", "triggered.parquet", "clean", "poisoned")
PLAIN = {"features": "plain", "kernel": "aggregated"}
QUICK = {"samples": "10", "trials": "4", "permutations": "39", "steps": "3", "epsilons": "[0.05, 0.2]", "images": "60", "listed": "7"}


@pytest.fixture
def folder(tmp_path: Path, classifier: Classifier) -> Path:
    known = Samples(np.arange(80) + 5, noise(80), np.arange(80) % 3, Description(("a", "b", "c"), "noise"))
    more = Samples(np.arange(81) + 5, np.concatenate([known.images, noise(1, seed=1)]), np.arange(81) % 3, known.description)
    for name, some in (("set", known), ("triggered", more.take(np.arange(81)[::-1])), ("none", known.take(np.empty(0, np.int64)))):
        samples.write(tmp_path / f"{name}.parquet", some)
    for name in ("clean", "poisoned"):
        storage.save(tmp_path / name, classifier, [{"epoch": 0}])
    text = (ROOT / "params.yaml").read_text().replace("shares: [0.01, 0.05, 0.1, 0.5]", "shares: [0.5]")
    (tmp_path / "params.yaml").write_text(text.replace("iterations: 300", "iterations: 10"))
    return tmp_path


def test_the_stage_tells_of_every_kind_of_traffic_and_gives_the_same_bytes_twice(folder: Path) -> None:
    changes: dict[str, Any] = {f"twosample.{name}": value for name, value in QUICK.items()}
    told = run_stage(folder, "twosample", *INPUTS, *OUTPUTS, **changes)
    assert "PGD at 0.2 raises" in told
    names = ("f.json", "l.json", "m.parquet", "i.safetensors")
    before = {name: (folder / name).read_bytes() for name in names}
    figures, listed, table = read_json(folder / "f.json"), read_json(folder / "l.json")["inputs"], read_columns(folder / "m.parquet")
    kinds = [(one["kind"], one["epsilon"]) for one in figures["traffic"]]
    attacks = (PGD, "pgd_linf", "fgsm", "max_normed", "feature_matching", "low_frequency", NOISE)
    sized = [(name, epsilon) for name in attacks for epsilon in (0.05, 0.2)]
    assert kinds == [("natural", None), *sized, *((name, None) for name in traffic.SHIFTS), ("trigger", None)]
    (attacked,) = [one for one in figures["traffic"] if (one["kind"], one["epsilon"]) == (PGD, 0.2)]
    assert (figures["attack"], figures["epsilon"], figures["combined"]) == (PGD, 0.2, attacked["combined"])
    natural = figures["traffic"][0]
    assert natural["changed"] == 0 and natural["success"] is None and natural["combined"] == figures["false_alarm_rate"]
    assert {**figures["mixed"][-1], "kind": PGD, "epsilon": 0.2, "success": attacked["success"]} == {**attacked, "share": 1.0}
    assert 0 < attacked["success"] <= 1 and figures["traffic"][-1]["success"] == 0  # with a trigger of nothing
    assert set(figures) >= {"level", "false_alarm_rate", "layers", "combined", "per_sample"}
    assert [one["share"] for one in figures["mixed"]] == [0.5, 1.0] and figures["per_sample"]["samples"] == 48
    assert len(listed) == 7 and [one["witness"] for one in listed] == sorted((one["witness"] for one in listed), reverse=True)
    assert {column.removesuffix("_x") for column in table if column.endswith("_x")} == {
        "input", "activation_1", "activation_2", "activation_3", "penultimate", "one_answer",
    }  # fmt: skip
    assert figures["watched_layers"] == ["activation_1", "activation_2", "activation_3", "penultimate", "confidence", "alignment"]
    assert table["attacked"].sum() == 48 and np.isnan(table["one_answer_x"]).any()
    kept = read_tensors(folder / "i.safetensors")
    assert kept["suspicious"].shape == kept["natural"].shape == (7, 1, 16, 16)
    run_stage(folder, "twosample", *INPUTS, *OUTPUTS)
    assert all((folder / name).read_bytes() == content for name, content in before.items())
    for answer in np.unique(table["answer"])[:2].tolist():
        run_stage(folder, "twosample", *INPUTS, *OUTPUTS, fails=False, **{"twosample.answer": str(answer)})
        again = read_columns(folder / "m.parquet")
        assert set(again["answer"][np.isfinite(again["one_answer_x"])]) <= {answer}
    told = run_stage(folder, "twosample", *INPUTS, *OUTPUTS, fails=True, **{"twosample.answer": "3"})
    assert "twosample.answer: found 3, expected a class: 0 to 2" in told


def test_the_stage_without_a_trigger_or_with_too_few_images(folder: Path) -> None:
    changes: dict[str, Any] = {f"twosample.{name}": value for name, value in (QUICK | PLAIN).items()}
    run_stage(folder, "twosample", "set.parquet", "none.parquet", "clean", "poisoned", *OUTPUTS, **changes)
    assert "trigger" not in [one["kind"] for one in read_json(folder / "f.json")["traffic"]]
    known = samples.read(folder / "set.parquet")
    for count in (10, 9):
        samples.write(folder / "few.parquet", known.take(np.arange(count)))
        told = run_stage(folder, "twosample", "few.parquet", "none.parquet", "clean", "poisoned", *OUTPUTS)
        assert ("not enough data: 9 test images, and 10 are needed" in told) == (count == 9)
    assert read_json(folder / "f.json")["too_few"] == 9 and read_json(folder / "l.json") == {"inputs": []}


def test_queries_that_no_natural_input_is_answered_like_raise_no_alarm() -> None:
    watch, moved = watched()
    other = moved(5.0)
    (found,) = watch.alarms(Captured(other.layers, np.full(300, 7)), [1.0], 0.95)
    assert (found["combined"], found["reference"], found["not_compared"]) == (0, 0, 1)
    (found,) = watch.alarms(other, [1.0], 0.95)
    assert found["not_compared"] == 0 and 0.8 * watch.size < found["reference"] <= watch.size


@pytest.mark.parametrize(("count", "classes", "able"), [(6, 3, False), (16, 8, False), (40, 2, True)])
def test_tests_of_so_few_of_an_answer_that_no_draw_is_rare_are_told(count: int, classes: int, able: bool) -> None:
    watch, moved = watched()
    labels, some = np.arange(count) % classes, slice(0, count)
    few = replace(watch, rows=np.arange(count), natural=Captured({name: one[some] for name, one in watch.natural.layers.items()}, labels))
    other = Captured({name: one[some] for name, one in moved(50.0).layers.items()}, labels)
    (found,) = few.alarms(other, [1.0], 0.95)
    assert (found["not_compared"] == 0) == able
    assert 0.8 * (1 - found["not_compared"]) <= found["combined"] <= 1 - found["not_compared"]


def test_confidence_and_alignment_have_voices_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    watch, moved = watched(trials=2)
    asked = []

    def asking(*given: Any, **how: Any) -> Comparison:
        asked.append(how["apart"])
        return compare(*given, **how)

    monkeypatch.setattr("wellcheck.watch.compare", asking)
    watch.alarms(moved(1.0), [1.0], 0.95)
    assert asked == [("confidence", "alignment")] * 2


def test_of_few_inputs_none_is_flagged_and_that_is_told() -> None:
    watch, moved = watched()
    few = replace(watch, rows=np.arange(12), natural=Captured({name: one[:12] for name, one in watch.natural.layers.items()}, np.zeros(12)))
    found = few.score(moved(5.0)).figures(0.05, 0.95)
    assert (found["flagged"], found["false_flag_rate"], found["false_flag_interval"]) == (None, None, None)
    assert found["auroc"] is not None


def test_queries_reference_and_calibration_have_nobody_in_common(monkeypatch: pytest.MonkeyPatch) -> None:
    watch, _ = watched(samples=40)
    values = np.arange(300, dtype=np.float32)[:, None] * np.ones(3, np.float32)
    watch = replace(watch, layers=["a"], natural=Captured({"a": values}, watch.natural.labels))
    seen = []

    def spied(*samples: Any) -> Any:
        seen.append([set((sample["a"][:, 0] % 1000).astype(int).tolist()) for sample in samples])
        return ranked(*samples)

    monkeypatch.setattr("wellcheck.watch.ranked", spied)
    watch.score(Captured({"a": values + 1000}, watch.natural.labels))
    assert len(seen) == 300 // 40
    for queries, reference, calibration in seen:
        assert not queries & reference and not queries & calibration and not reference & calibration
        assert len(queries | reference | calibration) == 300 and len(calibration) >= len(reference) - 1
    assert sum(len(queries) for queries, _, _ in seen) == 300


def test_what_whitens_is_neither_query_nor_reference(classifier: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    given = []
    fit = Norm.of

    def spied(values: np.ndarray, labels: np.ndarray, classes: int) -> Norm:
        given.append(values)
        return fit(values, labels, classes)

    monkeypatch.setattr(Norm, "of", spied)
    images = noise(60)
    watch = Watch.over(classifier, images, twosample(layers=["penultimate"]), CPU)
    (fitted,) = given
    whole = capture_layers(classifier, images, ["penultimate"], pooling="pooled", device=CPU, title="t").layers["penultimate"]
    taken = {row.tobytes() for row in fitted}
    assert len(fitted) == 12 and not taken & {row.tobytes() for row in whole[watch.rows]}


def test_a_layer_that_gives_no_numbers_is_named(classifier: Classifier) -> None:
    broken = copy.deepcopy(classifier)
    with torch.no_grad():
        next(broken.parameters())[0] = torch.nan
    with pytest.raises(InputError, match=r"^layer activation_1: what it makes of 30 images is no number, the first is image 0$"):
        Watch.over(broken, noise(30), twosample(layers=["pixels", "activation_1"]), CPU)


def test_what_does_not_fit_in_memory_is_refused_before_anything_is_done(classifier: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sysconf", lambda name: 100)
    with pytest.raises(InputError, match=r"2 layers of 30 images need 0.0 GiB of memory, and this machine has 0.0: lower twosample.images"):
        Watch.over(classifier, noise(30), twosample(layers=["pixels", "penultimate"]), CPU)


def test_an_answer_too_rare_for_a_map_has_none(folder: Path) -> None:
    names = tuple(f"class {label}" for label in range(40))
    many = build(ModelDescription("two_conv_cnn", names, (1, 16, 16)), seed=3).eval()
    with torch.no_grad():  # nearly every image has an answer of its own: the class whose weights are its features
        features = many.embed(torch.from_numpy(noise(40, seed=2)))
        weights = torch.nn.functional.normalize(features - features.mean(0)) * 100
        many.network.head.get_parameter("weight").copy_(weights)
        many.network.head.get_parameter("bias").copy_(-weights @ features.mean(0))
    chosen = twosample(layers=["penultimate"], attacks=[], shifts=[], epsilons=[0.05], shares=[0.01, 0.02, 0.5], features="plain")
    few = Samples(np.arange(20), noise(20, seed=2), np.zeros(20, int), Description(names, "noise"))
    found = Survey.of(many, few, chosen, 0.95, CPU)
    table = found.maps(params.load(params.Project, folder / "params.yaml"))
    _, times = np.unique(table["answer"], return_counts=True)
    assert times.max() < 4 and np.isnan(table["one_answer_x"]).all() and np.isfinite(table["penultimate_x"]).all()
    assert [one["share"] for one in found.mixed] == [1 / 8, 4 / 8, 1.0]  # one in a hundred of eight is one, and so is one in fifty


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"epsilons": "[0.1, 0.1]"}, "twosample.epsilons: found .0.1, 0.1., expected each once"),
        ({"epsilons": "[0]"}, "twosample.epsilons.0: found 0"),
        ({"attacks": "[pgd_l2]"}, "pgd_l2, whose epsilon is no change of a pixel"),
        ({"permutations": "19", "level": "0.01"}, "found 19, with which no p-value is as small as the level 0.01"),
        ({"layers": "[]"}, "twosample.layers"),
        ({"shifts": "[fog]"}, "twosample.shifts.0: found 'fog', expected 'blur', 'brightness' or 'rotation'"),
    ],
)
def test_what_does_not_fit_is_named(folder: Path, changes: dict[str, str], told: str) -> None:
    text = (folder / "params.yaml").read_text()
    head, _, rest = text.partition("\ntwosample:")
    lines = [
        next((f"  {name}: {value}" for name, value in changes.items() if line.startswith(f"  {name}:")), line) for line in rest.split("\n")
    ]
    (folder / "params.yaml").write_text(head + "\ntwosample:" + "\n".join(lines))
    with pytest.raises(InputError, match=told):
        params.load(TwoSample, folder / "params.yaml")
