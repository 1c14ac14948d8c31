"""Attacks as a campaign: its table and rates by hand, and the stages that make them, on tiny data."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from workspace import run_stage as run

from wellcheck import robustness, samples
from wellcheck.artifacts import Columns, read_columns, read_json
from wellcheck.evasion.campaign import Campaign
from wellcheck.models import ModelDescription, build, storage
from wellcheck.params import Evasion
from wellcheck.robustness import SIGN_ALONE
from wellcheck.samples import Description, Samples

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")
OUTPUTS = ("--outcomes", "o.parquet", "--images", "i.safetensors", "--figures", "f.json")
SETTINGS = Evasion(
    attacks=["fgsm", "pgd_l2", "noise_linf"],
    goals=["untargeted", "least_likely"],
    epsilons=[0.2, 0.1],
    epsilons_l2=[2.0],
    steps=3,
    restarts=1,
    queries=1,
    samples=None,
    shown=2,
    seed=0,
)


def some(count: int = 12, classes: int = 3) -> Samples:
    images = np.random.default_rng(0).integers(0, 256, (count, 1, 16, 18), np.uint8)
    names = tuple("abcdefg"[:classes])
    return Samples(np.arange(count) * 2 + 5, images, np.arange(count) % classes, Description(names, "noise"))


def table(*rows: tuple[str, str, float, int, int, int]) -> Columns:
    """Outcomes of a trained model: attack, goal, epsilon, true label, label before, label after; success is any change."""
    attack, goal, epsilon, label, before, after = (np.array(column) for column in zip(*rows, strict=True))
    columns = {"attack": attack, "goal": goal, "epsilon": epsilon, "label": label, "label_before": before, "label_after": after}
    return columns | {"variant": np.full(len(rows), "trained"), "success": before != after}


def test_rates_by_hand() -> None:
    one = [("fgsm", "untargeted", 0.1, 0, 0, 1), ("fgsm", "untargeted", 0.1, 0, 1, 0), ("fgsm", "untargeted", 0.1, 1, 1, 1)]
    more = [("fgsm", "untargeted", 0.3, 0, 0, 1), ("fgsm", "untargeted", 0.3, 0, 1, 1), ("fgsm", "untargeted", 0.3, 1, 1, 0)]
    found = robustness.figures(table(*more, *one), 3, 0.95)["fgsm"]
    assert found["epsilon"] == [0.1, 0.3] and found["samples"] == 3
    assert found["success_rate"] == pytest.approx([2 / 3, 2 / 3]) and found["accuracy"] == pytest.approx(
        [1 / 3, 0]
    )  # turned right is not still right
    assert found["unchanged"] == pytest.approx({"0.1": 1 / 3, "0.3": 1 / 3})
    assert found["per_class_success"] == {"0.1": [1.0, 0.0, None], "0.3": [0.5, 1.0, None]}
    assert all(low < rate < high for rate, (low, high) in zip(found["success_rate"], found["success_rate_interval"], strict=True))


def test_how_surely_signs_are_read_by_hand() -> None:
    signs = table(*[(robustness.SIGN_ALONE, "untargeted", np.nan, 0, 0, 1)] * 4) | {"confidence_after": np.array([0.2, 0.9, 0.95, 0.99])}
    whole = {name: np.concatenate([values, signs[name]]) for name, values in table(("fgsm", "untargeted", 0.1, 0, 0, 1)).items()}
    whole["confidence_after"] = np.append(0.5, signs["confidence_after"])
    found = robustness.figures(whole, 3, 0.95)["fgsm"][robustness.SIGN_ALONE]["trained"]
    assert (found["mean_confidence"], found["share_confident"], found["samples"]) == (pytest.approx(0.76), 0.75, 4)
    assert found["share_confident_interval"][0] < 0.75 < found["share_confident_interval"][1]


@pytest.fixture(scope="module")
def attacked() -> tuple[Samples, Columns, Columns]:
    chosen = some()
    campaign = Campaign(chosen, chosen.sample_id[:2], SETTINGS, CPU)
    classifier = build(ModelDescription("two_conv_cnn", chosen.description.class_names, (1, 16, 18)), seed=1).eval()
    return chosen, *campaign.run(classifier, "trained", SETTINGS.goals)


def test_every_attack_goal_and_size_has_a_row_for_every_image(attacked: tuple[Samples, Columns, Columns]) -> None:
    chosen, outcomes, pictures = attacked
    runs = [("fgsm", 0.1), ("fgsm", 0.2), ("pgd_l2", 2.0), ("noise_linf", 0.1), ("noise_linf", 0.2)]
    assert len(outcomes["attack"]) == len(chosen) * (2 * len(runs) + 1)
    for name, epsilon in runs:
        for goal in SETTINGS.goals:
            rows = (outcomes["attack"] == name) & (outcomes["epsilon"] == epsilon) & (outcomes["goal"] == goal)
            np.testing.assert_array_equal(outcomes["sample_id"][rows], chosen.sample_id)
            assert (outcomes["distance"][rows] <= epsilon + 1e-5).all()
            wanted = outcomes["target"][rows] if goal == "least_likely" else np.full(len(chosen), -1)
            np.testing.assert_array_equal(outcomes["target"][rows], wanted)
            changed = (
                outcomes["label_after"][rows] == wanted
                if goal == "least_likely"
                else outcomes["label_after"][rows] != outcomes["label_before"][rows]
            )
            np.testing.assert_array_equal(outcomes["success"][rows], changed)
    assert set(pictures) == {robustness.image_name("trained", *one) for one in [*runs, (SIGN_ALONE, np.nan)]}
    assert {tuple(images.shape) for images in pictures.values()} == {(2, 1, 16, 18)}
    assert set(np.unique(pictures[robustness.image_name("trained", SIGN_ALONE, np.nan)])) <= {0.0, 0.5, 1.0}


def test_the_pictures_kept_are_those_of_the_rows(attacked: tuple[Samples, Columns, Columns]) -> None:
    chosen, outcomes, pictures = attacked
    for name, epsilon in (("fgsm", 0.2), ("noise_linf", 0.1)):
        rows = (outcomes["attack"] == name) & (outcomes["epsilon"] == epsilon) & (outcomes["goal"] == "untargeted")
        moved = np.abs(pictures[robustness.image_name("trained", name, epsilon)] - chosen.images[:2] / 255).max(axis=(1, 2, 3))
        np.testing.assert_allclose(outcomes["distance"][rows][:2], moved, atol=1e-6)


# the stages


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with params.yaml, 12 samples of three classes (of a fourth there is none) and an untrained model."""
    known = some()
    names = (*known.description.class_names, "absent")
    samples.write(tmp_path / "set.parquet", Samples(known.sample_id, known.images, known.labels, Description(names, "noise")))
    storage.save(tmp_path / "model", build(ModelDescription("two_conv_cnn", names, (1, 16, 18)), seed=0), [{"epoch": 0}])
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text().replace("  steps: 40", "  steps: 2"))
    return tmp_path


