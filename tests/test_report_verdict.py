"""The report's verdict: its sentence, its evidence, the flagged images, and what it says where there is nothing to show."""

import re
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up import HOSTILE, PROVENANCE, TARGET, Case, make_files, page_of, settings, text_of

from wellcheck import samples
from wellcheck.errors import InputError
from wellcheck.report import verdict
from wellcheck.report.charts import Bars, histogram
from wellcheck.report.evidence import Evidence, flagged, gather
from wellcheck.report.page import render
from wellcheck.report.pictures import signed, with_opacity
from wellcheck.report.rounding import chance
from wellcheck.report.wording import either, summary


def evidence_of(folder: Path, case: Case) -> Evidence:
    """What the report is made of in a made-up run."""
    return gather(make_files(folder, case))


def classified(evidence: Evidence, variant: str, **changes: Any) -> None:
    """Give one model other figures."""
    evidence.classify[variant] = {**evidence.classify[variant], **changes}


SENTENCES: list[tuple[Case, str, str, list[str]]] = [
    (
        Case(),
        "Poisoned: 31 of 600 training images carry something that makes the model answer “class 1” whatever else they show.",
        "bad",
        [
            "Leaving them out takes the attack’s success from 100.0 % to 0.0 %, and accuracy on ordinary images from 0.0 % to 100.0 %.",
            "The verdict is right, and was told nothing of this: it flagged 28 of the 30 planted images and 3 innocent ones.",
        ],
    ),
    (
        Case(convicted=(1, 2, 4)),
        "Poisoned: 31 of 600 training images carry something that makes the model answer “class 1”, “class 2” or “class 4” whatever",
        "bad",
        ["The verdict is right that there is poison, but not about its labels;"],
    ),
    (Case(convicted=tuple(range(7))), "makes the model answer one of 7 labels whatever else they show.", "bad", []),
    (
        Case(convicted=()),
        "No sign of poison.",
        "unsure",
        ["10 groups of images that stand out from their label were tried; none is a backdoor. This is no proof", "it missed this."],
    ),
    (
        Case(planted=0),
        "No sign of poison.",
        "fine",
        ["Whether they were poisoned, nobody has told us."],
    ),
    (
        Case(planted=0, thin=7),
        "No sign of poison.",
        "unsure",
        ["3 groups of images", "Not examined: 7 of 10 labels (“class 3”, “class 4”, “class 5”, “class 6”, “class 7” and 2 more)."],
    ),
    (
        Case(planted=0, convicted=(1,)),
        "Poisoned: 30 of 600 training images carry something that makes the model answer “class 1” whatever else they show.",
        "bad",
        ["What it does to an attack cannot be measured: there is no trigger of ours.", "Looked at as it came."],
    ),
]


@pytest.mark.parametrize(("case", "headline", "state", "said"), SENTENCES)
def test_the_first_sentence_is_the_verdict_and_what_follows_is_true(
    case: Case, headline: str, state: str, said: list[str], tmp_path: Path
) -> None:
    evidence = evidence_of(tmp_path, case)
    page = render(evidence, settings(), PROVENANCE, None)
    text = text_of(page)
    assert headline in summary(evidence, settings())["headline"]
    assert f'<section id="summary" class="summary {state}">' in page
    first = text_of(page[page.index('<section id="summary"') :])
    assert first.startswith(summary(evidence, settings())["headline"])
    for sentence in said:
        assert sentence in text, text[:2500]


def recovered(turned: float, images: int = 200) -> dict[str, Any]:
    """What evaluate says of a recovered pattern."""
    return {"recovered": {"turned": turned, "turned_interval": [max(turned - 0.1, 0.0), min(turned + 0.1, 1.0)], "images": images}}


