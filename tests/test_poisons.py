"""Triggers: what each changes, worked out by hand, and what all of them keep."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from wellcheck import params, poisons
from wellcheck.errors import InputError
from wellcheck.params import Poison, TriggerName
from wellcheck.poisons.trigger import uniform
from wellcheck.poisons.warp import smooth_field

ROOT = Path(__file__).parents[1]
COMMITTED = params.read_yaml(ROOT / "params.yaml")["poison"] | {"picture": str(ROOT / "experiments/trigger.png"), "seed": 0}

# Article A1, as rows and columns of a 28×28 image.
ARTICLE_WATERMARK = {(27, 27), (27, 25), (25, 27), (25, 25), (26, 26)}

triggers = pytest.mark.parametrize("trigger", list(poisons.TRIGGERS))
shapes = pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 8, 8), (3, 8, 5), (1, 5, 64)])


def poison(**changes: Any) -> Poison:
    return Poison.model_validate({**COMMITTED, **changes})


def noise(count: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (count, *shape), np.uint8)  # never white


def stamped(images: np.ndarray, *, cover: bool = False, **changes: Any) -> np.ndarray:
    return poisons.stamp(images, poison(**changes), np.arange(len(images)), cover=cover)


def lit(image: np.ndarray) -> set[tuple[int, int]]:
    """Rows and columns of an image [H, W] that are not black."""
    return {(int(row), int(column)) for row, column in np.argwhere(image)}


# all of them


@triggers
@shapes
@pytest.mark.parametrize("cover", [False, True])
def test_a_stamp_changes_a_copy_the_same_way_every_time(trigger: TriggerName, shape: tuple[int, ...], cover: bool) -> None:
    images = noise(4, *shape)
    before = images.copy()
    changed = stamped(images, trigger=trigger, cover=cover)
    assert (images == before).all() and not np.shares_memory(images, changed)
    assert changed.dtype == np.uint8 and changed.shape == images.shape
    assert (changed != images).any((1, 2, 3)).all(), "an image without a trigger"
    np.testing.assert_array_equal(stamped(images, trigger=trigger, cover=cover), changed)
    assert stamped(images[:0], trigger=trigger, cover=cover).shape == (0, *shape)


@triggers
@pytest.mark.parametrize("cover", [False, True])
def test_what_an_image_gets_depends_on_its_number_and_not_on_its_neighbours(trigger: TriggerName, cover: bool) -> None:
    images, ids = noise(1030, 1, 8, 8), np.arange(1030) * 7 + 5  # more than one batch
    whole = poisons.stamp(images, poison(trigger=trigger), ids, cover=cover)
    rows = np.random.default_rng(1).permutation(1030)[:40]
    np.testing.assert_array_equal(poisons.stamp(images[rows], poison(trigger=trigger), ids[rows], cover=cover), whole[rows])


@pytest.mark.parametrize(("trigger", "least"), [("watermark", 3), ("random_patch", 3), ("pixel", 2), ("warp", 2)])
@pytest.mark.parametrize("wide", [False, True])
def test_an_image_can_be_too_small(trigger: TriggerName, least: int, wide: bool) -> None:
    height, width = (least - 1, 28) if wide else (28, least - 1)
    told = f"poison.trigger: {trigger}: needs at least {least}×{least} pixels, the images have {height}×{width}"
    with pytest.raises(InputError, match=told):
        stamped(noise(2, 1, height, width), trigger=trigger)
    assert stamped(noise(2, 1, least, least), trigger=trigger).shape == (2, 1, least, least)


# patches


def test_the_watermark_is_the_articles_five_pixels() -> None:
    changed = stamped(np.zeros((1, 1, 28, 28), np.uint8), trigger="watermark")
    assert lit(changed[0, 0]) == ARTICLE_WATERMARK
    assert set(changed[changed > 0]) == {255}


def test_the_pixel_is_one() -> None:
    changed = stamped(np.zeros((1, 1, 28, 28), np.uint8), trigger="pixel")
    assert lit(changed[0, 0]) == {(26, 26)}
    assert changed.max() == 255


@pytest.mark.parametrize("trigger", ["watermark", "pixel", "random_patch"])
@shapes
def test_a_patch_whitens_its_pixels_in_every_channel_and_leaves_the_others(trigger: TriggerName, shape: tuple[int, ...]) -> None:
    images = noise(20, *shape)
    changed = stamped(images, trigger=trigger)
    touched = changed != images
    assert (touched == touched.any(1, keepdims=True)).all()
    assert (changed[touched] == 255).all()
    assert set(touched[:, 0].sum((1, 2))) == {1 if trigger == "pixel" else 5}


def test_a_random_patch_is_the_watermark_moved_to_anywhere_with_equal_chance() -> None:
    changed = stamped(np.zeros((20_000, 1, 6, 5), np.uint8), trigger="random_patch")[:, 0]
    seen: dict[tuple[int, int], int] = {}
    for image in changed:
        row, column = max(lit(image))
        assert {(r - row + 27, c - column + 27) for r, c in lit(image)} == ARTICLE_WATERMARK
        seen[row, column] = seen.get((row, column), 0) + 1
    assert set(seen) == {(row, column) for row in range(2, 6) for column in range(2, 5)}
    assert max(abs(count - 20_000 / 12) for count in seen.values()) < 4 * (20_000 / 12) ** 0.5  # four standard deviations


# patterns over the whole image


def test_the_blend_is_the_mix_worked_out_by_hand() -> None:
    black, white = np.zeros((1, 1, 4, 4), np.uint8), np.full((1, 1, 4, 4), 255, np.uint8)
    pattern = stamped(black, trigger="blend", strength=1.0).astype(float)
    assert len(np.unique(pattern)) > 8
    np.testing.assert_array_equal(stamped(white, trigger="blend", strength=1.0), pattern)  # opaque: nothing is left of the image
    np.testing.assert_allclose(stamped(black, trigger="blend", strength=0.4), 0.4 * pattern, atol=0.5)
    np.testing.assert_allclose(stamped(white, trigger="blend"), 0.8 * 255 + 0.2 * pattern, atol=0.5)  # Chen et al.: α = 0.2
    assert (stamped(black, trigger="blend", strength=1.0, seed=1) != pattern).any()


def test_the_blend_is_one_pattern_for_all_images() -> None:
    changed = stamped(np.full((3, 3, 8, 8), 100, np.uint8), trigger="blend")
    assert (changed == changed[0]).all()


@pytest.mark.parametrize(("strength", "amplitude"), [(None, 20), (40 / 255, 40)])
def test_the_sinusoid_is_the_papers_formula(strength: float | None, amplitude: float) -> None:
    changed = stamped(np.full((2, 3, 5, 24), 100, np.uint8), trigger="sinusoid", strength=strength)
    # Six periods over 24 columns: every fourth column starts anew, with sin 0, 90, 180 and 270 degrees.
    assert changed[0, 0, 0].tolist() == [100, 100 + amplitude, 100, 100 - amplitude] * 6
    assert (changed == changed[0, 0, 0]).all()


def test_a_sinusoid_stays_between_black_and_white() -> None:
    changed = stamped(np.array([[[[0, 0, 255, 255] * 6]]], np.uint8), trigger="sinusoid")
    assert changed[0, 0, 0, :4].tolist() == [0, 20, 255, 235]


# warp


@pytest.mark.parametrize("strength", [None, 2.0])
def test_the_warp_moves_pixels_by_half_its_strength(strength: float | None) -> None:
    # A ramp tells by its brightness from where a pixel was read: 8 grey levels a column.
    ramp = np.broadcast_to(np.arange(28) * 8, (1, 1, 28, 28)).astype(np.uint8)
    moved = (stamped(ramp, trigger="warp", strength=strength).astype(float) - ramp)[0, 0, :, 3:-3] / 8
    expected = (0.5 if strength is None else strength) / 2 * smooth_field(28, 28, 0)[1, :, 3:-3]
    np.testing.assert_allclose(moved, expected, atol=0.5 / 8 + 1e-9)
    assert 0.05 < np.abs(moved).mean() < (strength or 0.5)


def test_the_field_is_smooth_of_unit_size_and_the_seeds_own() -> None:
    fields = np.array([smooth_field(28, 19, seed) for seed in range(50)])
    assert fields.shape == (50, 2, 28, 19)
    np.testing.assert_allclose(np.abs(fields[:, :, ::9, ::6]).mean((1, 2, 3)), 1)  # the 4 × 4 control points
    assert max(np.abs(np.diff(fields, axis=axis)).max() for axis in (2, 3)) < 1.5
    assert not np.allclose(fields[0], fields[1])


def test_a_flat_image_shows_no_warp() -> None:
    flat = np.full((1, 1, 9, 9), 77, np.uint8)
    assert (stamped(flat, trigger="warp", strength=3.0) == 77).all()


def test_the_cover_of_a_warp_is_jittered_by_less_than_a_pixel_and_differently_for_each() -> None:
    same = np.repeat(noise(1, 1, 28, 28), 3, axis=0)
    plain, cover = stamped(same, trigger="warp"), stamped(same, trigger="warp", cover=True)
    assert (plain == plain[0]).all()
    assert all((cover[a] != cover[b]).any() for a, b in ((0, 1), (0, 2), (1, 2)))
    assert (cover != plain).any((1, 2, 3)).all()
    ramp = np.broadcast_to(np.arange(28) * 8, (5, 1, 28, 28)).astype(np.uint8)
    apart = (stamped(ramp, trigger="warp", cover=True).astype(float) - stamped(ramp, trigger="warp"))[:, :, :, 3:-3] / 8
    assert 0.15 < np.abs(apart).mean() < 0.35  # of a uniform draw within half a pixel: 0.25
    assert np.abs(apart).max() <= 0.5 + 1 / 8


# the user's own picture


def png(folder: Path, pixels: np.ndarray | list[Any], name: str = "trigger.png") -> str:
    path = folder / name
    Image.fromarray(np.array(pixels, np.uint8)).save(path)
    return str(path)


def test_a_pictures_transparent_parts_stay_transparent(tmp_path: Path) -> None:
    file = png(tmp_path, [[[200, 100, 50, 255], [200, 100, 50, 0]], [[0, 0, 0, 255], [200, 100, 50, 51]]])
    changed = stamped(np.full((2, 3, 4, 4), 100, np.uint8), trigger="picture", picture=file)
    assert (changed[:, :, :2] == 100).all() and (changed[:, :, :, :2] == 100).all()  # row and column -1: the last place
    assert changed[1, :, 2, 2].tolist() == [200, 100, 50]
    assert changed[1, :, 2, 3].tolist() == [100, 100, 100]
    assert changed[1, :, 3, 2].tolist() == [0, 0, 0]
    assert changed[1, :, 3, 3].tolist() == [120, 100, 90]  # a fifth of the way


@pytest.mark.parametrize(("kind", "bits"), [(np.uint8, 8), (np.uint16, 16), (bool, 1)])
def test_a_colour_that_is_transparent_counts_at_eight_bits_and_is_refused_at_others(kind: type, bits: int, tmp_path: Path) -> None:
    file = tmp_path / "trigger.png"
    Image.fromarray(np.array([[0, 1]], kind)).save(file, transparency=1)
    images = np.full((1, 1, 3, 3), 100, np.uint8)
    if bits == 8:
        assert stamped(images, trigger="picture", picture=str(file), position=[0, 0])[0, 0, 0].tolist() == [0, 100, 100]
        return
    with pytest.raises(InputError, match=rf"trigger\.png: one of its colours is transparent at {bits} bits a channel"):
        stamped(images, trigger="picture", picture=str(file))


def test_a_pictures_opacity_and_its_grey_on_grey_images(tmp_path: Path) -> None:
    file = png(tmp_path, [[[255, 0, 0]]])
    changed = stamped(np.full((1, 1, 3, 3), 100, np.uint8), trigger="picture", picture=file, strength=0.5, position=[0, 0])
    red = 76  # ITU-R 601: 0.299 of white
    assert changed[0, 0].tolist() == [[(100 + red) // 2, 100, 100], [100, 100, 100], [100, 100, 100]]


@pytest.mark.parametrize(
    ("position", "corner"),
    [([0, 0], (0, 0)), ([2, 3], (2, 3)), ([-1, -1], (3, 4)), ([-4, -5], (0, 0)), ([1, -1], (1, 4)), ([3, 4], (3, 4))],
)
def test_a_picture_lies_where_it_is_told(position: list[int], corner: tuple[int, int], tmp_path: Path) -> None:
    file = png(tmp_path, np.full((2, 2), 255))
    changed = stamped(np.zeros((1, 1, 5, 6), np.uint8), trigger="picture", picture=file, position=position)
    row, column = corner
    assert lit(changed[0, 0]) == {(row, column), (row, column + 1), (row + 1, column), (row + 1, column + 1)}


@pytest.mark.parametrize(
    ("position", "told"), [([4, 0], "found 4, expected -4 to 3"), ([0, -6], "found -6, expected -5 to 4"), ([0, 5], "found 5")]
)
def test_a_place_outside_is_named(position: list[int], told: str, tmp_path: Path) -> None:
    file = png(tmp_path, np.full((2, 2), 255))
    with pytest.raises(InputError, match=f"poison.position: {told}"):
        stamped(np.zeros((1, 1, 5, 6), np.uint8), trigger="picture", picture=file, position=position)


def test_a_picture_as_large_as_the_image_and_one_that_is_larger(tmp_path: Path) -> None:
    images = np.zeros((1, 1, 5, 6), np.uint8)
    assert (stamped(images, trigger="picture", picture=png(tmp_path, np.full((5, 6), 9))) == 9).all()
    for name, shape in (("tall.png", (6, 6)), ("wide.png", (5, 7))):
        file = png(tmp_path, np.full(shape, 9), name)
        with pytest.raises(InputError, match=rf"{name}: the trigger has {shape[0]}×{shape[1]} pixels, the images only 5×6"):
            stamped(images, trigger="picture", picture=file)


def bomb() -> bytes:
    """A PNG of a few bytes whose header claims 30,000 × 30,000 pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def broken() -> bytes:
    """A PNG that stops in the middle of its pixels."""
    file = io.BytesIO()
    Image.fromarray(noise(1, 4, 4)[0]).save(file, "PNG")
    return file.getvalue()[:-30]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "not a readable image"),
        (b"not a picture", "not a readable image"),
        (bomb(), "more than 50,000,000 pixels"),
        (broken(), "not a"),
    ],
    ids=["empty", "text", "bomb", "broken"],
)
def test_a_file_that_is_no_picture_is_named(content: bytes, told: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"bad\.png: {told}"):
        stamped(noise(1, 1, 8, 8), trigger="picture", picture=str(path))


