"""Architectures against arithmetic done by hand, and model folders that are whole, readable and never pickled."""

import ast
import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from wellcheck import models
from wellcheck.errors import InputError
from wellcheck.models import ARCHITECTURES, Classifier, ModelDescription, build, device_name, pick_device, storage
from wellcheck.models.network import Network
from wellcheck.models.torchvision_classifier import _try
from wellcheck.params import ModelName

pytestmark = pytest.mark.usefixtures("one_thread")

SOURCES = Path(__file__).parents[1]
TEN = tuple("0123456789")
HISTORY: storage.History = [
    {"epoch": 0, "train_loss": 0.1 + 0.2, "train_accuracy": 0.5, "valid_loss": None, "valid_accuracy": None},
    {"epoch": 1, "train_loss": 1e-17, "train_accuracy": 1.0, "valid_loss": None, "valid_accuracy": None},
]


def description(architecture: ModelName, shape: tuple[int, int, int] = (1, 16, 16), names: tuple[str, ...] = TEN) -> ModelDescription:
    return ModelDescription(architecture, names, shape)


def random_images(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, np.uint8))


def assert_close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    # torch.testing's own takes seconds to import.
    np.testing.assert_allclose(found.numpy(), wanted.numpy(), rtol=1e-5, atol=1e-6)


# The least side of an image, by hand: what is left of it after unpadded convolutions and poolings must be a pixel.
LEAST: dict[ModelName, int] = {
    "alexnet_small": 5,
    "deep_cnn": 4,
    "residual_cnn": 1,
    "resnet18": 1,
    "resnet20": 1,
    "two_conv_cnn": 16,
    "torchvision/mnasnet0_5": 1,  # a small one, whose weights have a version
}
architectures = pytest.mark.parametrize("architecture", list(LEAST))


# architectures


@pytest.mark.parametrize(
    ("architecture", "shape", "classes", "parameters", "width"),
    [
        # conv 1→8 and 8→1, 5×5, and a linear layer on the image: the article's 8,259.
        ("residual_cnn", (1, 28, 28), 10, (8 * 25 + 8) + (8 * 25 + 1) + (784 * 10 + 10), 784),
        ("residual_cnn", (3, 32, 32), 10, (3 * 8 * 25 + 8) + (8 * 3 * 25 + 3) + (3072 * 10 + 10), 3072),
        ("residual_cnn", (1, 4, 6), 2, (8 * 25 + 8) + (8 * 25 + 1) + (24 * 2 + 2), 24),
        # 28 → 24 → 12 → 8 → 4: 32·4·4 = 512 features, as the article has it.
        ("two_conv_cnn", (1, 28, 28), 10, (16 * 25 + 16) + (16 * 32 * 25 + 32) + (512 * 512 + 512) + (512 * 10 + 10), 512),
        ("two_conv_cnn", (3, 32, 32), 5, (3 * 16 * 25 + 16) + (16 * 32 * 25 + 32) + (800 * 512 + 512) + (512 * 5 + 5), 512),
        ("two_conv_cnn", (1, 16, 21), 2, (16 * 25 + 16) + (16 * 32 * 25 + 32) + (64 * 512 + 512) + (512 * 2 + 2), 512),
        # 28 → 14 → 7: the article's 180,000 or so.
        ("deep_cnn", (1, 28, 28), 10, 320 + 2 * 9_248 + 18_496 + 3 * 36_928 + (64 * 49 * 10 + 10), 64 * 49),
        ("deep_cnn", (3, 9, 4), 2, (3 * 32 * 9 + 32) + 2 * 9_248 + 18_496 + 3 * 36_928 + (64 * 2 * 2 + 2), 64 * 2),
        # 28 → 14 → 6: AlexNet's own 9,216 values before the hidden layers.
        (
            "alexnet_small",
            (1, 28, 28),
            10,
            (64 * 25 + 64)
            + (64 * 192 * 25 + 192)
            + (192 * 384 * 9 + 384)
            + (384 * 256 * 9 + 256)
            + (256 * 256 * 9 + 256)
            + (9_216 * 1024 + 1024)
            + (1024 * 1024 + 1024)
            + (1024 * 10 + 10),
            1024,
        ),
        # The paper's table 6 has 0.27 million; ours are 2,752 more, of the two projections and their batch norms.
        ("resnet20", (3, 32, 32), 10, 269_722 + (16 * 32 + 64) + (32 * 64 + 128), 64),
        ("resnet18", (3, 32, 32), 10, 11_173_962, 512),
        ("resnet18", (1, 5, 9), 10, 11_173_962 - 2 * 64 * 9, 512),
        ("torchvision/mnasnet0_5", (1, 28, 28), 10, 2_218_512 - 990 * 1281, 1280),  # with its own 1,000 classes less 990
    ],
)
def test_parameters_and_widths(architecture: ModelName, shape: tuple[int, int, int], classes: int, parameters: int, width: int) -> None:
    classifier = build(description(architecture, shape, TEN[:classes]), seed=0)
    assert sum(tensor.numel() for tensor in classifier.parameters()) == parameters
    images = random_images(3, *shape)
    assert classifier(images).shape == (3, classes)
    assert classifier.embed(images).shape == (3, width)


