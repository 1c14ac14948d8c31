"""The embeddings file is plain safetensors in the order of the samples, whatever the pieces; what is missing is named."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from wellcheck import embeddings, samples
from wellcheck.embeddings import capture, creating
from wellcheck.embeddings.capture import HALF_RANGE, embed
from wellcheck.errors import InputError
from wellcheck.models import Classifier, ModelDescription, build
from wellcheck.params import LayerName
from wellcheck.samples import Samples

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
MakeSamples = Callable[..., Samples]
SHAPE = (1, 4, 4)
BOTH: list[LayerName] = ["pixels", "penultimate"]


def classifier_for(shape: tuple[int, int, int] = SHAPE) -> Classifier:
    return build(ModelDescription("residual_cnn", tuple("abc"), shape), seed=0)


def fill(path: Path, **arrays: np.ndarray) -> None:
    with creating(path, {name: (array.shape[0], array.shape[1]) for name, array in arrays.items()}) as targets:
        for name, array in arrays.items():
            targets[name][:] = array


# the file


def test_the_file_is_safetensors(tmp_path: Path) -> None:
    one, two = np.arange(15, dtype=np.float16).reshape(3, 5), -np.arange(6, dtype=np.float16).reshape(3, 2)
    fill(tmp_path / "a.safetensors", pixels=one, odd=two)
    found = load_file(tmp_path / "a.safetensors")
    assert set(found) == {"pixels", "odd"}
    for name, wanted in (("pixels", one), ("odd", two)):
        assert found[name].dtype == np.float16
        np.testing.assert_array_equal(found[name], wanted)
        np.testing.assert_array_equal(embeddings.read(tmp_path / "a.safetensors", name), wanted)
    content = (tmp_path / "a.safetensors").read_bytes()
    size = int.from_bytes(content[:8], "little")
    assert (8 + size) % 8 == 0 and len(content) == 8 + size + 2 * 21
    assert json.loads(content[8 : 8 + size])["odd"] == {"dtype": "F16", "shape": [3, 2], "data_offsets": [30, 42]}
    assert list(tmp_path.iterdir()) == [tmp_path / "a.safetensors"]


def test_it_can_be_filled_in_any_order(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((10, 3)).astype(np.float16)
    with creating(tmp_path / "a.safetensors", {"a": (10, 3), "b": (10, 3)}) as arrays:
        for row in (7, 2, 0, 9, 1, 3, 8, 4, 6, 5):
            arrays["b"][row], arrays["a"][row] = values[row], -values[row]
    fill(tmp_path / "b.safetensors", a=-values, b=values)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_layers_without_rows(tmp_path: Path) -> None:
    fill(tmp_path / "a.safetensors", a=np.empty((0, 3)), b=np.empty((0, 2)))
    assert embeddings.read(tmp_path / "a.safetensors", "b").shape == (0, 2)


def test_a_failing_body_leaves_nothing_behind(tmp_path: Path) -> None:
    fill(tmp_path / "old.safetensors", a=np.ones((2, 2)))
    before = (tmp_path / "old.safetensors").read_bytes()
    for name in ("old.safetensors", "new.safetensors"):
        with pytest.raises(KeyboardInterrupt), creating(tmp_path / name, {"a": (2, 2)}) as arrays:
            arrays["a"][:] = 5
            raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == [tmp_path / "old.safetensors"]
    assert (tmp_path / "old.safetensors").read_bytes() == before


def test_the_room_is_taken_before_the_first_number_is_written(tmp_path: Path) -> None:
    with creating(tmp_path / "a.safetensors", {"a": (1000, 1000)}) as arrays:
        (part,) = tmp_path.iterdir()
        assert part.stat().st_blocks * 512 >= arrays["a"].nbytes


def test_a_missing_layer_lists_those_there_are(tmp_path: Path) -> None:
    fill(tmp_path / "a.safetensors", pixels=np.ones((2, 2)), early=np.ones((2, 3)))
    with pytest.raises(InputError, match=r"a\.safetensors: no layer 'late'; it has (pixels, early|early, pixels): see embed\.layers"):
        embeddings.read(tmp_path / "a.safetensors", "late")
    assert embeddings.layers(tmp_path / "a.safetensors") == ["early", "pixels"]


@pytest.mark.parametrize("content", [None, b"", b"x" * 100, b"\x08" + bytes(7) + b"{}      "[:4]])
def test_an_unreadable_file_is_named(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "a.safetensors").write_bytes(content)
    readers: list[Callable[[Path], object]] = [embeddings.layers, lambda path: embeddings.read(path, "a")]
    for reader in readers:
        with pytest.raises(InputError, match=r"a\.safetensors: not a readable embeddings file"):
            reader(tmp_path / "a.safetensors")


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    fill(path, a=np.ones((20, 2)))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"a\.safetensors: not a readable embeddings file"):
        embeddings.read(path, "a")


def test_a_layer_is_mapped_and_not_read(tmp_path: Path) -> None:
    fill(tmp_path / "a.safetensors", a=np.ones((3, 2)), b=np.arange(6.0).reshape(3, 2))
    found = embeddings.read(tmp_path / "a.safetensors", "b")
    assert isinstance(found.base, np.memmap) and not found.flags.writeable
    assert found[[2, 0]].tolist() == [[4, 5], [0, 1]]


def test_a_layer_of_another_kind_is_named(tmp_path: Path) -> None:
    save_file({"a": np.ones((3, 2), np.float32), "b": np.ones(4, np.float16)}, tmp_path / "a.safetensors")
    for layer, told in (("a", r"F32 \[3, 2\]"), ("b", r"F16 \[4\]")):
        with pytest.raises(InputError, match=rf"a\.safetensors: layer '{layer}' is {told}, expected F16 \[N, D\]"):
            embeddings.read(tmp_path / "a.safetensors", layer)


# what is captured


@pytest.mark.parametrize(("shape", "width"), [((1, 20, 20), 32 * 2 * 2), ((3, 64, 70), 32 * 10 * 11), ((3, 28, 28), 32 * 4 * 4)])
def test_the_feature_map_is_the_deepest_and_at_most_4096_wide(
    shape: tuple[int, int, int], width: int, make_samples: MakeSamples, tmp_path: Path
) -> None:
    some, classifier = make_samples(5, shape=shape), build(ModelDescription("two_conv_cnn", tuple("abc"), shape), seed=0)
    samples.write(tmp_path / "train.parquet", some)
    every: list[LayerName] = ["pixels", "feature_map", "penultimate"]
    widths = embed(classifier, tmp_path / "train.parquet", tmp_path / "e.safetensors", layers=every, device=CPU, title="test")
    assert widths["feature_map"] == width <= 4096
    with torch.no_grad():
        wanted = classifier.eval().activations(torch.from_numpy(some.images)).feature_map
    found = embeddings.read(tmp_path / "e.safetensors", "feature_map")
    if wanted[0].numel() == width:
        np.testing.assert_allclose(found, wanted.flatten(1).numpy(), atol=2e-3)
    pooled = found.reshape(5, 32, -1).astype(np.float64).mean(2)  # averages over cells of almost one size keep the mean
    np.testing.assert_allclose(pooled, wanted.mean((2, 3)).numpy(), rtol=0.1, atol=5e-3)
    in_memory = capture.capture_all(classifier, some.images, layers=every, device=CPU)
    for layer in every:
        np.testing.assert_array_equal(in_memory[layer], embeddings.read(tmp_path / "e.safetensors", layer))


def test_a_map_of_many_channels_becomes_one_place() -> None:
    assert capture.pooled(torch.ones(2, 5000, 3, 3)).shape == (2, 5000)
    assert capture.pooled(torch.ones(2, 4096, 1, 1)).shape == (2, 4096)
    assert capture.pooled(torch.ones(2, 64, 8, 8)).shape == (2, 4096)


@pytest.mark.parametrize(("group_bytes", "batch"), [(2**25, 1024), (16 * 4, 3), (16 * 5, 1)])
def test_layers_in_the_order_of_the_samples(
    group_bytes: int, batch: int, make_samples: MakeSamples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "ROW_GROUP_BYTES", group_bytes)
    monkeypatch.setattr(capture, "BATCH", batch)
    whole, classifier = make_samples(13, first_id=50), classifier_for()
    samples.write(tmp_path / "train.parquet", whole)
    widths = embed(classifier, tmp_path / "train.parquet", tmp_path / "e.safetensors", layers=BOTH, device=CPU, title="test")
    assert widths == {"pixels": 16, "penultimate": 16}
    pixels = embeddings.read(tmp_path / "e.safetensors", "pixels")
    np.testing.assert_array_equal(pixels, (whole.images.reshape(13, 16) / 255).astype(np.float16))
    with torch.no_grad():
        wanted = classifier.eval().embed(torch.from_numpy(whole.images)).numpy()
    np.testing.assert_allclose(embeddings.read(tmp_path / "e.safetensors", "penultimate"), wanted, atol=2e-3)


@pytest.mark.parametrize("layers", [["pixels"], ["penultimate"], ["penultimate", "pixels"], ["pixels", "pixels"]])
def test_only_what_is_wanted(layers: list[LayerName], make_samples: MakeSamples, tmp_path: Path) -> None:
    samples.write(tmp_path / "train.parquet", make_samples(3))
    embed(classifier_for(), tmp_path / "train.parquet", tmp_path / "e.safetensors", layers=layers, device=CPU, title="test")
    assert embeddings.layers(tmp_path / "e.safetensors") == sorted(set(layers))


def test_values_beyond_the_half_range_are_clipped(make_samples: MakeSamples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = classifier_for()
    monkeypatch.setattr(classifier, "embed", lambda images: torch.tensor([[1e6, -1e30, 65519.0, 1.5]]).repeat(len(images), 1))
    samples.write(tmp_path / "train.parquet", make_samples(2))
    embed(classifier, tmp_path / "train.parquet", tmp_path / "e.safetensors", layers=["penultimate"], device=CPU, title="test")
    assert embeddings.read(tmp_path / "e.safetensors", "penultimate").tolist() == [[65504.0, -65504.0, 65504.0, 1.5]] * 2
    assert HALF_RANGE == 65504


def test_a_set_without_samples(make_samples: MakeSamples, tmp_path: Path) -> None:
    samples.write(tmp_path / "train.parquet", make_samples(0))
    widths = embed(classifier_for(), tmp_path / "train.parquet", tmp_path / "e.safetensors", layers=BOTH, device=CPU, title="test")
    assert widths == {"pixels": 16, "penultimate": 16}
    assert load_file(tmp_path / "e.safetensors")["penultimate"].shape == (0, 16)


def test_images_of_another_shape(make_samples: MakeSamples, tmp_path: Path) -> None:
    samples.write(tmp_path / "train.parquet", make_samples(3, shape=(3, 4, 4)))
    with pytest.raises(InputError, match=r"train\.parquet: images of \(3, 4, 4\), but the model was made for \(1, 4, 4\)"):
        embed(classifier_for(), tmp_path / "train.parquet", tmp_path / "e.safetensors", layers=BOTH, device=CPU, title="test")
    assert not (tmp_path / "e.safetensors").exists()


def test_the_same_bytes_every_time(make_samples: MakeSamples, tmp_path: Path) -> None:
    samples.write(tmp_path / "train.parquet", make_samples(20))
    for name in ("a", "b"):
        embed(classifier_for(), tmp_path / "train.parquet", tmp_path / name, layers=BOTH, device=CPU, title="test")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