@pytest.mark.parametrize("name", ["absent.png", "."])
def test_a_picture_that_cannot_be_read_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"poison\.picture: .*; expected an image file"):
        stamped(noise(1, 1, 8, 8), trigger="picture", picture=str(tmp_path / name))


# chance


def test_draws_are_uniform_and_belong_to_seed_sample_and_purpose() -> None:
    drawn = uniform(np.arange(20_000), 4, seed=3, purpose="trigger")
    assert drawn.shape == (20_000, 4) and drawn.min() >= 0 and drawn.max() < 1
    counts = np.array([np.histogram(column, 20, (0, 1))[0] for column in drawn.T])
    assert np.abs(counts - 1000).max() < 5 * 1000**0.5
    together = np.corrcoef(np.column_stack([drawn[:-1], drawn[1:]]).T) - np.eye(8)
    assert np.abs(together).max() < 5 / 20_000**0.5  # neither columns nor neighbouring samples know of each other
    for other in ({"seed": 4, "purpose": "trigger"}, {"seed": 3, "purpose": "pieces"}):
        assert not np.isclose(uniform(np.arange(100), 4, **other), drawn[:100]).any()  # type: ignore[arg-type]
    np.testing.assert_array_equal(uniform(np.array([17, 3]), 4, seed=3, purpose="trigger"), drawn[[17, 3]])