@pytest.mark.parametrize(
    ("architecture", "least", "most"), [("residual_cnn", 8_259, 8_259), ("deep_cnn", 179_466, 179_466), ("alexnet_small", 1e7, 2e7)]
)
def test_the_articles_counts(architecture: ModelName, least: float, most: float) -> None:
    classifier = build(description(architecture, (1, 28, 28)), seed=0)
    assert least <= sum(tensor.numel() for tensor in classifier.parameters()) <= most


def zeroed(architecture: ModelName, shape: tuple[int, int, int], classes: int = 2) -> Classifier:
    classifier = build(description(architecture, shape, TEN[:classes]), seed=0)
    with torch.no_grad():
        for tensor in classifier.parameters():
            tensor.zero_()
    return classifier


@torch.no_grad()
def test_the_residual_network_by_hand() -> None:
    classifier = zeroed("residual_cnn", (1, 2, 2))
    images = torch.tensor([[[[0, 51], [102, 255]]]], dtype=torch.uint8)
    # Without weights each convolution gives 0 and each sigmoid 1/2: the image plus a half.
    assert_close(classifier.embed(images), torch.tensor([[0.5, 0.7, 0.9, 1.5]]))
    # A bias b on the last convolution adds sigmoid(b); a weight w of its centre adds w/2 for each of the 8 channels before.
    body: Any = classifier.network.body
    body.narrow.bias.fill_(1.0)
    body.narrow.weight[0, 0, 2, 2] = 4.0
    change = 1 / (1 + math.exp(-3))
    assert_close(classifier.embed(images), torch.tensor([[0, 0.2, 0.4, 1]]) + change)
    linear: Any = classifier.network.get_submodule("head.0")
    linear.weight[1] = torch.tensor([1.0, 0, 0, -1])
    assert_close(classifier(images), torch.tensor([[0.5, 1 / (1 + math.e)]]))  # sigmoids of 0 and of -1


def test_the_residual_networks_loss_has_the_floor_that_is_told() -> None:
    best = torch.tensor([[1.0] + [0.0] * 9])  # sigmoids at their ends
    assert nn.functional.cross_entropy(best, torch.tensor([0])).item() == pytest.approx(math.log(1 + 9 / math.e), abs=1e-6)
    assert math.log(1 + 9 / math.e) == pytest.approx(1.461, abs=5e-4)


