"""The report's section on attacks on the inputs: its figures against the files, the pictures, and what it says without enough data."""

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up import PROVENANCE, Case, make_files, section, settings, text_of
from PIL import Image

from wellcheck.artifacts import read_columns, read_json, read_tensors, write_json
from wellcheck.report import rounding
from wellcheck.report.charts import SERIES_STYLES
from wellcheck.report.evasion import evasion
from wellcheck.report.evidence import Evidence, gather
from wellcheck.report.page import TEMPLATES, render
from wellcheck.robustness import SIGN_ALONE, image_name


def percent(share: float) -> str:
    """As a reader of the text sees it."""
    return " ".join(rounding.percent(share).split())


def told(evidence: Evidence) -> tuple[dict[str, Any], str]:
    """What the section is made of, and what a reader reads of it."""
    page = render(evidence, settings(), PROVENANCE, None)
    return evasion(evidence, settings(), most=10), text_of(section(page, "evasion"))


def test_its_table_is_the_outcomes_table(tmp_path: Path) -> None:
    evidence = gather(make_files(tmp_path, Case()))
    shown, text = told(evidence)
    outcomes = read_columns(evidence.files.evasion_outcomes)
    names = {"fgsm": "FGSM", "max_normed": "max-normed gradient", "pgd_linf": "PGD (L∞)", "noise_linf": "noise (L∞)"}
    chosen = settings().evasion
    assert len(shown["kept"]) == len(chosen.attacks) * len(chosen.epsilons)
    for row in shown["kept"]:
        mine = np.array([names.get(name) == row["name"] for name in outcomes["attack"]]) & (outcomes["epsilon"] == row["epsilon"])
        learnt = mine & (outcomes["variant"] == "trained")
        plain = {name: values[learnt & (outcomes["goal"] == "untargeted")] for name, values in outcomes.items()}
        right = plain["label_before"] == plain["label"]
        assert row["unchanged"] == pytest.approx((plain["label_after"] == plain["label_before"]).mean())
        assert row["accuracy"] == pytest.approx((right & (plain["label_after"] == plain["label"])).mean())
        assert row["accuracy"] <= row["unchanged"] and not right.all()
        untrained = mine & (outcomes["variant"] == "untrained")
        assert row["untrained"] == pytest.approx((outcomes["label_after"] == outcomes["label_before"])[untrained].mean())
        aimed = learnt & (outcomes["goal"] == "least_likely")
        assert row["goals"] == {"least_likely": pytest.approx(outcomes["success"][aimed].mean())}
        low, high = row["unchanged_interval"]
        assert low < row["unchanged"] < high or row["unchanged"] in (low, high)
        cells = f"{percent(row['unchanged'])} {percent(low)} to {percent(high)} {percent(row['accuracy'])}"
        assert f"{row['name']} {row['epsilon']:g} {cells}" in text


def test_the_strongest_attack_comes_first_and_noise_beside_it(tmp_path: Path) -> None:
    evidence = gather(make_files(tmp_path, Case()))
    shown, text = told(evidence)
    figures = read_json(evidence.files.evasion)
    most = max(values["success_rate"][-1] for name, values in figures.items() if name != "noise_linf")
    assert shown["summary"]["success_rate"][-1] == most
    noise = percent(figures["noise_linf"]["success_rate"][-1])
    assert f"{shown['summary']['attack']} changes {percent(most)} of the answers" in text
    assert f"random noise of that size changes {noise}" in text


def test_the_examples_are_those_that_were_kept(tmp_path: Path) -> None:
    evidence = gather(make_files(tmp_path, Case()))
    shown, text = told(evidence)
    assert [one["name"] for one in shown["examples"]] == ["FGSM", "max-normed gradient"]
    assert all(len(one["rows"]) == 3 for one in shown["examples"])
    first = shown["examples"][0]
    rates = dict(zip(*(read_json(evidence.files.evasion)["fgsm"][name] for name in ("epsilon", "success_rate")), strict=True))
    assert first["epsilon"] == min((size for size, rate in rates.items() if rate >= 0.5), default=max(rates))
    assert f"FGSM, size {first['epsilon']:g}" in text