def test_the_stages_write_what_was_reached_and_the_same_bytes_twice(folder: Path) -> None:
    told = run(folder, "evasion", "set.parquet", "model", *OUTPUTS)
    assert "12 test images; answers changed: fgsm" in told
    first = [(folder / name).read_bytes() for name in OUTPUTS[1::2]]
    run(folder, "evasion", "set.parquet", "model", *OUTPUTS)
    assert [(folder / name).read_bytes() for name in OUTPUTS[1::2]] == first
    figures, outcomes = read_json(folder / "f.json"), read_columns(folder / "o.parquet")
    assert set(figures) == {"fgsm", "max_normed", "pgd_linf", "noise_linf"}
    assert set(outcomes["variant"]) == {"trained", "untrained"}
    for values in figures.values():
        assert values["epsilon"] == [0.01, 0.05, 0.1, 0.2] and len(values["success_rate"]) == 4
        assert values["per_class_success"]["0.1"][3] is None  # nobody of the absent class
        assert {"least_likely", "untrained"} <= set(values)
    for stronger, weaker in zip(figures["pgd_linf"]["success_rate"], figures["fgsm"]["success_rate"], strict=True):
        assert stronger >= weaker
    pictures = load_file(folder / "i.safetensors")
    assert all(len(images) == len(pictures["sample_id"]) <= 6 for images in pictures.values())