@torch.no_grad()
def test_the_two_convolutions_by_hand() -> None:
    classifier = zeroed("two_conv_cnn", (1, 16, 16))
    body: Any = classifier.network.body
    body[0].weight[0, 0, 2, 2] = 1.0  # hand the image on, less two pixels a side
    body[3].weight[0, 0, 2, 2] = 1.0
    body[7].weight[0, 0] = 2.0
    body[7].bias[1] = -1.0  # the ReLU cuts it off
    images = random_images(5, 1, 16, 16)
    # One cell is left: the largest of rows and columns 6 to 9.
    wanted = 2 * images[:, 0, 6:10, 6:10].amax((1, 2)).float() / 255
    features = classifier.embed(images)
    assert_close(features[:, 0], wanted)
    assert features[:, 1:].eq(0).all()
    head: Any = classifier.network.head
    head.weight[1, 0] = -3.0
    assert_close(classifier(images), torch.stack([torch.zeros(5), -3 * wanted], 1))


@torch.no_grad()
def test_the_deep_network_by_hand() -> None:
    classifier = zeroed("deep_cnn", (1, 8, 12))
    for convolution in (module for module in classifier.network.body.modules() if isinstance(module, nn.Conv2d)):
        convolution.weight[0, 0, 1, 1] = 1.0  # hand the image on as it is
    images = random_images(5, 1, 8, 12)
    wanted = images[:, 0].unfold(1, 4, 4).unfold(2, 4, 4).amax((3, 4)).float().flatten(1) / 255  # the largest of every 4×4 pixels
    features = classifier.embed(images)
    assert_close(features[:, :6], wanted)
    assert features[:, 6:].eq(0).all()


@torch.no_grad()
def test_the_small_alexnet_by_hand() -> None:
    classifier = zeroed("alexnet_small", (1, 5, 9)).eval()
    body: Any = classifier.network.body
    for convolution in (module for module in body if isinstance(module, nn.Conv2d)):
        middle = convolution.kernel_size[0] // 2
        convolution.weight[0, 0, middle, middle] = 1.0
    body[13].weight[0, :2] = torch.tensor([1.0, 2.0])
    body[16].weight[3, 0] = 1.0
    images = random_images(5, 1, 5, 9)
    seen = images[:, 0, ::2, ::2].float() / 255  # [5, 3, 5], of which the pooling takes columns 0 to 2 and 2 to 4
    features = classifier.embed(images)
    assert_close(features[:, 3], seen[:, :, :3].amax((1, 2)) + 2 * seen[:, :, 2:].amax((1, 2)))
    assert features[:, [0, 1, 2, 4]].eq(0).all()


@torch.no_grad()
def test_the_residual_blocks_by_hand() -> None:
    classifier = zeroed("resnet20", (1, 8, 8)).eval()
    body: Any = classifier.network.body
    body[0].weight[0, 0, 1, 1] = 1.0
    body[1].weight[0] = 1.0
    for block in body[3:12]:
        if not isinstance(block.shortcut, nn.Identity):
            block.shortcut[0].weight[0, 0] = 1.0
            block.shortcut[1].weight[0] = 1.0
    images = random_images(5, 1, 8, 8)
    # Nothing is changed on the way; twice every second row and column goes through, and the mean of what is left comes out.
    normed = (1 + 1e-5) ** -0.5  # a fresh batch norm in evaluation mode
    wanted = images[:, 0, ::4, ::4].float().mean((1, 2)) / 255 * normed**3
    assert_close(classifier.embed(images)[:, 0], wanted)
    # Now the last block's two convolutions add what they make of it, and a negative sum is cut off.
    last: Any = body[11].change
    last[0].weight[0, 0, 1, 1] = last[3].weight[0, 0, 1, 1] = last[1].weight[0] = 1.0
    for scale, factor in ((2.0, 1 + 2 * normed**2), (-2.0, 0.0)):
        last[4].weight[0] = scale
        assert_close(classifier.embed(images)[:, 0], wanted * factor)