def test_what_stands_under_the_pictures_is_what_became_of_them(tmp_path: Path) -> None:
    evidence = gather(make_files(tmp_path, Case()))
    shown, _ = told(evidence)
    outcomes, kept = read_columns(evidence.files.evasion_outcomes), read_tensors(evidence.files.evasion_images)
    names, checked = evidence.description.class_names, 0

    def check(said: list[dict[str, Any]], attack: str, epsilon: float | None, sample: int, when: str) -> None:
        assert [one["model"] for one in said] == ["trained", "untrained"]
        for one in said:
            mine = (outcomes["variant"] == one["model"]) & (outcomes["attack"] == attack) & (outcomes["sample_id"] == sample)
            mine &= (outcomes["goal"] == "untargeted") & (
                np.isnan(outcomes["epsilon"]) if epsilon is None else outcomes["epsilon"] == epsilon
            )
            assert mine.sum() == 1
            assert (one["name"], one["sure"]) == (names[outcomes[f"label_{when}"][mine][0]], outcomes[f"confidence_{when}"][mine][0])
            assert one["wrong"] == (one["model"] == "trained" and outcomes[f"label_{when}"][mine][0] != outcomes["label"][mine][0])

    for attack, example in zip(("fgsm", "max_normed"), shown["examples"], strict=True):
        for place, (row, sample) in enumerate(zip(example["rows"], kept["sample_id"].tolist(), strict=True)):
            check(row["original"]["said"], attack, example["epsilon"], sample, "before")
            check(row["attacked"]["said"], attack, example["epsilon"], sample, "after")
            if attack == "fgsm":
                check(row["change"]["said"], SIGN_ALONE, None, sample, "after")
            changed = kept[image_name("trained", attack, example["epsilon"])][place]
            content = base64.b64decode(row["attacked"]["uri"].partition(",")[2])
            drawn = np.asarray(Image.open(io.BytesIO(content)).convert("L"), int)
            assert np.abs(drawn - (changed[0] * 255).round()).mean() < 3  # as it was kept, but for what compression takes
            checked += 1
    assert checked == 6


def test_noise_is_in_the_chart_of_every_goal(tmp_path: Path) -> None:
    evidence = gather(make_files(tmp_path, Case()))
    assert all("noise (L∞)" in str(chart) for chart in told(evidence)[0]["charts"])


@pytest.mark.parametrize(
    ("all_images", "got", "said"),
    [
        (
            (0.9, 0.001),
            (0.8, 0.004),
            "0.90 over 10 classes (p 0.001): the classes that are missed most are attacked most easily. A part of",
        ),
        ((0.9, 0.001), (0.8, 0.004), "among the images that it got it is 0.80 (p 0.004)."),
        ((0.2, 0.6), (0.1, 0.8), "no more than chance gives."),
        ((-0.9, 0.001), (None, None), "are the hardest to attack. A part of that is built in"),
        ((0.9, 0.001), (None, None), "of the images that it got there are too few to tell."),
        ((None, None), (None, None), "There is not enough data to say whether they are the same classes."),
    ],
)
def test_what_is_said_of_the_correlation(
    all_images: tuple[float | None, float | None], got: tuple[float | None, float | None], said: str, tmp_path: Path
) -> None:
    files = make_files(tmp_path, Case())
    found = read_json(files.disparity)
    for place, (rho, p_value) in ((found, all_images), (found["answered_right"], got)):
        place["correlation"] = {goal: {"rho": rho, "p_value": p_value, "classes": 10} for goal in ("untargeted", "least_likely")}
    write_json(files.disparity, found)
    assert said in told(gather(files))[1]


def test_a_class_that_nobody_attacked_has_not_enough_data(tmp_path: Path) -> None:
    files = make_files(tmp_path, Case())
    found = read_json(files.disparity)
    found["attacked"]["untargeted"]["per_class"][3] = {"events": 0, "samples": 0, "interval": None, "rate": None}
    write_json(files.disparity, found)
    shown, text = told(gather(files))
    assert text.count("not enough data") == 1
    assert f"the share of {shown['disparity']['asked']:,} of them whose answer" in text


def test_every_curve_has_a_colour_of_its_own() -> None:
    style = (TEMPLATES / "style.css").read_text(encoding="utf-8")
    told = [
        re.findall(rf"\.{kind}\.series{place}\b[^}}]*?var\((--\w+)\)", style) for kind in ("line", "dot") for place in range(SERIES_STYLES)
    ]
    assert all(len(one) == 1 for one in told) and len({one[0] for one in told[:SERIES_STYLES]}) == SERIES_STYLES