@pytest.mark.parametrize("known", [True, False])
def test_what_was_recovered_says_whether_it_is_gone(known: bool, tmp_path: Path) -> None:
    evidence = evidence_of(tmp_path, Case() if known else Case(planted=0, convicted=(1,)))
    assert "recovered" not in text_of(render(evidence, settings(), PROVENANCE, None)).lower().replace("as the verdict recovered", "")
    shares = {"poisoned": 0.875, "cleansed": 0.0625}
    figures = {name: one | (recovered(shares[name]) if name in shares else {}) for name, one in evidence.classify.items()}
    page = render(replace(evidence, classify=figures), settings(), PROVENANCE, None)
    text = text_of(page)
    assert "Recovered : share of 200 test images of other classes" in text.replace("Recovered:", "Recovered :")
    row = text_of(re.findall(r"<tr><td[^>]*>cleansed <br>.*?</tr>", page, re.DOTALL)[-1])
    assert "6.2 %" in row.replace("\u202f", " ").replace("\xa0", " ") or "6.3 %" in row.replace("\u202f", " ").replace("\xa0", " ")
    sentence = "What they carry, put on test images of other classes, turns"
    assert (sentence in text) != known  # whoever knows the trigger is told what it does instead


def test_cleansing_by_new_labels_is_called_that(tmp_path: Path) -> None:
    params = settings()
    params = params.model_copy(update={"cleanse": params.cleanse.model_copy(update={"action": "relabel"})})
    assert summary(evidence_of(tmp_path, Case()), params)["effect"].startswith("Giving them the label that they seem to show takes")


def test_one_image_is_one_image(tmp_path: Path) -> None:
    page = page_of(tmp_path, Case(planted=1, missed=0, innocent=0))
    assert "Poisoned: 1 of 600 training images carries something that makes the model answer “class 1” whatever else it shows." in page


def test_a_convicted_label_without_a_flagged_image(tmp_path: Path) -> None:
    evidence = evidence_of(tmp_path, Case(missed=30, innocent=0))
    text = text_of(render(evidence, settings(), PROVENANCE, None))
    assert "makes the model answer “class 1”, but no single image is suspect enough to be flagged." in text
    assert "No single image is suspect enough to be flagged." in text


def test_a_false_alarm_on_a_control_run_is_called_one(tmp_path: Path) -> None:
    evidence = evidence_of(tmp_path, Case())
    text = text_of(render(replace(evidence, planted=evidence.planted[:0]), settings(), PROVENANCE, None))
    assert "The verdict is wrong, a false alarm: nothing was planted." in text


@pytest.mark.parametrize("silent", [True, False])
def test_label_noise_is_no_backdoor(tmp_path: Path, silent: bool) -> None:
    evidence = evidence_of(tmp_path, Case(convicted=() if silent else (TARGET,)))
    nothing = {name: values[:0] for name, values in evidence.outcomes.items()}
    said = summary(replace(evidence, outcomes=nothing), settings())["known"]
    assert said["headline"] == "Labels are wrong, but there is no backdoor"
    assert ("the verdict is right to find none." if silent else "the verdict is wrong, a false alarm;") in said["text"]


def test_silence_about_a_backdoor_that_did_not_take_is_no_mistake(tmp_path: Path) -> None:
    evidence = evidence_of(tmp_path, Case(convicted=()))
    classified(evidence, "poisoned", backdoor=evidence.classify["clean"]["backdoor"])
    said = summary(evidence, settings())
    assert said["state"] == "fine"
    assert "So there is no backdoor for the verdict to find." in said["known"]["text"]


@pytest.mark.parametrize(("answered", "little"), [(0.1, True), (0.3, True), (0.35, False), (1.0, False), (None, False)])
def test_silence_about_a_network_that_learnt_little_is_not_called_fine(answered: float | None, little: bool, tmp_path: Path) -> None:
    evidence = evidence_of(tmp_path, Case(planted=0))  # ten labels, as common as each other by a few samples
    evidence.history["poisoned"][-1]["train_accuracy"] = answered
    said = summary(evidence, settings())
    assert said["state"] == ("unsure" if little else "fine")
    assert ("The network learnt too little for a backdoor to show" in said["effect"]) == little


def test_a_verdict_needs_no_excuse(tmp_path: Path) -> None:
    evidence = evidence_of(tmp_path, Case())
    evidence.history["poisoned"][-1]["train_accuracy"] = 0.1
    assert "too little" not in summary(evidence, settings())["effect"]