@pytest.mark.parametrize(("shape", "fits"), [((1, 16, 16), True), ((1, 15, 16), False), ((3, 16, 15), False), ((1, 4, 4), False)])
def test_an_image_can_be_too_small_for_two_convolutions(shape: tuple[int, int, int], fits: bool) -> None:
    if fits:
        assert build(description("two_conv_cnn", shape), seed=0)(random_images(1, *shape)).shape == (1, 10)
        return
    with pytest.raises(InputError) as caught:
        build(description("two_conv_cnn", shape), seed=0)
    told = f"train.model: two_conv_cnn cannot take images of {shape}: "
    assert str(caught.value).startswith(told) and "at least 16×16 pixels, found" in str(caught.value)


def check_size(architecture: ModelName, shape: tuple[int, int, int]) -> None:
    """It is taken, and two such images can be learnt from and looked into, or it is refused in one sentence."""
    if min(shape[1:]) < LEAST[architecture]:
        with pytest.raises(InputError) as caught:
            build(description(architecture, shape), seed=0)
        assert str(caught.value).startswith(f"train.model: {architecture} cannot take images of {shape}: ")
        return
    classifier = build(description(architecture, shape, TEN[:3]), seed=0)
    nn.functional.cross_entropy(classifier(random_images(2, *shape)), torch.tensor([0, 2])).backward()
    assert all(tensor.grad is None or tensor.grad.isfinite().all() for tensor in classifier.parameters())
    with torch.no_grad():
        seen = classifier.eval().activations(random_images(2, *shape))
    assert seen.logits.shape == (2, 3) and seen.logits.isfinite().all()
    assert len(seen.feature_map) == 2 and seen.feature_map.ndim == 4
    assert seen.feature_map[0, 0].numel() > 1 or shape[1:] == (1, 1), "there were layers with more cells"
    assert seen.penultimate.ndim == 2


@architectures
@pytest.mark.parametrize("colours", [1, 3])
def test_sizes_at_the_edge_of_what_an_architecture_takes(architecture: ModelName, colours: int) -> None:
    least = LEAST[architecture]
    for height, width in ((1, 1), (least, least), (least, least + 5), (least + 2, least), (least - 1, 40), (40, least - 1), (17, 19)):
        if min(height, width) > 0:
            check_size(architecture, (colours, height, width))


@given(st.sampled_from(sorted({*ARCHITECTURES} - {"resnet18"})), st.sampled_from([1, 3]), st.integers(1, 20), st.integers(1, 20))
def test_any_size_is_taken_or_refused(architecture: ModelName, colours: int, height: int, width: int) -> None:
    check_size(architecture, (colours, height, width))


# torchvision's


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("resnet5", "torchvision has no classifier 'resnet5', did you mean 'resnet"),
        ("zzz", "torchvision has no classifier 'zzz'"),
        ("fcn_resnet50", "torchvision has no classifier 'fcn_resnet50', did you mean "),  # it is there, but segments
        ("squeezenet1_1", "torchvision's squeezenet1_1 does not end in a linear layer"),
        ("densenet121", r"torchvision/densenet121 cannot take images of \(1, 28, 28\): Given input size: \(512x1x1\)"),
    ],
)
def test_a_classifier_that_torchvision_cannot_give_is_named(name: str, told: str) -> None:
    with pytest.raises(InputError, match=f"^train.model: {told}"):
        build(description(f"torchvision/{name}", (1, 28, 28)), seed=0)


