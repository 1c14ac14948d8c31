"""The report's sections on label errors and explanations: what they say, what they show, and that names from outside stay text."""

import base64
import io
import re
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up import HOSTILE, PROVENANCE, Case, make_files, page_of, section, settings, text_of
from PIL import Image

from wellcheck.artifacts import read_columns, read_json, read_tensors, write_columns, write_json
from wellcheck.errors import InputError
from wellcheck.report import explanations, label_errors
from wellcheck.report.evidence import Evidence, Files, gather
from wellcheck.report.page import render
from wellcheck.report.pictures import AGAINST, FOR, diverging, film_uri, stacked


def evidence_of(folder: Path, case: Case) -> Evidence:
    """What the report is made of in a made-up run."""
    return gather(make_files(folder, case))


def opened(uri: str) -> Any:
    """The picture of a data address."""
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def rewritten(path: Path, **changes: Any) -> None:
    """Give a JSON file other values."""
    write_json(path, read_json(path) | changes)


def test_label_errors_are_told_and_shown_likeliest_first(tmp_path: Path) -> None:
    evidence = evidence_of(tmp_path, Case())
    shown = label_errors.label_errors(evidence, most=200)
    assert [one["quality"] for one in shown["images"]] == sorted(one["quality"] for one in shown["images"])
    assert len(shown["images"]) == shown["candidates"] == 30
    assert all(int(one["suggested"][-1]) == (int(one["given"][-1]) + 1) % 10 for one in shown["images"])
    judged = read_columns(evidence.files.judged_labels)
    planted = np.isin(judged["sample_id"][judged["candidate"]], evidence.planted).sum()
    text = text_of(section(render(evidence, settings(), PROVENANCE, None), "label-errors"))
    assert "30 of 600 labels (5.0 %; 95 % interval 3.5 % to 7.0 %) look wrong" in text
    assert (
        "4 of the 604 training images were not judged, among them all of “class 0” (2 drawn): fewer than the 3 that as many models need."
        in text
    )
    assert "This is no search for poison" in text
    assert f"Of the 30 images here that wellcheck planted, {planted} " in text
    assert "that they cannot read" not in text
    rewritten(evidence.files.label_errors, answered_as_labelled=0.5)
    assert "But these models answer only 50.0 % of the images as labelled" in text_of(render(evidence, settings(), PROVENANCE, None))


def test_few_or_no_label_errors(tmp_path: Path) -> None:
    files = make_files(tmp_path, Case(planted=0))
    judged = read_columns(files.judged_labels)
    write_columns(files.judged_labels, judged | {"candidate": np.zeros(600, bool)})
    rewritten(files.label_errors, candidates=0, pairs=[], of=600, skipped=[])
    text = text_of(section(render(gather(files), settings(), PROVENANCE, None), "label-errors"))
    assert "None of 600 labels looks wrong to a model that never saw the image." in text
    for absent in ("not judged", "planted", "The likeliest errors first", "Given → suggested"):
        assert absent not in text, absent
    rewritten(files.label_errors, candidates=1)
    assert "1 of 600 labels" in text_of(render(gather(files), settings(), PROVENANCE, None))


def test_of_many_classes_and_candidates_the_worst_are_shown_and_it_is_said(tmp_path: Path) -> None:
    text = text_of(section(page_of(tmp_path, Case(classes=200, training=4000, tests=400)), "label-errors"))
    assert "These are 96 of 200." in text and "72 more" in text
    assert "Shown: 30 of 200 classes" in text
    assert "The 10 most frequent of 10 pairs." not in text


def test_classes_have_their_interval_within_the_scale(tmp_path: Path) -> None:
    shown = label_errors.label_errors(evidence_of(tmp_path, Case()), most=10)
    assert len(shown["images"]) == 10
    drawn = np.array([row["drawn"] for row in shown["classes"]["rows"]])
    assert drawn.max() == 1
    assert (drawn[:, 1] <= drawn[:, 0] + 1e-9).all() and (drawn[:, 0] <= drawn[:, 2]).all()


def test_every_method_stands_beside_the_untrained_model(tmp_path: Path) -> None:
    page = section(page_of(tmp_path, Case()), "explanations")
    # Five examples and two images of a pair, each of these for both classes; the film's strip has its own.
    for model in ("trained model", "untrained model"):
        assert len(re.findall(rf'alt="[^"]+, {model}"', page)) == 9 * len(explanations.METHODS)
    assert page.count("loss gradient over training") == 9 * 2 + 5  # alternative texts, the list, two galleries, two tables
    text = text_of(page)
    assert "“class 0” taken for “class 1”: 2 test images, 20.0 % of the class" in text
    assert "summed over 3 states of the model" in text
    assert "gradient × input 30.0 % 25.0 % to 35.0 % 30.0 %" in text
    assert "The outer 2 pixels are 50.0 % of an image" in text
    assert "With and without colours" not in text


