"""Layers by name and pattern: what they are called, how they are numbered, and that they are what the network computes."""

from pathlib import Path

import numpy as np
import pytest
import torch

from wellcheck import embeddings
from wellcheck.embeddings.capture import capture
from wellcheck.embeddings.named_layers import capture_layers, choose_layers, layer_names
from wellcheck.errors import InputError
from wellcheck.models import Classifier, ModelDescription, build

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")


def network(name: str, side: int = 32) -> Classifier:
    classifier = build(ModelDescription(name, ("a", "b", "c"), (3, side, side)), seed=0)
    return classifier.eval()


def noise(count: int, side: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 3, side, side), np.uint8)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("two_conv_cnn", 3),
        ("deep_cnn", 7),
        ("resnet20", 19),
        ("resnet18", 17),
        ("torchvision/resnet18", 17),
        ("residual_cnn", 2),
        ("torchvision/googlenet", 57),
    ],
)
def test_activations_are_numbered_in_the_order_they_come(name: str, count: int) -> None:
    found = choose_layers(network(name), ["activation_.*"], CPU)
    assert found == [f"activation_{place}" for place in range(1, count + 1)]


def test_activations_that_are_called_as_functions_are_what_they_return() -> None:
    classifier, images = network("residual_cnn"), noise(4)
    found = capture_layers(classifier, images, ["widen", "activation_1", "activation_2"], pooling="flattened", device=CPU, title="t").layers
    np.testing.assert_allclose(found["activation_1"], 1 / (1 + np.exp(-found["widen"].astype(np.float32))), atol=1e-3)
    assert found["activation_2"].shape == (4, 3 * 32 * 32)


def test_names_and_patterns() -> None:
    classifier = network("torchvision/resnet18")
    names = layer_names(classifier, CPU)
    assert names[0] == "pixels" and names[-3:] == ["penultimate", "confidence", "alignment"] and len(set(names)) == len(names)
    assert choose_layers(classifier, [".*avgpool", "penultimate"], CPU) == ["trunk.avgpool", "penultimate"]
    assert choose_layers(classifier, ["penultimate", r".*layer4\.\d", "pixels"], CPU) == [
        "pixels",
        "trunk.layer4.0",
        "trunk.layer4.1",
        "penultimate",
    ]
    with pytest.raises(
        InputError,
        match=r"'avg' matches none of torchvision/resnet18's layers: pixels, trunk.conv1, .*, penultimate, confidence, alignment$",
    ):
        choose_layers(classifier, ["penultimate", "avg"], CPU)
    with pytest.raises(InputError, match=r"'\(' is no regular expression"):
        choose_layers(classifier, ["("], CPU)


def test_layers_are_what_the_network_computes_though_the_next_one_works_in_place() -> None:
    classifier, images = network("torchvision/resnet18"), noise(5)
    trunk = classifier.network.body.get_submodule("trunk")
    layers = choose_layers(classifier, ["pixels", r"trunk\.(bn1|relu|layer1\.0|avgpool)", "activation_(1|3|17)", "penultimate"], CPU)
    found = capture_layers(classifier, images, layers, pooling="flattened", device=CPU, title="t").layers
    with torch.inference_mode():
        first = trunk.get_submodule("conv1")(torch.from_numpy(images).float() / 255)
        normed = trunk.get_submodule("bn1")(first)
    assert (found["trunk.bn1"] < 0).any()
    np.testing.assert_allclose(found["trunk.bn1"], normed.flatten(1).numpy(), atol=1e-2)
    np.testing.assert_allclose(found["activation_1"], normed.relu().flatten(1).numpy(), atol=1e-2)
    np.testing.assert_array_equal(found["activation_3"], found["trunk.layer1.0"])
    np.testing.assert_array_equal(found["trunk.avgpool"], found["penultimate"])
    np.testing.assert_allclose(found["pixels"], images.reshape(5, -1) / 255, atol=1e-3)
    assert found["activation_17"].shape == (5, 512)


def test_pooled_layers_are_the_channels_means() -> None:
    classifier, images = network("deep_cnn"), noise(4)
    flat, pooled = (
        capture_layers(classifier, images, ["pixels", "activation_3", "penultimate"], pooling=pooling, device=CPU, title="t").layers
        for pooling in ("flattened", "pooled")
    )
    assert pooled["pixels"].shape == (4, 3) and pooled["activation_3"].shape == (4, 32)
    np.testing.assert_allclose(pooled["activation_3"], flat["activation_3"].reshape(4, 32, -1).mean(2, dtype=np.float32), atol=2e-3)
    np.testing.assert_array_equal(pooled["penultimate"], flat["penultimate"])


def test_tokens_are_averaged() -> None:
    """Of a transformer whose maps have their channels last."""
    classifier = network("torchvision/swin_t")
    assert capture_layers(classifier, noise(2), ["trunk.features.1.0.attn"], pooling="pooled", device=CPU, title="t").layers[
        "trunk.features.1.0.attn"
    ].shape == (2, 96)


def test_bytes_and_shares_of_white_are_the_same_and_answers_come_along() -> None:
    classifier, images = network("two_conv_cnn"), noise(9)
    one, other = (
        capture_layers(classifier, some, ["activation_2", "penultimate"], pooling="pooled", device=CPU, title="t")
        for some in (images, (images / 255).astype(np.float32))
    )
    for name, values in one.layers.items():
        np.testing.assert_allclose(values, other.layers[name], rtol=2e-3, atol=1e-4)
    known = capture(classifier, images, ["penultimate"], CPU)["penultimate"]
    np.testing.assert_allclose(one.layers["penultimate"], known, rtol=2e-3, atol=1e-4)
    with torch.inference_mode():
        np.testing.assert_array_equal(one.labels, classifier(torch.from_numpy(images)).argmax(1).numpy())


def test_a_file_holds_them_whatever_their_size(tmp_path: Path) -> None:
    classifier, images, path = network("two_conv_cnn"), noise(1100), tmp_path / "layers.safetensors"
    written = capture_layers(classifier, images, ["activation_1", "penultimate"], pooling="pooled", device=CPU, title="t", target=path)
    whole = capture_layers(classifier, images, ["activation_1", "penultimate"], pooling="pooled", device=CPU, title="t")
    np.testing.assert_array_equal(written.labels, whole.labels)
    for name in whole.layers:
        mapped = embeddings.read(path, name)
        np.testing.assert_array_equal(mapped, whole.layers[name])
        np.testing.assert_array_equal(written.layers[name], mapped)


def test_confidence_is_the_probabilities_from_the_largest_on() -> None:
    classifier = network("two_conv_cnn")
    images = np.random.default_rng(0).integers(0, 256, (9, *classifier.description.input_shape)).astype(np.uint8)
    found = capture_layers(classifier, images, ["confidence"], pooling="pooled", device=CPU, title="t")
    with torch.inference_mode():
        probabilities = classifier(torch.from_numpy(images)).softmax(1)
    np.testing.assert_allclose(found.layers["confidence"], -np.sort(-probabilities.numpy(), 1), atol=1e-3)
    np.testing.assert_array_equal(found.labels, probabilities.argmax(1))