@pytest.mark.parametrize("error", [RuntimeError("kernel\n too large"), AssertionError("kernel  too large")])
def test_what_torchvision_says_to_a_size_is_one_line(error: Exception) -> None:
    class Refusing(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            raise error

    with pytest.raises(ValueError, match=r"^kernel too large$"):
        _try(Network(Refusing(), nn.Identity()), (1, 4, 4))


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "googlenet"])
@pytest.mark.parametrize("colours", [1, 3])
@torch.no_grad()
def test_body_and_head_are_torchvisions_classifier(name: str, colours: int) -> None:
    classifier = build(description(f"torchvision/{name}", (colours, 32, 40), TEN[:4]), seed=0)
    assert classifier.training and classifier(random_images(2, colours, 32, 40)).shape == (2, 4)  # googlenet: no second output
    classifier.eval()
    extra = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    whole = torchvision.models.get_model(name, weights=None, num_classes=4, **extra).eval()
    body: Any = classifier.network.body
    whole.load_state_dict(body.trunk.state_dict() | {f"fc.{key}": value for key, value in classifier.network.head.state_dict().items()})
    images = random_images(2, colours, 32, 40).float() / 255
    assert_close(classifier(images), whole(images.repeat(1, 3 // colours, 1, 1)))


def test_unknown_torchvision_models_in_a_folder_are_named(folder: Path) -> None:
    path = folder / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"architecture": "torchvision/resnet5"}))
    with pytest.raises(InputError, match=r"model\.json: torchvision has no classifier 'resnet5'"):
        storage.load(folder)


# the classifier


@architectures
@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 20, 17)])
@torch.no_grad()
def test_bytes_and_shares_give_the_same_answer(architecture: ModelName, shape: tuple[int, int, int]) -> None:
    classifier = build(description(architecture, shape), seed=0).eval()
    images = random_images(4, *shape)
    before = images.clone()
    shares = images.float() / 255
    assert torch.equal(classifier(images), classifier(shares))
    assert torch.equal(classifier(shares), classifier(shares.contiguous(memory_format=torch.channels_last)))
    assert torch.equal(images, before) and torch.equal(shares, before.float() / 255)
    assert_close(classifier(images), classifier.network.get_submodule("head")(classifier.embed(images)))


@torch.no_grad()
def test_normalisation_lives_inside() -> None:
    plain = build(ModelDescription("two_conv_cnn", TEN, (1, 16, 16)), seed=0)
    normalising = build(ModelDescription("two_conv_cnn", TEN, (1, 16, 16), mean=0.25, std=0.5), seed=0)
    images = random_images(4, 1, 16, 16)
    assert_close(normalising(images), plain((images.float() / 255 - 0.25) / 0.5))


@architectures
def test_gradients_reach_the_image(architecture: ModelName) -> None:
    images = (random_images(2, 1, 16, 16).float() / 255).requires_grad_()
    build(description(architecture), seed=0).eval()(images).sum().backward()
    assert images.grad is not None and images.grad.shape == images.shape and images.grad.dtype == torch.float32
    assert images.grad.isfinite().all() and images.grad.ne(0).any()


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 64, 64)])
def test_an_untrained_deep_network_still_tells_images_apart(shape: tuple[int, int, int]) -> None:
    seen: list[float] = []

    def spread(name: str, module: nn.Module, output: torch.Tensor) -> None:
        if isinstance(module, nn.ReLU):
            seen.append(float(output.std(0).mean()))

    with torch.inference_mode():
        build(description("deep_cnn", shape), seed=0).watched(random_images(16, *shape), spread)
    assert len(seen) == 7 and min(seen) > 0.25 * max(seen)  # PyTorch's own start leaves a hundredth


@architectures
def test_the_seed_decides_the_weights_and_nothing_else(architecture: ModelName) -> None:
    torch.manual_seed(123)
    wanted = torch.rand(3)
    torch.manual_seed(123)
    first = build(description(architecture), seed=5)
    assert torch.equal(torch.rand(3), wanted), "the caller's random numbers were disturbed"
    again, other = (build(description(architecture), seed=seed) for seed in (5, 6))
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
        constant = tensor.eq(0).all() or tensor.eq(1).all()  # batch norm's, and torchvision's biases
        assert torch.equal(tensor, other.state_dict()[name]) == constant


# devices


def test_the_device_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for present in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda present=present: present)
        assert pick_device("cpu") == torch.device("cpu")
        assert pick_device("auto") == torch.device("cuda" if present else "cpu")
    assert pick_device("cuda") == torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"^device: found 'cuda', but PyTorch sees no CUDA device here"):
        pick_device("cuda")