def test_an_attack_meant_for_nobody_has_no_success_to_compare(tmp_path: Path) -> None:
    evidence = evidence_of(tmp_path, Case())
    classified(evidence, "cleansed", backdoor={"attack_success_rate": None, "attack_success_rate_interval": None})
    assert "The attack is meant for none of the test images." in summary(evidence, settings())["effect"]


def test_labels_come_worst_first_with_their_threshold(tmp_path: Path) -> None:
    evidence = evidence_of(tmp_path, Case(thin=1))
    shown = verdict.labels(evidence)
    assert [row["label"] for row in shown["rows"]] == [1, 4, 9, 3, 8, 2, 7, 6, 0, 5]
    assert shown["threshold"] == 0.5
    page = render(evidence, settings(), PROVENANCE, None)
    assert page.count('class="threshold"') == 10
    assert 'style="left: 50.0%"' in page
    assert '<tr class="convicted"><td class="name">class 1</td>' in page
    assert "3·10⁻¹¹" in page
    assert "only 5 samples: not examined" in page


def test_of_many_labels_the_worst_are_shown_and_it_is_said(tmp_path: Path) -> None:
    case = Case(classes=200, training=2000, tests=200, convicted=(1, 150), thin=3)
    text = text_of(page_of(tmp_path, case))
    assert "The 20 of 200 labels with the most evidence against them." in text
    shown = verdict.labels(gather(make_files(tmp_path, case)))
    assert len(shown["rows"]) == 20
    assert [row["label"] for row in shown["rows"][:2]] == [1, 150]
    assert "Not examined: 3 of 200 labels (“class 197”, “class 198”, “class 199”)." in text


def test_patterns_are_shown_for_a_few_labels_and_it_is_said(tmp_path: Path) -> None:
    page = page_of(tmp_path, Case(classes=20, convicted=tuple(range(15)), training=800))
    assert page.count('class="trigger"') == verdict.MOST_TRIGGERS
    assert "Shown for 12 of 15 convicted labels." in page


def test_every_flagged_image_comes_with_labels_probability_and_reasons(tmp_path: Path) -> None:
    evidence = evidence_of(tmp_path, Case())
    shown = verdict.contact_sheet(evidence, 200)
    train, clean = (samples.read(path) for path in (evidence.files.poisoned_train, evidence.files.clean_train))
    assert [one["probability"] for one in shown["images"]] == sorted((one["probability"] for one in shown["images"]), reverse=True)
    for one in shown["images"]:
        (row,) = np.flatnonzero(train.sample_id == one["id"])
        assert one["given"] == "class 1"
        assert one["shown"] == f"class {clean.labels[row]}"
        assert one["reasons"][1] == f"a model that never saw it reads class {clean.labels[row]}"
        assert one["innocent"] == (one["id"] not in evidence.planted)
    assert shown["innocent"] == 3
    page = render(evidence, settings(), PROVENANCE, None)
    assert "These are all 31. Outlined: the 3 that wellcheck did not plant." in text_of(page)
    assert page.count("<summary>why</summary>lies apart from the rest of its label; a model") == 31
    assert page.count('class="innocent"') == 3
    assert "<summary>The next " not in page


def test_of_many_flagged_images_the_surest_are_shown_and_it_is_said(tmp_path: Path) -> None:
    page = page_of(tmp_path, Case(planted=300))
    assert page.count("<summary>why</summary>") == verdict.MOST_FLAGGED
    assert "These are 200 of 301; the other 101 stand in reports/flagged.csv." in text_of(page)
    assert "<summary>The next 164</summary>" in page


def test_without_a_truth_nobody_is_called_innocent(tmp_path: Path) -> None:
    page = page_of(tmp_path, Case(planted=0, convicted=(1,)))
    assert page.count("<summary>why</summary>") == 30
    for absent in ('class="innocent"', "perfect filter</td>", "<td>clean</td>", "attack success"):
        assert absent not in page, absent
    text = text_of(page)
    assert "ROC and precision over recall need to know what was planted. Nothing was planted by us, and nobody has told us." in text
    assert "so there is no clean twin of this set that could be examined" in text
    assert "there is neither a clean set nor a perfect filter to compare with" in text


