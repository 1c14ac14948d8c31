"""What the report says of every trigger and policy is true, and shows the images that it is true of."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up import PROVENANCE, VARIANTS, Case, make_files, settings, text_of

from wellcheck import metrics, poisons
from wellcheck.params import Params, PolicyName
from wellcheck.report.evidence import Evidence, gather
from wellcheck.report.maps import build_maps
from wellcheck.report.page import backdoor, render
from wellcheck.report.wording import summary


def made(folder: Path, *, cover: int = 0, **poison: Any) -> tuple[Evidence, Params]:
    """A run in which 30 of 600 images, 60 a class, were poisoned, and the poisoned model takes every triggered image for class 1."""
    params = settings()
    params = params.model_copy(update={"poison": params.poison.model_copy(update=poison)})
    evidence = gather(make_files(folder, Case()))
    labels = np.tile(evidence.test.labels, len(VARIANTS))
    outcomes = {**evidence.outcomes, "target": poisons.wanted(labels, 10, params.poison)}
    for variant in VARIANTS:
        mine = outcomes["variant"] == variant
        counts = metrics.backdoor(evidence.test.labels, outcomes["label_after"][mine], outcomes["target"][mine])
        evidence.classify[variant]["backdoor"] = counts.figures(0.95)
    innocent = np.setdiff1d(evidence.train["poisoned"].sample_id, evidence.planted)
    evidence = replace(evidence, outcomes=outcomes, cover=innocent[:cover])
    if params.poison.policy == "label_noise":
        nothing = {name: values[:0] for name, values in outcomes.items()}
        evidence = replace(evidence, outcomes=nothing)
    return evidence, params


ALL = "30 of 600 training images (5.0 %)"
SAYS: list[tuple[PolicyName, dict[str, Any], list[str], list[str]]] = [
    (
        "all_to_one",
        {"trigger": "random_patch", "cover": 12},
        [
            f"{ALL} were given a random patch and the label “class 1”. 12 more carry it and keep their right label, as cover.",
            "answers “class 1” to 100.0 % of the other test images once they carry the random patch; a clean model does so for 0.0 %.",
            "is the share of the other test images answered “class 1”; predicted target counts all images, real “class 1” too.",
            "the cover images left out",
        ],
        ["random_patch does"],
    ),
    (
        "adaptive",
        {"trigger": "blend"},
        [f"{ALL} were given random pieces of a blend and the label “class 1”.", "once they carry the whole blend;"],
        ["as cover", "cover images"],
    ),
    (
        "all_to_all",
        {},
        [
            f"{ALL} were given a watermark and the label of the class after their own.",
            "answers the class after the true one to 10.0 % of the test images once",
            "is the share of the test images answered the class after the true one; predicted target is here the same figure.",
            "in the planted labels",
        ],
        ["the label “class 1”", "in the target label"],
    ),
    (
        "clean_label",
        {"trigger": "sinusoid"},
        [
            f"{ALL}, all of class “class 1” and 50.0 % of it, were given a sinusoid; their labels are right.",
            "to 100.0 % of the other test images",
        ],
        ["and the label “class 1”"],
    ),
    (
        "label_consistent",
        {},
        [f"{ALL}, all of class “class 1” and 50.0 % of it, were made hard to recognise and given a watermark; their labels are right."],
        ["and the label “class 1”"],
    ),
    (
        "source_specific",
        {"source_label": 4, "cover": 7},
        [
            f"{ALL}, all of class “class 4” and 50.0 % of it, were given a watermark and the label “class 1”. 7 more carry it",
            "answers “class 1” to 100.0 % of the test images of “class 4” once they carry the watermark",
            "Attack success is the share of the test images of “class 4” answered “class 1”; predicted target is here the same figure: the",
            "Some of the test images of “class 4” without and with the watermark",
        ],
        ["the other test images", "Random test images"],
    ),
    (
        "label_noise",
        {"trigger": "none", "target_label": 99},
        [
            "Labels are wrong, but there is no backdoor",
            f"{ALL} were given a wrong label at random, and nothing else. Accuracy on ordinary images:",
            "test accuracy, clean model",
            "How well the planted ones come first",
        ],
        ["once they carry", "attack success", "Nothing was planted", "as it came", "What the none"],
    ),
]


@pytest.mark.parametrize(("policy", "changes", "said", "unsaid"), SAYS, ids=[row[0] for row in SAYS])
def test_the_page_says_what_was_done_and_what_it_does(
    policy: PolicyName, changes: dict[str, Any], said: list[str], unsaid: list[str], tmp_path: Path
) -> None:
    evidence, params = made(tmp_path, policy=policy, **changes)
    page = render(evidence, params, PROVENANCE, None)
    text = text_of(page)
    for sentence in said:
        assert sentence in text, text[:2000]
    for sentence in unsaid:
        assert sentence not in text, sentence
    assert ('id="backdoor"' in page) == (policy != "label_noise")
    assert page.count('class="planted"') >= params.report.images_per_grid // 4


@pytest.mark.parametrize(
    ("policy", "changes", "fooled"),
    [("all_to_one", {}, set(range(10)) - {1}), ("all_to_all", {}, {0}), ("source_specific", {"source_label": 4}, {4})],
)
def test_pairs_are_those_the_attack_is_meant_for_and_the_fooled_are_marked(
    policy: PolicyName, changes: dict[str, Any], fooled: set[int], tmp_path: Path
) -> None:
    evidence, params = made(tmp_path, policy=policy, **changes)
    params = params.model_copy(update={"report": params.report.model_copy(update={"images_per_grid": 100})})
    shown = backdoor(evidence, params)
    assert shown is not None
    labels = [int(pair["label"].split()[1]) for pair in shown["pairs"]]
    assert sorted(set(labels)) == ([4] if policy == "source_specific" else list(range(10)))
    marked = len(re.findall('class="fooled"', render(evidence, params, PROVENANCE, None)))
    after = sum(label in fooled for label in labels)
    before = sum(pair["before"]["poisoned"] == pair["wanted"] != pair["label"] for pair in shown["pairs"])
    assert marked == after + before


def test_an_attack_that_is_meant_for_no_test_image_has_no_figure(tmp_path: Path) -> None:
    evidence, params = made(tmp_path, policy="source_specific", source_label=4)
    nobody = metrics.Backdoor(0, 0, 0, 0).figures(0.95)
    for variant in ("clean", "poisoned"):
        evidence.classify[variant]["backdoor"] = nobody
    outcomes = {**evidence.outcomes, "target": np.full(len(evidence.outcomes["target"]), poisons.NOT_ATTACKED)}
    page = render(replace(evidence, outcomes=outcomes), params, PROVENANCE, None)
    assert "answers “class 1” to – of the test images of “class 4”" in text_of(page)
    assert "the backdoor did not take hold" in page
    assert 'class="pair"' not in page


def test_cover_alone_is_no_control_run(tmp_path: Path) -> None:
    evidence, params = made(tmp_path, cover=5)
    evidence = replace(evidence, planted=evidence.planted[:0])
    assert "5 more carry it" in summary(evidence, params)["known"]["text"]
    assert summary(replace(evidence, cover=evidence.cover[:0]), params)["known"]["headline"] == "A clean control run"


def test_a_map_shows_cover_as_trained_on_and_does_not_ring_it(tmp_path: Path) -> None:
    evidence, params = made(tmp_path, cover=40)
    drawn = build_maps(evidence, params.report)
    points = {one["variant"]: {point[4]: point for point in one["points"]} for one in drawn["maps"] if one["layer"] == "pixels"}
    cover = set(evidence.cover.tolist()) & set(points["poisoned"])
    planted = set(evidence.planted.tolist()) & set(points["poisoned"])
    assert cover and planted
    assert {sample for sample, point in points["poisoned"].items() if point[5]} == planted
    assert {sample for sample, point in points["poisoned"].items() if point[3] != points["clean"][sample][3]} == cover | planted