def test_the_name_of_a_cpu_tells_its_threads() -> None:
    assert device_name(torch.device("cpu")) == f"CPU, {torch.get_num_threads()} threads"


# model folders


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    storage.save(tmp_path / "model", build(description("two_conv_cnn"), seed=1), HISTORY)
    return tmp_path / "model"


@architectures
@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 18, 16)])
@torch.no_grad()
def test_a_model_comes_back_as_it_was(architecture: ModelName, shape: tuple[int, int, int], tmp_path: Path) -> None:
    classifier = build(ModelDescription(architecture, ("é", "b c"), shape, mean=0.1, std=0.3), seed=1)
    storage.save(tmp_path / "a", classifier, HISTORY)
    again = storage.load(tmp_path / "a")
    assert again.description == classifier.description and not again.training
    images = random_images(3, *shape)
    assert torch.equal(again(images), classifier.eval()(images))
    storage.save(tmp_path / "b", again, HISTORY)
    for name in ("model.safetensors", "model.json", "history.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_model_folder_holds_three_plain_files(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["history.csv", "model.json", "model.safetensors"]
    assert json.loads((folder / "model.json").read_text()) == {
        "architecture": "two_conv_cnn",
        "class_names": list(TEN),
        "input_shape": [1, 16, 16],
        "mean": 0.0,
        "std": 1.0,
    }
    content = (folder / "model.safetensors").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert header["network.head.weight"]["shape"] == [10, 512] and header["network.head.weight"]["dtype"] == "F32"
    with (folder / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0] == {"epoch": "0", "train_loss": str(0.1 + 0.2), "train_accuracy": "0.5", "valid_loss": "", "valid_accuracy": ""}
    assert float(rows[1]["train_loss"]) == 1e-17


def test_early_losses_come_back_and_may_be_absent(tmp_path: Path) -> None:
    classifier, losses = build(description("two_conv_cnn"), seed=1), np.arange(6, dtype=np.float16).reshape(2, 3)
    for name, kept in (("with", losses), ("none", None), ("no epochs", losses[:0])):
        storage.save(tmp_path / name, classifier, HISTORY, kept)
    found = storage.load_early_losses(tmp_path / "with")
    assert found is not None and found.dtype == np.float16
    np.testing.assert_array_equal(found, losses)
    assert storage.load_early_losses(tmp_path / "none") is None and storage.load_early_losses(tmp_path / "no epochs") is None
    assert storage.load(tmp_path / "with").description == classifier.description
    (tmp_path / "with" / "early_losses.safetensors").write_bytes(b"x")
    with pytest.raises(InputError, match=r"early_losses\.safetensors: not readable"):
        storage.load_early_losses(tmp_path / "with")


def test_snapshots_come_back_and_may_be_absent(tmp_path: Path) -> None:
    states = {epoch: build(description("torchvision/mnasnet0_5"), seed=epoch) for epoch in (10, 2)}
    kept: storage.Snapshots = [(epoch, classifier.state_dict()) for epoch, classifier in states.items()]
    for name, snapshots in (("with", kept), ("none", None), ("no epochs", [])):
        storage.save(tmp_path / name, states[10], HISTORY, snapshots=snapshots)
    assert storage.load_snapshots(tmp_path / "none") == storage.load_snapshots(tmp_path / "no epochs") == []
    found = storage.load_snapshots(tmp_path / "with")
    assert [epoch for epoch, _ in found] == [2, 10]
    for epoch, classifier in found:
        assert not classifier.training and classifier.description == states[epoch].description
        assert classifier.state_dict().keys() == states[epoch].state_dict().keys()
        assert all(torch.equal(tensor, classifier.state_dict()[name]) for name, tensor in states[epoch].state_dict().items())


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda tensors: {}, None),
        (lambda tensors: {"early": next(iter(tensors.values()))}, "found the tensor 'early', expected '<epoch>/<name>'"),
        (lambda tensors: {f"-{name}": tensor for name, tensor in tensors.items()}, "found the tensor '-0/"),
        (lambda tensors: dict(list(tensors.items())[1:]), "not the weights of two_conv_cnn: Missing key"),
        (lambda tensors: {**tensors, "0/network.head.bias": torch.zeros(3)}, "not the weights of two_conv_cnn: size mismatch"),
        (lambda tensors: b"x", "not readable"),
    ],
)
def test_damaged_snapshots_are_named(damage: Callable[[dict[str, torch.Tensor]], Any], told: str | None, tmp_path: Path) -> None:
    classifier = build(description("two_conv_cnn"), seed=1)
    storage.save(tmp_path / "m", classifier, HISTORY, snapshots=[(0, classifier.state_dict())])
    path = tmp_path / "m" / "snapshots.safetensors"
    damaged = damage(load_file(path))
    path.write_bytes(damaged) if isinstance(damaged, bytes) else storage.write_state(path, damaged)
    if told is None:
        assert storage.load_snapshots(tmp_path / "m") == []
        return
    with pytest.raises(InputError, match=f"snapshots.safetensors: {told}"):
        storage.load_snapshots(tmp_path / "m")