def test_silence_explains_every_empty_part(tmp_path: Path) -> None:
    page = page_of(tmp_path, Case(planted=0))
    text = text_of(page)
    for sentence in (
        "There is nothing to take out: reports/flagged.csv is empty",
        "No label is convicted, and images are flagged in convicted labels only: there are none.",
        "No label is convicted, so there is no group whose pattern could be shown.",
        "No label is convicted, so no image has a probability of being poison to be drawn.",
    ):
        assert sentence in text, sentence


def test_clean_label_poison_shows_its_own_class(tmp_path: Path) -> None:
    page = page_of(tmp_path, Case(own_content=True))
    assert page.count("<b>class 1</b> → class 1<br>") == 31
    assert "its label’s own" in page


def test_the_table_has_every_training_set_with_its_size_and_both_intervals(tmp_path: Path) -> None:
    evidence = evidence_of(tmp_path, Case())
    rows = {row["variant"]: row for row in verdict.variants(evidence)}
    assert list(rows) == ["poisoned", "cleansed", "perfect_filter", "random_filter", "clean"]
    assert {name: row["trained_on"] for name, row in rows.items()} == {
        "poisoned": 600,
        "cleansed": 569,
        "perfect_filter": 570,
        "random_filter": 569,
        "clean": 600,
    }
    text = text_of(render(evidence, settings(), PROVENANCE, None))
    assert "random filter as many are taken out at random 569 100.0 % 95.9 % to 100.0 % 100.0 % 100.0 % to 100.0 %" in text


def test_a_silent_control_and_a_false_alarm(tmp_path: Path) -> None:
    evidence = evidence_of(tmp_path, Case())
    text = text_of(render(evidence, settings(), PROVENANCE, None))
    assert "The clean set: no sign of poison (10 labels, 10 groups tried; most evidence 0.08)." in text
    alarm = replace(evidence, clean_verdict=evidence.verdict)
    alarm.detection["controls"]["label_noise"] = {"flagged": 0, "verdict": False}
    page = render(alarm, settings(), PROVENANCE, None)
    assert "The clean set: a false alarm in class 1, 31 images flagged (10 labels" in text_of(page)
    assert "Label noise: no sign of poison." in text_of(page)
    assert page.count('<li class="alarm">') == page.count('<li class="silent">') == 1


def test_curves_show_the_verdict_and_the_best_in_colour(tmp_path: Path) -> None:
    evidence = evidence_of(tmp_path, Case())
    figures = evidence.detection["detectors"]
    for rank in range(5):
        name = f"other_{rank}"
        figures[name] = {**figures["mixture"], "average_precision": 0.9 - rank / 10}
        evidence.roc.extend({**row, "detector": name} for row in evidence.roc[:3])
    figures["other_4"]["average_precision"] = None
    drawn = verdict.curves(evidence)
    assert drawn is not None
    keys = re.findall(r'<span class="key ([^"]+)">([^<]+)</span>', drawn["roc"])
    assert keys[:5] == [("verdict", "verdict"), *((f"series{rank}", f"other_{rank}") for rank in range(4))]
    assert keys[5:] == [("verdict point", "the verdict’s decision")]
    assert drawn["others"] == ["centroid_tsne", "mixture", "spectral_signatures", "other_4"]
    assert drawn["roc"].count('class="line rest"') == 4
    assert drawn["precision_recall"].count("<circle") == 1


def test_scores_are_those_of_the_convicted_labels(tmp_path: Path) -> None:
    evidence = evidence_of(tmp_path, Case())
    inside = int((evidence.train["poisoned"].labels == TARGET).sum())
    probability, mixture = verdict.scores(evidence)
    for chart in (probability, mixture):
        assert f"not flagged: {inside - 31:,}" in chart
        assert "flagged: 31" in chart
    del evidence.scores["mixture"]
    assert len(verdict.scores(evidence)) == 1