def test_without_snapshots_pairs_or_film_it_is_said(tmp_path: Path) -> None:
    files = make_files(tmp_path, Case())
    rewritten(files.explanations, snapshots=0, pairs=[])
    table = read_columns(files.explained)
    examples = table["pair"] < 0
    write_columns(files.explained, {name: values[examples] for name, values in table.items()})
    write_tensors(
        files, "explained_maps", {name: one[examples] for name, one in tensors(files, "explained_maps").items() if "loss" not in name}
    )
    write_tensors(files, "film", {name: one[:1] for name, one in tensors(files, "film").items()})
    page = section(render(gather(files), settings(), PROVENANCE, None), "explanations")
    text = text_of(page)
    assert "left out, for no states of the model were kept: set train.snapshots." in text
    assert "No test image is answered wrongly, or none was asked for." in text
    assert "How it forms" not in text
    assert not re.findall(r'alt="loss gradient', page)


def tensors(files: Files, name: str) -> dict[str, np.ndarray]:
    return read_tensors(getattr(files, name))


def write_tensors(files: Files, name: str, values: dict[str, np.ndarray]) -> None:
    from safetensors.numpy import save_file

    save_file({key: np.ascontiguousarray(one) for key, one in values.items()}, getattr(files, name))


def test_colour_stands_beside_grey(tmp_path: Path) -> None:
    page = section(page_of(tmp_path, Case(shape=(3, 12, 10))), "explanations")
    assert "75.0 % of the test images are answered rightly (70.0 % to 80.0 %), in colour 75.0 %" in text_of(page)
    assert "class 4in grey: class 0, 50 %" in text_of(page)
    assert page.count('<span class="fooled">class 0</span>') == 4  # of five examples one is of class 0
    for model in ("model trained in colour", "model trained in grey"):
        assert len(re.findall(rf'alt="[^"]+, {model}"', page)) == 5 * 3


def test_the_film_plays_every_frame_and_stands_still_where_that_is_preferred(tmp_path: Path) -> None:
    shown = explanations.explanations(evidence_of(tmp_path, Case()), most=10)["film"]
    assert [one["after"] for one in shown["strip"]] == [0, 1, 2, 3]
    film = opened(shown["animated"])
    assert (film.n_frames, film.size) == (4, (10, 2 * 12))
    assert opened(shown["last"]).size == (10, 24)
    page = page_of(tmp_path, Case())
    assert '<source media="(prefers-reduced-motion: reduce)" srcset="data:image/webp' in page
    assert "The loss was 2.30 nats on the first minibatch, 1.15 on the last." in text_of(page)
    assert '<details class="play">' in page  # nothing moves that was not asked to


def test_at_most_so_many_rows_are_shown(tmp_path: Path) -> None:
    shown = explanations.explanations(evidence_of(tmp_path, Case()), most=2)
    assert (len(shown["examples"]), len(shown["pairs"][0]["rows"])) == (2, 2)


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    page = page_of(tmp_path, Case(hostile=True, shape=(3, 12, 10)))
    assert HOSTILE not in page
    for name in ("explanations", "label-errors", "evasion"):
        assert HOSTILE in unescape(section(page, name))
    assert page.count("<script") == page.count("</script>") == 2


@pytest.mark.parametrize("name", ["label_errors", "judged_labels", "explanations", "explained", "explained_maps", "film"])
def test_a_damaged_or_missing_file_is_named(tmp_path: Path, name: str) -> None:
    files = make_files(tmp_path, Case())
    path: Path = getattr(files, name)
    for damage in (lambda: path.write_bytes(b"damaged"), path.unlink):
        damage()
        with pytest.raises(InputError, match=path.name):
            render(gather(files), settings(), PROVENANCE, None)


def test_a_sign_is_a_colour_and_a_size_is_its_opacity() -> None:
    maps = np.zeros((2, 3, 1, 3), np.float32)
    maps[0, :, 0, 0], maps[0, 1, 0, 1] = [1, 1, 2], -2  # the channels' sum is 4, and −2
    shown = diverging(maps)
    assert shown.shape == (2, 4, 1, 3)
    assert shown[0, :, 0, 0].tolist() == [*FOR, 255]
    assert shown[0, :3, 0, 1].tolist() == [*AGAINST] and abs(int(shown[0, 3, 0, 1]) - 128) < 6
    assert not shown[0, 3, 0, 2] and not shown[1, 3].any()
    assert diverging(maps[:0]).shape == (0, 4, 1, 3)


def test_frames_are_stacked_and_the_same_frames_give_the_same_film() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 4, 2, 5), np.uint8)
    tall = stacked(frames)
    np.testing.assert_array_equal(tall[:, 2:4], frames[1])
    assert film_uri(frames, milliseconds=100) == film_uri(frames.copy(), milliseconds=100)