def test_disparity_says_not_enough_data_where_a_class_is_absent(folder: Path) -> None:
    run(folder, "evasion", "set.parquet", "model", *OUTPUTS)
    assert "not enough data" in run(folder, "disparity", "set.parquet", "model", "o.parquet", "--figures", "d.json")
    found = read_json(folder / "d.json")
    assert set(found["attacked"]) == {"untargeted", "least_likely"}
    absent = found["missed"]["per_class"][3]
    assert (absent["rate"], absent["interval"], absent["samples"]) == (None, None, 0)
    wrong = sum(one["events"] for one in found["missed"]["per_class"])
    assert found["accuracy"] == (12 - wrong) / 12 and found["accuracy_interval"][0] < found["accuracy"] < found["accuracy_interval"][1]
    outcomes = read_columns(folder / "o.parquet")
    mine = (outcomes["variant"] == "trained") & (outcomes["attack"] == "pgd_linf") & (outcomes["epsilon"] == 0.1)
    for goal, rates in found["attacked"].items():
        rows = mine & (outcomes["goal"] == goal)
        assert [one["events"] for one in rates["per_class"]] == np.bincount(outcomes["label"][rows], outcomes["success"][rows], 4).tolist()
    assert found["correlation"]["untargeted"] == {"rho": None, "p_value": None, "classes": 3}
    right = outcomes["label_before"] == outcomes["label"]
    for goal, rates in found["answered_right"]["attacked"].items():
        rows = mine & right & (outcomes["goal"] == goal)
        assert [one["samples"] for one in rates["per_class"]] == np.bincount(outcomes["label"][rows], minlength=4).tolist()
        assert [one["events"] for one in rates["per_class"]] == np.bincount(outcomes["label"][rows], outcomes["success"][rows], 4).tolist()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"epsilons": "[0.0]"}, "evasion.epsilons.0: found 0.0, expected greater than 0"),
        ({"epsilons": "[1.5]"}, "evasion.epsilons.0: found 1.5, expected less than or equal to 1"),
        ({"epsilons": "[]"}, "evasion.attacks has fgsm, which needs at least one of evasion.epsilons"),
        ({"attacks": "[fgsm, pgd_l2]"}, "evasion.attacks has pgd_l2, which needs at least one of evasion.epsilons_l2"),
        ({"attacks": "[fgsm, fgsm]"}, "expected each once"),
        ({"goals": "[least_likely]"}, "expected untargeted among them"),
        ({"epsilon": "0.03"}, None),
        ({"attack": "square"}, "disparity.attack: found square, expected one of evasion.attacks"),
    ],
)
def test_what_does_not_fit_is_named(folder: Path, changes: dict[str, str], said: str | None) -> None:
    if said is None:  # the first `epsilon` is the poison's
        text = (folder / "params.yaml").read_text()
        (folder / "params.yaml").write_text(text.replace("  attack: pgd_linf\n  epsilon: 0.1", "  attack: pgd_linf\n  epsilon: 0.03"))
        changes, said = {}, "disparity.epsilon: found 0.03, expected one of the sizes of pgd_linf: [0.01, 0.05, 0.1, 0.2]"
    assert said in run(folder, "evasion", "set.parquet", "model", *OUTPUTS, fails=True, **changes)
    assert not list(folder.glob("o.parquet*"))