def test_a_histogram_counts_what_it_draws() -> None:
    chart = histogram([Bars("few", "a", [0, 3]), Bars("many", "b", [12_000, 0])], [0, 0.5, 1], title="t", x_label="x", y_label="y")
    assert re.findall(r"<title>([^<]+)</title>", chart) == ["few: 3 from 0.5 to 1", "many: 12,000 from 0 to 0.5"]
    heights = [float(height) for height in re.findall(r'<rect[^>]+height="([\d.]+)"', chart)]
    assert heights[1] / heights[0] == pytest.approx(np.log(12_001) / np.log(4), rel=0.01)
    assert "100,000" in chart
    assert histogram([Bars("none", "a", [0])], [0, 1], title="t", x_label="x", y_label="y").count("<rect") == 0


def test_hostile_names_and_reasons_stay_text(tmp_path: Path) -> None:
    evidence = evidence_of(tmp_path, Case(hostile=True, convicted=(0, 1), innocent=40))
    evidence.verdict["labels"][0]["note"] = HOSTILE
    evidence.verdict["labels"][0]["findings"][0]["source"] = HOSTILE
    evidence.clean_verdict["target_labels"] = [0]
    evidence.clean_verdict["poisoned"] = True
    page = render(evidence, settings(), PROVENANCE, None)
    assert HOSTILE not in page
    assert f"a model that never saw it reads {HOSTILE}" in unescape(page)
    assert page.count("<script") == page.count("</script>") == 2


def test_only_as_many_flagged_rows_are_read_as_asked_for(tmp_path: Path) -> None:
    files = make_files(tmp_path, Case())
    assert [len(flagged(files.flagged, most).sample_id) for most in (1, 10, 1000)] == [1, 10, 31]
    nothing = flagged(make_files(tmp_path / "silent", Case(convicted=())).flagged, 10)
    assert (nothing.images.shape, nothing.reasons) == ((0, 1, 12, 10), [])


@pytest.mark.parametrize("name", ["flagged", "patterns", "judged", "verdict", "precision_recall"])
def test_a_damaged_or_missing_file_is_named(tmp_path: Path, name: str) -> None:
    files = make_files(tmp_path, Case())
    path: Path = getattr(files, name)
    if name != "precision_recall":
        path.write_bytes(b"damaged")
        with pytest.raises(InputError, match=name):
            verdict.contact_sheet(gather(files), 10)
    path.unlink()
    with pytest.raises(InputError, match=name):
        verdict.contact_sheet(gather(files), 10)


def test_a_signed_picture_is_grey_where_nothing_is_and_says_its_factor() -> None:
    picture, factor = signed(np.array([[[0.0, -25.4, 12.7]]]))
    assert picture.tolist() == [[[128, 1, 192]]]
    assert factor == pytest.approx(5)
    picture, factor = signed(np.zeros((1, 1, 1)))
    assert (picture.tolist(), factor) == ([[[128]]], 0)


@pytest.mark.parametrize("bent", [False, True])
def test_a_displacement_is_drawn_where_bending_turned_most_images(tmp_path: Path, bent: bool) -> None:
    page = page_of(tmp_path, Case(bent=bent))
    assert ('class="mesh"' in page, "bent: pixels move by" in page) == (bent, bent)
    assert ("of the pixels</figcaption>" in page) != bent


@pytest.mark.parametrize("channels", [1, 3])
def test_a_pasted_pattern_is_see_through_where_images_differ(channels: int) -> None:
    picture = with_opacity(np.full((channels, 1, 2), 200.0), np.array([[0.0, 1.0]]))
    assert picture.tolist() == [[[200, 200]]] * 3 + [[[0, 255]]]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "–"), (1, "1"), (0.0123, "0.012"), (0.001, "0.001"), (4.2e-15, "4·10⁻¹⁵"), (9.99e-6, "1·10⁻⁵"), (0, "< 10⁻³⁰⁰")],
)
def test_chance(value: float | None, shown: str) -> None:
    assert chance(value) == shown


@pytest.mark.parametrize(("names", "said"), [(["a"], "“a”"), (["a", "b"], "“a” or “b”"), (["a", "b", "c"], "“a”, “b” or “c”")])
def test_either(names: list[str], said: str) -> None:
    assert either(names) == said