def test_activations_are_what_the_layers_give() -> None:
    images = torch.randint(0, 256, (5, 3, 20, 24), dtype=torch.uint8)
    depths: dict[ModelName, int] = {"two_conv_cnn": 6, "residual_cnn": 0, "deep_cnn": 16, "alexnet_small": 11, "resnet20": 12}
    for name, depth in depths.items():
        classifier = build(ModelDescription(name, ("a", "b"), (3, 20, 24)), seed=0).eval()
        body: Any = classifier.network.body
        with torch.no_grad():
            found = classifier.activations(images)
            assert torch.equal(found.logits, classifier(images)) and torch.equal(found.penultimate, classifier.embed(images))
            pixels = images.float() / 255
            wanted = body[:depth](pixels) if depth else body.narrow(torch.sigmoid(body.widen(pixels)))
        torch.testing.assert_close(found.feature_map, wanted)
        assert not any(module._forward_hooks for module in classifier.modules())


@torch.no_grad()
def test_one_cell_is_a_map_only_where_there_was_no_other() -> None:
    images = random_images(2, 1, 16, 16)
    classifier = build(description("two_conv_cnn"), seed=1)  # 16 → 12 → 6 → 2 → 1
    body: Any = classifier.network.body
    torch.testing.assert_close(classifier.activations(images).feature_map, body[:5](images / 255))
    single = build(description("resnet20", (1, 1, 1)), seed=1).eval()
    body = single.network.body
    torch.testing.assert_close(single.activations(images[:, :, :1, :1]).feature_map, body[:-1](images[:, :, :1, :1] / 255))


@torch.no_grad()
def test_channels_that_come_last_are_put_first() -> None:
    classifier = build(description("two_conv_cnn"), seed=1)
    wide = nn.Conv2d(1, 6, kernel_size=4, stride=4)
    to_last, to_first = torchvision.ops.Permute([0, 2, 3, 1]), torchvision.ops.Permute([0, 3, 1, 2])
    images = random_images(2, 1, 16, 16)
    for ends in ([nn.LayerNorm(6)], [nn.LayerNorm(6), to_first, nn.AdaptiveAvgPool2d(1)]):
        classifier.network.body = nn.Sequential(wide, to_last, *ends, nn.Flatten())
        classifier.network.head = nn.Identity()
        wanted = nn.LayerNorm(6)(wide(images / 255).movedim(1, -1)).movedim(-1, 1)
        torch.testing.assert_close(classifier.activations(images).feature_map, wanted)


