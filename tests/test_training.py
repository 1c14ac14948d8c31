"""The loop: learns, gives the same bytes, goes on after a kill as if nothing had been, and says so when it diverges."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from wellcheck import training
from wellcheck.errors import InputError
from wellcheck.models import Classifier, ModelDescription, build
from wellcheck.models.storage import History
from wellcheck.params import Train
from wellcheck.samples import Samples
from wellcheck.training import Trained, checkpoint_name, train

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
MakeSamples = Callable[..., Samples]
SMALL = (1, 6, 6)


def recipe(**changes: Any) -> Train:
    sizes = {"epochs": 4, "batch_size": 16, "early_epochs": 2, "snapshots": 0}
    ways = {"learning_rate": 0.01, "precision": "float32", "augment": False, "schedule": "constant"}
    return Train.model_validate({"model": "residual_cnn", "seed": 0} | sizes | ways | changes)


@pytest.fixture
def sets(make_samples: MakeSamples) -> tuple[Samples, Samples]:
    """45 training and 12 valid images of 6×6 in three classes that differ in brightness."""
    return make_samples(45, shape=SMALL), make_samples(12, shape=SMALL, seed=1)


def run(sets: tuple[Samples, Samples], checkpoint: Path, **changes: Any) -> tuple[Classifier, History, float]:
    trained = run_whole(sets, checkpoint, **changes)
    return trained.classifier, trained.history, trained.seconds


def run_whole(sets: tuple[Samples, Samples], checkpoint: Path, **changes: Any) -> Trained:
    return train(*sets, recipe(**changes), device=CPU, checkpoint=checkpoint, title="test")


def weights(classifier: Classifier) -> dict[str, bytes]:
    return {name: tensor.contiguous().numpy().tobytes() for name, tensor in classifier.state_dict().items()}


def states(trained: Trained) -> list[tuple[int, dict[str, bytes]]]:
    return [(epoch, {name: tensor.numpy().tobytes() for name, tensor in kept.items()}) for epoch, kept in trained.snapshots]


def initial(some: Samples, **changes: Any) -> Classifier:
    """The classifier as it is before the first step."""
    shape = some.images.shape[1:]
    description = ModelDescription(recipe(**changes).model, some.description.class_names, (shape[0], shape[1], shape[2]))
    return build(description, seed=recipe(**changes).seed)


@torch.no_grad()
def figures(classifier: Classifier, some: Samples) -> tuple[float, float]:
    """Loss and accuracy over a whole set at once."""
    logits, labels = classifier(torch.from_numpy(some.images)), torch.from_numpy(some.labels)
    return nn.functional.cross_entropy(logits, labels).item(), (logits.argmax(1) == labels).float().mean().item()


def interrupt_in(monkeypatch: pytest.MonkeyPatch, epoch: int) -> None:
    """Save after every epoch, and let a Ctrl-C come at the end of this one, before it is saved."""

    @contextmanager
    def progress(title: str, total: int, unit: str = "", *, done: int = 0) -> Iterator[Callable[..., None]]:
        at = done

        def advance(steps: int = 1, note: str = "") -> None:
            nonlocal at
            if at == epoch:
                raise KeyboardInterrupt
            at += steps

        yield advance

    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", -1.0)
    monkeypatch.setattr(training, "progress", progress)


# learning


@pytest.mark.parametrize(
    ("model", "shape", "epochs", "learning_rate"), [("residual_cnn", SMALL, 20, 0.03), ("two_conv_cnn", (1, 16, 16), 10, 0.003)]
)
def test_it_learns(
    model: str, shape: tuple[int, int, int], epochs: int, learning_rate: float, make_samples: MakeSamples, tmp_path: Path
) -> None:
    some = make_samples(60, shape=shape), make_samples(30, shape=shape, seed=1)
    classifier, history, seconds = run(some, tmp_path / "a.safetensors", model=model, epochs=epochs, learning_rate=learning_rate)
    assert [row["epoch"] for row in history] == list(range(epochs))
    first, last = history[0], history[-1]
    assert first["train_loss"] is not None and last["train_loss"] is not None
    assert last["train_loss"] < 0.9 * first["train_loss"]
    assert last["valid_accuracy"] is not None and last["valid_accuracy"] > 0.9  # three classes: chance is a third
    assert not classifier.training and seconds > 0


@pytest.mark.parametrize("batch_size", [7, 45, 1000])
def test_every_sample_is_seen_once_an_epoch(batch_size: int, sets: tuple[Samples, Samples], tmp_path: Path) -> None:
    # With steps too small to move a weight, every epoch's figures are those of the fresh classifier over the whole set.
    _, history, _ = run(sets, tmp_path / "a.safetensors", learning_rate=1e-30, batch_size=batch_size)
    loss, accuracy = figures(initial(sets[0]), sets[0])
    for row in history:
        assert row["train_loss"] == pytest.approx(loss, rel=1e-5)
        assert row["train_accuracy"] == pytest.approx(accuracy, abs=1e-7)


def test_the_valid_figures_are_those_of_the_classifier_that_is_returned(
    sets: tuple[Samples, Samples], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "EVALUATION_BATCH", 5)
    classifier, history, _ = run(sets, tmp_path / "a.safetensors")
    loss, accuracy = figures(classifier, sets[1])
    assert history[-1]["valid_loss"] == pytest.approx(loss, rel=1e-5)
    assert history[-1]["valid_accuracy"] == pytest.approx(accuracy, abs=1e-7)


@pytest.mark.parametrize(
    ("schedule", "rates"),
    # Steps in the middles of thirds, of which the peak at 1/5 lies in the first: 1/6 / 1/5 would be the way up, (1 - x) / 4/5 the way down.
    [("constant", (0.01, 0.01, 0.01)), ("one_cycle", (0.01 * 5 / 6, 0.01 * 5 / 8, 0.01 * 5 / 24))],
)
def test_the_steps_are_those_of_adam(schedule: str, rates: tuple[float, ...], sets: tuple[Samples, Samples], tmp_path: Path) -> None:
    # Whole batches, so that the order does not matter; weights by Kingma and Ba's formulas, written out.
    classifier, _, _ = run(sets, tmp_path / "a.safetensors", epochs=3, batch_size=45, schedule=schedule)
    wanted = initial(sets[0])
    images, labels = torch.from_numpy(sets[0].images), torch.from_numpy(sets[0].labels)
    moments = {name: (torch.zeros_like(tensor), torch.zeros_like(tensor)) for name, tensor in wanted.named_parameters()}
    for step, rate in enumerate(rates, 1):
        wanted.zero_grad()
        nn.functional.cross_entropy(wanted(images), labels).backward()
        for name, tensor in wanted.named_parameters():
            assert tensor.grad is not None
            first, second = moments[name]
            first.mul_(0.9).add_(0.1 * tensor.grad)
            second.mul_(0.999).add_(0.001 * tensor.grad**2)
            tensor.data -= rate * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
    for name, tensor in wanted.state_dict().items():
        np.testing.assert_allclose(classifier.state_dict()[name].numpy(), tensor.numpy(), rtol=1e-3, atol=1e-5)


def test_the_order_changes_with_seed_and_epoch() -> None:
    orders = [tuple(training._order(30, recipe(seed=seed), epoch).tolist()) for seed in (0, 1, 2**32 - 1) for epoch in (0, 1)]
    assert len(set(orders)) == 6
    assert all(sorted(order) == list(range(30)) for order in orders)


def test_the_learning_rate_rises_and_falls_in_lines() -> None:
    shares = [training.rate_share(step, 10, recipe(schedule="one_cycle")) for step in range(10)]
    assert shares == pytest.approx([0.25, 0.75, 0.9375, 0.8125, 0.6875, 0.5625, 0.4375, 0.3125, 0.1875, 0.0625])
    for steps in (1, 2, 7, 1000):
        shares = [training.rate_share(step, steps, recipe(schedule="one_cycle")) for step in range(steps)]
        assert all(0 < share <= 1 for share in shares)
        assert {training.rate_share(step, steps, recipe()) for step in range(steps)} == {1.0}
    assert max(range(1000), key=shares.__getitem__) in (199, 200) and np.mean(shares) == pytest.approx(0.5, abs=1e-3)


def test_the_learning_rate_goes_on_from_epoch_to_epoch(sets: tuple[Samples, Samples]) -> None:
    settings = recipe(schedule="one_cycle", epochs=2, batch_size=20)  # 45 images: 3 steps an epoch
    state = training.begin(sets[0], settings, CPU)
    for epoch, last in ((1, 5), (0, 2)):  # whatever was done before
        training.run_epoch(state, *training.to_device(sets[0], CPU), settings, epoch)
        assert state.optimizer.param_groups[0]["lr"] == 0.01 * training.rate_share(last, 6, settings)


@pytest.mark.parametrize(
    ("count", "batch_size", "sizes"),
    [(33, 16, [16, 17]), (34, 16, [16, 16, 2]), (32, 16, [16, 16]), (17, 16, [17]), (1, 16, [1]), (3, 1, [1, 1, 1]), (3, 2, [3])],
)
def test_no_image_is_left_alone(count: int, batch_size: int, sizes: list[int]) -> None:
    batches = training._batches(count, recipe(batch_size=batch_size), 3, CPU)
    assert [len(batch) for batch in batches] == sizes
    assert torch.equal(torch.cat(batches), training._order(count, recipe(), 3))


@pytest.mark.parametrize("batch_size", [16, 1])
def test_one_image_at_a_time_will_do_where_nothing_is_normalised(batch_size: int, make_samples: MakeSamples, tmp_path: Path) -> None:
    lonely = make_samples(1, shape=(1, 4, 4)), make_samples(3, shape=(1, 4, 4))
    for model in ("residual_cnn", "deep_cnn"):
        assert len(run(lonely, tmp_path / f"{model}.safetensors", model=model, batch_size=batch_size)[1]) == 4
    # Its last stage has one pixel of 4×4: one value of each channel, which batch norm would turn into zero.
    with pytest.raises(
        InputError, match=r"^train\.batch_size: resnet20 cannot be trained on one image of this size at a time: Expected more"
    ):
        run(lonely, tmp_path / "resnet20.safetensors", model="resnet20", batch_size=batch_size)
    some = make_samples(5, shape=(1, 4, 4)), lonely[1]
    assert len(run(some, tmp_path / "five.safetensors", model="resnet20", batch_size=4)[1]) == 4


def test_another_mistake_of_a_network_is_no_input_error(sets: tuple[Samples, Samples], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(images: torch.Tensor) -> torch.Tensor:
        raise ValueError("something else")

    state = training.begin(sets[0], recipe(), CPU)
    monkeypatch.setattr(state.classifier, "forward", fail)
    with pytest.raises(ValueError, match="something else"):
        training.run_epoch(state, *training.to_device(sets[0], CPU), recipe(), 0)


def test_without_a_valid_part_its_figures_are_none(sets: tuple[Samples, Samples], tmp_path: Path) -> None:
    nothing = sets[1].take(np.empty(0, np.int64))
    _, history, _ = run((sets[0], nothing), tmp_path / "a.safetensors")
    assert {(row["valid_loss"], row["valid_accuracy"]) for row in history} == {(None, None)}


def test_bfloat16_runs_and_keeps_float32_weights(sets: tuple[Samples, Samples], tmp_path: Path) -> None:
    classifier, history, _ = run(sets, tmp_path / "a.safetensors", precision="bfloat16")
    assert {tensor.dtype for tensor in classifier.state_dict().values()} == {torch.float32}
    exact, reference, _ = run(sets, tmp_path / "b.safetensors", precision="float32")
    assert weights(classifier) != weights(exact)
    assert history[-1]["train_loss"] == pytest.approx(reference[-1]["train_loss"], rel=0.05)
    assert history != reference


def test_automatic_precision(sets: tuple[Samples, Samples], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (run(sets, tmp_path / f"{precision}.safetensors", precision=precision)[0] for precision in ("auto", "float32"))
    assert weights(first) == weights(second)
    asked: list[tuple[object, ...]] = []
    monkeypatch.setattr(torch, "autocast", lambda *arguments: asked.append(arguments))
    for precision, device in (("auto", "cuda"), ("auto", "cpu"), ("float32", "cuda"), ("bfloat16", "cpu")):
        training.autocast(recipe(precision=precision), torch.device(device))
    assert asked == [("cuda", torch.bfloat16), ("cpu", torch.bfloat16)]


# augmentation


def test_what_a_shift_makes_of_an_axis() -> None:
    # The edge itself is not repeated: what lies beyond 4 is 3.
    assert training._moved(5, torch.tensor([-2, 0, 1])).tolist() == [[2, 1, 0, 1, 2], [0, 1, 2, 3, 4], [1, 2, 3, 4, 3]]
    assert training._moved(1, torch.tensor([0, 0])).tolist() == [[0], [0]]


@pytest.mark.parametrize("shape", [(1, 16, 9), (3, 8, 17), (3, 7, 4), (1, 1, 1)])
def test_augmented_images_are_mirrored_and_shifted_ones(shape: tuple[int, int, int], make_samples: MakeSamples) -> None:
    some = make_samples(300, shape=shape)
    images, _ = training.to_device(some, CPU)
    settings = recipe(augment=True, batch_size=64)
    batches = training._batches(300, settings, 0, CPU)
    rows, columns = shape[1] // 8, shape[2] // 8
    padded = np.pad(some.images, ((0, 0), (0, 0), (rows, rows), (columns, columns)), mode="reflect")
    ways: set[tuple[int, int, bool]] = set()
    for batch, shown in zip(batches, training._augmented(images, batches, settings, 0), strict=True):
        assert shown.dtype == torch.uint8 and shown.is_contiguous(memory_format=torch.channels_last)
        for row, image in zip(batch.tolist(), shown.numpy(), strict=True):
            found = {
                (down, right, mirrored)
                for down in range(2 * rows + 1)
                for right in range(2 * columns + 1)
                for mirrored in (False, True)
                if np.array_equal(image, padded[row, :, down : down + shape[1], right : right + shape[2]][..., :: -1 if mirrored else 1])
            }
            assert found
            ways |= found
    assert len(ways) == (2 * rows + 1) * (2 * columns + 1) * 2, "not every way was gone"


def test_images_are_augmented_anew_in_every_batch_and_epoch(make_samples: MakeSamples) -> None:
    same = make_samples(1, shape=(1, 24, 24)).take(np.zeros(300, np.int64))
    images, _ = training.to_device(same, CPU)
    settings = recipe(augment=True, batch_size=100)
    batches = training._batches(300, settings, 0, CPU)

    def drawn(epoch: int, **changes: Any) -> list[bytes]:
        return [part.numpy().tobytes() for part in training._augmented(images, batches, recipe(augment=True, **changes), epoch)]

    assert drawn(0) == drawn(0)
    assert len({*drawn(0), *drawn(1), *drawn(0, seed=1)}) == 9
    for batch in training._augmented(images, batches, settings, 0):
        assert len(np.unique(batch.numpy(), axis=0)) > 30  # of 98 ways


def test_the_valid_figures_and_early_losses_are_those_of_images_as_they_are(make_samples: MakeSamples, tmp_path: Path) -> None:
    sets = make_samples(45, shape=(1, 8, 16)), make_samples(12, shape=(1, 8, 16), seed=1)
    plain, augmented = (run_whole(sets, tmp_path / f"{augment}", learning_rate=1e-30, augment=augment) for augment in (False, True))
    np.testing.assert_array_equal(augmented.early_losses, plain.early_losses)
    assert [row["valid_loss"] for row in augmented.history] == [row["valid_loss"] for row in plain.history]
    seen = [row["train_loss"] for row in augmented.history]
    assert len(set(seen)) == 4 and not set(seen) & {row["train_loss"] for row in plain.history}


@pytest.mark.parametrize(("model", "epochs", "learning_rate"), [("two_conv_cnn", 20, 0.003), ("resnet20", 8, 0.02)])
def test_it_learns_from_augmented_images(model: str, epochs: int, learning_rate: float, make_samples: MakeSamples, tmp_path: Path) -> None:
    sets = make_samples(60, shape=(3, 16, 17)), make_samples(30, shape=(3, 16, 17), seed=1)
    ways: dict[str, Any] = {"augment": True, "schedule": "one_cycle", "epochs": epochs, "learning_rate": learning_rate}
    _, history, _ = run(sets, tmp_path / "a.safetensors", model=model, **ways)
    assert history[-1]["valid_accuracy"] is not None and history[-1]["valid_accuracy"] > 0.9


# the same bytes

ANYTHING_GOES = {"augment": True, "schedule": "one_cycle", "snapshots": 3}  # all that is random, or hangs on the step, at once
VARIETY = pytest.mark.parametrize(
    ("model", "shape", "ways"),
    [
        ("residual_cnn", SMALL, {}),
        ("two_conv_cnn", (3, 16, 16), ANYTHING_GOES),
        ("alexnet_small", (1, 5, 6), {}),  # dropout
        ("resnet20", (1, 8, 9), ANYTHING_GOES),  # running means
    ],
)


@VARIETY
def test_the_same_seed_gives_the_same_bytes(
    model: str, shape: tuple[int, int, int], ways: dict[str, Any], make_samples: MakeSamples, tmp_path: Path
) -> None:
    some = make_samples(20, shape=shape), make_samples(6, shape=shape, seed=1)
    first, again, other = (
        run(some, tmp_path / f"{number}.safetensors", model=model, seed=seed, epochs=2, **ways) for number, seed in enumerate((3, 3, 4))
    )
    assert weights(first[0]) == weights(again[0]) and first[1] == again[1]
    assert weights(first[0]) != weights(other[0])


@pytest.mark.parametrize("model", ["residual_cnn", "alexnet_small"])
def test_the_callers_random_numbers_play_no_part(model: str, sets: tuple[Samples, Samples], tmp_path: Path) -> None:
    results = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        results.append(weights(run(sets, tmp_path / f"{seed}.safetensors", model=model, augment=True)[0]))
        drawn = torch.rand(3)
        torch.manual_seed(seed)
        assert torch.equal(drawn, torch.rand(3))
    assert results[0] == results[1]


# interrupted and resumed


@pytest.mark.parametrize("epoch", [0, 1, 3])
@VARIETY
def test_an_interrupted_run_ends_with_the_bytes_of_one_that_was_not(
    model: str,
    shape: tuple[int, int, int],
    ways: dict[str, Any],
    epoch: int,
    make_samples: MakeSamples,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    some = make_samples(20, shape=shape), make_samples(6, shape=shape, seed=1)
    whole = run_whole(some, tmp_path / "whole.safetensors", model=model, **ways)
    checkpoint = tmp_path / "cut.safetensors"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_in(patch, epoch)
        run(some, checkpoint, model=model, **ways)
    assert checkpoint.exists() == (epoch > 0)
    epochs: list[int] = []
    one_epoch = training.run_epoch

    def counted(state: Any, images: torch.Tensor, labels: torch.Tensor, settings: Train, number: int) -> Any:
        epochs.append(number)
        return one_epoch(state, images, labels, settings, number)

    with monkeypatch.context() as patch:
        patch.setattr(training, "run_epoch", counted)
        resumed = run_whole(some, checkpoint, model=model, **ways)
    assert epochs == list(range(epoch, 4)), "only what was lost is done again"
    assert weights(resumed.classifier) == weights(whole.classifier)
    assert resumed.history == whole.history
    assert states(resumed) == states(whole)
    assert states(run_whole(some, checkpoint, model=model, **ways)) == states(whole), "of the finished checkpoint"


def test_a_run_may_be_interrupted_again_and_again(sets: tuple[Samples, Samples], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted, wanted_history, _ = run(sets, tmp_path / "whole.safetensors")
    for epoch in (1, 2, 3):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            interrupt_in(patch, epoch)
            run(sets, tmp_path / "cut.safetensors")
    classifier, history, _ = run(sets, tmp_path / "cut.safetensors")
    assert weights(classifier) == weights(wanted) and history == wanted_history


def test_the_seconds_of_interrupted_runs_count(sets: tuple[Samples, Samples], tmp_path: Path) -> None:
    checkpoint = tmp_path / "a.safetensors"
    run(sets, checkpoint)
    change_progress(checkpoint, lambda done: {"history": done["history"][:3], "seconds": 1000.0})
    _, _, seconds = run(sets, checkpoint)
    assert 1000 < seconds < 1100


def test_a_finished_run_returns_at_once(sets: tuple[Samples, Samples], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(sets, tmp_path / "a.safetensors")
    monkeypatch.setattr(training, "run_epoch", lambda *_: pytest.fail("it trained again"))
    again = run(sets, tmp_path / "a.safetensors")
    assert weights(again[0]) == weights(first[0]) and again[1:] == first[1:]
    assert not again[0].training


def test_a_checkpoint_is_saved_now_and_then(sets: tuple[Samples, Samples], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[int] = []
    monkeypatch.setattr(training, "_save", lambda state, checkpoint: saved.append(len(state.history)))
    run(sets, tmp_path / "a.safetensors")
    assert saved == [4]  # fast epochs: the last one only
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", -1.0)
    run(sets, tmp_path / "a.safetensors")
    assert saved == [4, 1, 2, 3, 4]


def change_progress(checkpoint: Path, change: Callable[[Any], Any]) -> None:
    with safe_open(checkpoint, "pt") as file:
        done = json.loads(file.metadata()["progress"])
    save_file(load_file(checkpoint), checkpoint, {"progress": json.dumps(change(done))})


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def forget_progress(path: Path) -> None:
    save_file(load_file(path), path)


def widen_head(path: Path) -> None:
    tensors = load_file(path)
    tensors["model.network.head.0.weight"] = torch.zeros(4, 36)
    save_file(tensors, path, {"progress": json.dumps({"history": [], "seconds": 0.0})})


def lose_a_sample(path: Path) -> None:
    with safe_open(path, "pt") as file:
        about = file.metadata()
    tensors = load_file(path)
    save_file({**tensors, "early_losses": tensors["early_losses"][:, :-1].contiguous()}, path, about)


DAMAGES: list[Callable[[Path], object]] = [
    cut_off,
    forget_progress,
    widen_head,  # what fits of it must not stay in the weights
    lambda path: path.write_bytes(b""),
    lambda path: path.write_bytes(b"x" * 300),
    lambda path: change_progress(path, lambda done: {"history": []}),
    lambda path: change_progress(path, lambda done: None),
    lose_a_sample,
    lambda path: save_file({**load_file(path), "optimizer.odd": torch.zeros(1)}, path, {"progress": "{}"}),
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_only_costs_time(
    damage: Callable[[Path], object], sets: tuple[Samples, Samples], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = tmp_path / "a.safetensors"
    wanted = run(sets, checkpoint)
    damage(checkpoint)
    again = run(sets, checkpoint)
    assert weights(again[0]) == weights(wanted[0]) and again[1] == wanted[1]
    assert "checkpoint a.safetensors is damaged" in capsys.readouterr().err
    assert len(list(tmp_path.iterdir())) == 1


def test_old_checkpoints_make_room(sets: tuple[Samples, Samples], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "CHECKPOINTS_KEPT", 3)
    (tmp_path / "notes.txt").write_text("not a checkpoint")
    for age in range(5):
        path = tmp_path / f"old{age}.safetensors"
        path.write_bytes(b"")
        os.utime(path, (1_000_000 - age, 1_000_000 - age))
    run(sets, tmp_path / "new.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.safetensors", "notes.txt", "old0.safetensors", "old1.safetensors"]


# early losses


def test_early_losses_are_those_of_the_classifier_after_each_of_the_first_epochs(
    sets: tuple[Samples, Samples], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "EVALUATION_BATCH", 7)
    found = run_whole(sets, tmp_path / "a.safetensors", early_epochs=3).early_losses
    assert found.dtype == np.float16 and found.shape == (3, 45)
    for epoch in range(3):
        after = run_whole(sets, tmp_path / f"{epoch}.safetensors", epochs=epoch + 1, early_epochs=0)
        assert after.early_losses.shape == (0, 45)
        with torch.no_grad():
            logits = after.classifier(torch.from_numpy(sets[0].images))
        wanted = nn.functional.cross_entropy(logits, torch.from_numpy(sets[0].labels), reduction="none").numpy()
        np.testing.assert_allclose(found[epoch], wanted, rtol=1e-3)


def test_taking_them_changes_nothing_else(sets: tuple[Samples, Samples], tmp_path: Path) -> None:
    with_them, without = (run_whole(sets, tmp_path / f"{count}.safetensors", early_epochs=count) for count in (9, 0))
    assert with_them.early_losses.shape == (4, 45)  # no more than there are epochs
    assert weights(with_them.classifier) == weights(without.classifier) and with_them.history == without.history


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_they_outlive_an_interruption(epoch: int, sets: tuple[Samples, Samples], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = run_whole(sets, tmp_path / "whole.safetensors").early_losses
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_in(patch, epoch)
        run(sets, tmp_path / "cut.safetensors")
    for _ in range(2):  # resumed, and once more from the finished checkpoint
        assert run_whole(sets, tmp_path / "cut.safetensors").early_losses.tobytes() == wanted.tobytes()


def test_they_stay_in_the_half_range(make_samples: MakeSamples, tmp_path: Path) -> None:
    state = training.begin(make_samples(6, shape=SMALL), recipe(), CPU)
    head: Any = state.classifier.network.head
    state.classifier.network.head = nn.Sequential(head[0])  # without the sigmoid logits may be of any size
    with torch.no_grad():
        head[0].bias.copy_(torch.tensor([0.0, 1e6, 0]))
    losses = training._losses(state.classifier, *training.to_device(make_samples(6, shape=SMALL), CPU), recipe())
    assert losses.tolist() == [65504, 0, 65504] * 2


# snapshots


@pytest.mark.parametrize(
    ("snapshots", "epochs", "after"),
    [(0, 9, []), (1, 9, [8]), (3, 9, [2, 5, 8]), (4, 10, [1, 4, 6, 9]), (9, 9, list(range(9))), (50, 3, [0, 1, 2]), (1, 1, [0])],
)
def test_snapshots_are_spread_evenly_and_end_with_the_last_epoch(snapshots: int, epochs: int, after: list[int]) -> None:
    assert training.snapshot_epochs(recipe(snapshots=snapshots, epochs=epochs)) == after


def test_a_snapshot_is_what_training_until_then_gives(sets: tuple[Samples, Samples], tmp_path: Path) -> None:
    kept = run_whole(sets, tmp_path / "a.safetensors", model="resnet20", snapshots=2)
    assert [epoch for epoch, _ in kept.snapshots] == [1, 3]
    for epoch, found in states(kept):
        until = run_whole(sets, tmp_path / f"{epoch}.safetensors", model="resnet20", epochs=epoch + 1)
        assert found == weights(until.classifier)
        assert until.snapshots == []
    assert states(kept)[-1][1] == weights(kept.classifier) and kept.history == until.history


def lose_a_snapshot(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("snapshot.1.")}


def cut_a_snapshot(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return tensors | {"snapshot.3.network.head.0.bias": torch.zeros(2)}


@pytest.mark.parametrize("damage", [lose_a_snapshot, cut_a_snapshot])
def test_damaged_snapshots_only_cost_time(
    damage: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]],
    sets: tuple[Samples, Samples],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    checkpoint = tmp_path / "a.safetensors"
    wanted = run_whole(sets, checkpoint, snapshots=2)
    with safe_open(checkpoint, "pt") as file:
        about = file.metadata()
    save_file(damage(load_file(checkpoint)), checkpoint, about)
    again = run_whole(sets, checkpoint, snapshots=2)
    assert states(again) == states(wanted) and weights(again.classifier) == weights(wanted.classifier)
    assert "checkpoint a.safetensors is damaged" in capsys.readouterr().err


# the name of a checkpoint


def test_a_checkpoint_name_changes_with_whatever_changes_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    base = checkpoint_name("a", "b", recipe(), CPU)
    assert base == checkpoint_name("a", "b", recipe(), CPU)
    others = [checkpoint_name("x", "b", recipe(), CPU), checkpoint_name("a", "x", recipe(), CPU), checkpoint_name("b", "a", recipe(), CPU)]
    changes: list[dict[str, Any]] = [
        {"seed": 1},
        {"epochs": 5},
        {"batch_size": 17},
        {"learning_rate": 0.02},
        {"model": "two_conv_cnn"},
        {"precision": "bfloat16"},
        {"early_epochs": 3},
        {"augment": True},
        {"schedule": "one_cycle"},
        {"snapshots": 1},
    ]
    assert {name for change in changes for name in change} == set(Train.model_fields)
    others += [checkpoint_name("a", "b", recipe(**change), CPU) for change in changes]
    others.append(checkpoint_name("a", "b", recipe(), torch.device("cuda")))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 99)  # sums are split otherwise, and round otherwise
    others.append(checkpoint_name("a", "b", recipe(), CPU))
    monkeypatch.setattr(torch, "__version__", "0")
    others.append(checkpoint_name("a", "b", recipe(), CPU))
    monkeypatch.setattr(metadata, "version", lambda name: f"another {name}")
    others.append(checkpoint_name("a", "b", recipe(), CPU))
    assert len({base, *others}) == len(others) + 1
    assert Path(base).name == base and base.endswith(".safetensors")


# diverging


def test_a_loss_that_diverges_names_the_parameter(make_samples: MakeSamples, tmp_path: Path) -> None:
    some = make_samples(30, shape=(1, 16, 16)), make_samples(6, shape=(1, 16, 16))
    with pytest.raises(InputError, match=r"training diverged in epoch \d: lower train\.learning_rate \(found 1e\+30\)"):
        run(some, tmp_path / "a.safetensors", model="two_conv_cnn", learning_rate=1e30)
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_diverges_in_the_last_step(make_samples: MakeSamples, tmp_path: Path) -> None:
    some = make_samples(30, shape=(1, 16, 16)), make_samples(6, shape=(1, 16, 16))
    with pytest.raises(InputError, match=r"train\.learning_rate"):
        run(some, tmp_path / "a.safetensors", model="two_conv_cnn", learning_rate=1e30, epochs=1, batch_size=30)


def test_what_a_terminal_or_log_is_told(sets: tuple[Samples, Samples], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[Any, ...]] = []

    @contextmanager
    def progress(title: str, total: int, unit: str = "", *, done: int = 0) -> Iterator[Callable[..., None]]:
        told.append((title, total, unit, done))
        yield lambda steps=1, note="": told.append((steps, note))

    monkeypatch.setattr(training, "progress", progress)
    _, history, _ = run(sets, tmp_path / "a.safetensors", epochs=2)
    notes = [(1, f"loss {row['train_loss']:.4f}  accuracy {row['train_accuracy']:.4f}") for row in history]
    assert told == [("test", 2, "epochs", 0), *notes]
    run(sets, tmp_path / "a.safetensors", epochs=2)
    assert told[3:] == [("test", 2, "epochs", 2)]