def test_a_body_without_a_map_is_named() -> None:
    classifier = build(description("two_conv_cnn"), seed=1)
    classifier.network.body = nn.Flatten()
    with pytest.raises(InputError, match="two_conv_cnn: no layer of its body has an output"):
        classifier.activations(torch.zeros(2, *classifier.description.input_shape))


def test_nothing_here_pickles() -> None:
    banned_modules, banned_calls = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}, {"torch.load", "torch.save", "np.save"}
    for path in [*SOURCES.glob("src/**/*.py"), *SOURCES.glob("stages/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert not banned_modules & {alias.name.partition(".")[0] for alias in node.names}, path
            if isinstance(node, ast.ImportFrom):
                assert (node.module or "").partition(".")[0] not in banned_modules, path
            if isinstance(node, ast.Attribute):
                assert ast.unparse(node) not in banned_calls, path
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert ast.unparse(node.value) == "False", path


def test_a_new_model_takes_the_place_of_the_old(folder: Path) -> None:
    (folder / "stale.txt").write_text("x")
    storage.save(folder, build(description("residual_cnn"), seed=1), HISTORY)
    assert storage.load(folder).description.architecture == "residual_cnn"
    assert not (folder / "stale.txt").exists()


def test_a_failing_save_keeps_the_old_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    before = (folder / "model.safetensors").read_bytes()
    monkeypatch.setattr(storage, "write_json", fail)
    with pytest.raises(OSError, match="No space left"):
        storage.save(folder, build(description("residual_cnn"), seed=1), HISTORY)
    assert (folder / "model.safetensors").read_bytes() == before
    assert list(folder.parent.iterdir()) == [folder]


def test_others_may_read_the_weights_as_they_may_read_the_rest(folder: Path) -> None:
    modes = {path.name: path.stat().st_mode for path in folder.iterdir()}
    assert modes["model.safetensors"] == modes["model.json"]


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_a_missing_file_is_named(name: str, folder: Path) -> None:
    (folder / name).unlink()
    with pytest.raises(InputError, match=name):
        storage.load(folder)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent/model\.json: not found"):
        storage.load(tmp_path / "absent")


@pytest.mark.parametrize(
    "damage", [lambda content: content[:-1], lambda content: b"", lambda content: b"x" * 500, lambda content: content[9:]]
)
def test_damaged_weights_are_named(damage: Callable[[bytes], bytes], folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(damage(weights.read_bytes()))
    with pytest.raises(InputError, match=r"model\.safetensors: not readable \("):
        storage.load(folder)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"architecture": "vgg"}, r"model\.json: architecture: Input should be 'alexnet_small', "),
        ({"architecture": 3}, r"model\.json: architecture: Input should be a valid string"),
        ({"class_names": None}, r"model\.json: class_names: "),
        ({"input_shape": [1, 16]}, r"model\.json: input_shape\.2: Field required"),
        ({"mean": "bright"}, r"model\.json: mean: "),
        ({"class_names": ["a", "b"]}, r"model\.safetensors: not the weights of two_conv_cnn"),
        ({"input_shape": [3, 16, 16]}, r"model\.safetensors: not the weights of two_conv_cnn"),
        ({"architecture": "residual_cnn"}, r"model\.safetensors: not the weights of residual_cnn"),
        ({"input_shape": [1, 4, 4]}, r"model\.json: .*at least 16×16"),
    ],
)
def test_a_description_that_does_not_fit_is_named(change: dict[str, Any], told: str, folder: Path) -> None:
    path = folder / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=told):
        storage.load(folder)


@pytest.mark.parametrize("text", ["", "[]", "{", "null"])
def test_a_description_that_is_none(text: str, folder: Path) -> None:
    (folder / "model.json").write_text(text)
    with pytest.raises(InputError, match=r"model\.json: "):
        storage.load(folder)


def test_the_registry_builds_what_it_names() -> None:
    for name in models.ARCHITECTURES:
        assert name in LEAST
        assert build(description(name, (3, 32, 32)), seed=0).description.architecture == name
