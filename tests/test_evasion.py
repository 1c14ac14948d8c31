"""Attacks on inputs: by hand on models of a few weights, by their properties on a trained one, and step by step beside foolbox."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast, get_args

import numpy as np
import pytest
import torch
from foolbox.attacks.fast_gradient_method import LinfFastGradientAttack
from foolbox.attacks.projected_gradient_descent import L2ProjectedGradientDescentAttack, LinfProjectedGradientDescentAttack
from foolbox.criteria import Misclassification
from foolbox.models.pytorch import PyTorchModel
from torch import nn

from wellcheck import datasets, evasion, params, training
from wellcheck.errors import InputError
from wellcheck.evasion import ATTACKS, attack
from wellcheck.evasion.apgd import _checkpoints
from wellcheck.evasion.batch import Batch, Best, Budget, Crowd
from wellcheck.evasion.fgsm import fgsm
from wellcheck.evasion.goals import set_task
from wellcheck.evasion.max_normed import max_normed
from wellcheck.evasion.noise import noise_l2, noise_linf
from wellcheck.evasion.norms import L2, LINF, Norm
from wellcheck.evasion.pgd import Way, pgd_l2, pgd_linf
from wellcheck.evasion.square import square
from wellcheck.evasion.victim import Task, Victim
from wellcheck.models import Classifier
from wellcheck.params import AttackName, GoalName
from wellcheck.samples import Description, Samples

CPU = torch.device("cpu")
BUDGET = Budget(steps=6, restarts=2, queries=40)
SEARCHES: tuple[AttackName, ...] = ("pgd_linf", "pgd_l2", "apgd_ce", "apgd_dlr", "square", "ensemble", "feature_matching", "low_frequency")
CONTROLS: tuple[AttackName, ...] = ("noise_linf", "noise_l2")
GOALS: tuple[GoalName, ...] = get_args(GoalName)
SIZES = {LINF: (0.02, 0.08, 0.3), L2: (0.3, 1.2, 4.0)}


# by hand


class Linear(nn.Module):
    """Logits w·x of 2×1 images, at [0, 1]."""

    def __init__(self, *weights: tuple[float, float]) -> None:
        super().__init__()
        self.register_buffer("weights", torch.tensor(weights))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pixels = images.float() / 255 if images.dtype == torch.uint8 else images
        return pixels.flatten(1) @ self.weights.T  # type: ignore[operator]


def victim(*weights: tuple[float, float]) -> Victim:
    return Victim(cast(Classifier, Linear(*weights).eval()), CPU)


def batch(pixels: list[list[float]], *weights: tuple[float, float], goal: GoalName = "untargeted") -> Batch:
    target, generator = victim(*weights), torch.Generator().manual_seed(0)
    clean = torch.tensor(pixels)[:, None, :, None]
    return Batch(
        target,
        clean,
        *target.begin(clean, lambda logits: set_task(goal, logits, generator)),
        BUDGET,
        generator,
        Crowd(target, clean.numpy()),
    )


def told(images: torch.Tensor) -> list[list[float]]:
    return [[round(value, 4) for value in row] for row in images.flatten(1).tolist()]


def test_one_step_by_hand() -> None:
    # Two logits, x₀ and −x₁: class 0 answers, and its loss rises with less x₀ and with less x₁; as much, for the weights are as large.
    one = batch([[0.5, 0.5]], (1.0, 0.0), (0.0, -1.0))
    assert told(fgsm(one, 0.1)) == [[0.4, 0.4]]
    # The gradient is (−1, 2)-wise: the other pixel moves half as far.
    uneven = batch([[0.5, 0.5]], (1.0, 0.0), (0.0, -2.0))
    assert told(fgsm(uneven, 0.1)) == [[0.4, 0.4]]
    assert told(max_normed(uneven, 0.1)) == [[0.45, 0.4]]


def test_pixels_stay_in_range() -> None:
    assert told(fgsm(batch([[0.05, 0.02]], (1.0, 0.0), (0.0, -1.0)), 0.1)) == [[0.0, 0.0]]


def test_an_image_without_gradient_stays() -> None:
    flat = batch([[0.5, 0.5], [0.1, 0.9]], (0.0, 0.0), (0.0, 0.0))
    for run in (fgsm, max_normed):
        assert told(run(flat, 0.1)) == [[0.5, 0.5], [0.1, 0.9]]
    assert told(pgd_l2(replace(flat, budget=replace(BUDGET, restarts=1)), 0.1)) == [[0.5, 0.5], [0.1, 0.9]]  # others begin elsewhere
    assert pgd_l2(flat, 0.1).isfinite().all()


def test_what_each_goal_asks_for() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 1.0]])
    generator = torch.Generator().manual_seed(0)
    lose, least = set_task("untargeted", logits, generator), set_task("least_likely", logits, generator)
    assert (lose.labels.tolist(), lose.targeted) == ([0, 1], False)
    assert (least.labels.tolist(), least.targeted) == ([1, 0], True)
    drawn = torch.stack([set_task("random_class", logits, generator).labels for _ in range(400)])
    assert not (drawn == torch.tensor([0, 1])).any()
    assert all(150 < (drawn[:, column] == other).sum() < 250 for column, others in ((0, (1, 2)), (1, (0, 2))) for other in others)
    given = set_task(2, logits, generator)
    assert (given.labels.tolist(), given.targeted) == ([2, 2], True)
    assert lose.done(logits).tolist() == [False, False] and Task(torch.tensor([0, 2]), targeted=True).done(logits).tolist() == [True, False]


def test_losses_by_hand() -> None:
    logits = torch.tensor([[4.0, 1.0, 2.0, 0.0]])
    lose, get = Task(torch.tensor([0]), targeted=False), Task(torch.tensor([3]), targeted=True)
    assert lose.cross_entropy(logits).item() == pytest.approx(math.log(math.exp(4) + math.exp(1) + math.exp(2) + 1) - 4)
    assert get.cross_entropy(logits).item() == pytest.approx(-math.log(math.exp(4) + math.exp(1) + math.exp(2) + 1))
    assert lose.logit_ratio(logits).item() == pytest.approx((2 - 4) / (4 - 1))
    assert get.logit_ratio(logits).item() == pytest.approx((0 - 4) / (4 - (1 + 0) / 2))
    assert (lose.margin(logits).item(), get.margin(logits).item()) == (-2, -4)
    assert lose.logit_ratio(100 * logits).item() == pytest.approx(lose.logit_ratio(logits).item())


def test_where_all_answers_are_as_likely_the_least_is_another_one() -> None:
    assert set_task("least_likely", torch.zeros(1, 3), torch.Generator()).labels.tolist() == [1]


def test_the_smallest_gradient_has_a_direction() -> None:
    tiny = torch.tensor([[[[3e-30, -4e-30]]]])
    assert told(L2.steepest(tiny)) == [[0.6, -0.8]] and told(L2.steepest(0 * tiny)) == [[0, 0]]


@pytest.mark.parametrize("units", [1, 100, 170, 293, 10**6])
def test_the_smallest_gradient_moves_no_pixel_too_far(units: int) -> None:
    """A float's last unit is what a very sure model leaves of its gradient: a thousandth of it is rounded, up too."""
    one = batch([[0.5, 0.5]], (1.0, 0.0), (0.0, -1.0))
    least = torch.finfo(torch.float32).smallest_normal * torch.finfo(torch.float32).eps
    small = replace(one, slope=one.slope._replace(gradient=torch.full((1, 1, 2, 1), -units * least)))
    assert (max_normed(small, 0.003) - one.clean).flatten().tolist() == pytest.approx([-0.003, -0.003], abs=1e-6)


def test_squares_need_no_unsure_model() -> None:
    # Both logits a thousand times as large: cross-entropy is 0 wherever the answer is as before, and ranks nothing.
    pixels = torch.rand((60, 2), generator=torch.Generator().manual_seed(0)).tolist()
    found = [batch(pixels, (scale, 0.0), (0.0, scale)) for scale in (1.0, 1000.0)]
    answers = [(one.task.done(one.victim.logits(square(one, 0.2)))).tolist() for one in found]
    assert answers[0] == answers[1] and any(answers[0])


def test_norms_by_hand() -> None:
    change = torch.tensor([[[[3.0, -4.0]]], [[[0.3, 0.4]]]])
    assert LINF.size(change).tolist() == pytest.approx([4, 0.4])
    assert L2.size(change).tolist() == pytest.approx([5, 0.5])
    assert told(LINF.project(change, 1)) == [[1, -1], [0.3, 0.4]]
    assert told(L2.project(change, 1)) == [[0.6, -0.8], [0.3, 0.4]]
    assert told(LINF.steepest(change)) == [[1, -1], [1, 1]]
    assert told(L2.steepest(change)) == [[0.6, -0.8], [0.6, 0.8]]


@pytest.mark.parametrize("norm", [LINF, L2])
def test_a_point_in_the_ball_is_uniform(norm: Norm) -> None:
    generator, like = torch.Generator().manual_seed(0), torch.zeros(4000, 1, 1, 2)
    sizes = norm.size(norm.within(like, 0.5, generator))
    # In two dimensions a quarter of both balls lies within half the radius: 1000 ± 4 standard deviations.
    assert sizes.max() <= 0.5 + 1e-6
    assert abs(int((sizes <= 0.25).sum()) - 1000) < 4 * (4000 * 0.25 * 0.75) ** 0.5
    assert torch.allclose(norm.size(norm.around(like, 0.5, generator)), torch.tensor(0.5))


@pytest.mark.parametrize("norm", [LINF, L2])
def test_of_no_images_no_point_is_drawn(norm: Norm) -> None:
    nothing = torch.zeros(0, 3, 4, 4)
    assert norm.within(nothing, 0.5, torch.Generator()).shape == norm.around(nothing, 0.5, torch.Generator()).shape == nothing.shape


def test_the_best_point_is_kept() -> None:
    first = batch([[0.9, 0.1], [0.9, 0.1]], (1.0, 0.0), (0.0, 1.0))
    best, rows = Best.of(first), torch.arange(2)
    assert best.see(rows, first.clean + 1, torch.tensor([5.0, 5.0]), torch.tensor([False, True])).tolist() == [True, False]
    assert best.see(rows, first.clean + 2, torch.tensor([4.0, 9.0]), torch.tensor([False, False])).tolist() == [True, False]
    torch.testing.assert_close(best.images, first.clean + 1)
    assert best.unsolved.tolist() == [0]


@pytest.mark.parametrize(
    ("noise", "length"), [(noise_linf, lambda moved: moved.abs().amax((1, 2, 3))), (noise_l2, lambda moved: moved.norm())]
)
def test_noise_is_as_large_as_it_says(
    noise: Callable[[Batch, float], torch.Tensor], length: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    one = batch([[0.5, 0.5]], (1.0, 0.0), (0.0, 1.0))
    torch.testing.assert_close(length(noise(one, 0.2) - one.clean), torch.full_like(length(one.clean), 0.2))


def test_pgd_sets_out_steepest_and_then_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[torch.Tensor] = []
    monkeypatch.setattr("wellcheck.evasion.pgd.climb", lambda way, images, *rest: starts.append(images - way.clean))
    one = batch([[0.5, 0.5]], (1.0, 0.0), (0.9, 0.1))
    pgd_linf(replace(one, budget=Budget(steps=3, restarts=4, queries=1)), 0.25)
    assert starts[0].flatten().tolist() == pytest.approx([-0.25, 0.25])
    others = torch.stack(starts[1:]).flatten(1)
    assert (others.abs() < 0.25).all() and len(others.unique(dim=0)) == 3


def test_of_all_points_on_the_way_pgd_keeps_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    see = Best.see

    def watched(best: Best, rows: torch.Tensor, images: torch.Tensor, losses: torch.Tensor, solved: torch.Tensor) -> torch.Tensor:
        seen.extend(losses.tolist())
        return see(best, rows, images, losses, solved)

    monkeypatch.setattr(Best, "see", watched)
    monkeypatch.setattr(Way, "further", lambda way, images, slope: way.allowed(images + 0.1 * (way.clean - images) + 0.03))  # leads nowhere
    one = batch([[0.6, 0.4]], (1.0, 0.0), (0.0, 1.0))
    kept = pgd_linf(replace(one, budget=Budget(steps=5, restarts=1, queries=1)), 0.05)
    loss = one.task.cross_entropy(one.victim.logits(kept)).item()
    assert loss == pytest.approx(max(seen)) and max(seen) > seen[-1]


def test_auto_pgds_checkpoints_are_the_papers() -> None:
    assert list(_checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]


# on a trained model


@pytest.fixture(scope="module")
def trained() -> tuple[Classifier, Samples]:
    source = datasets.open_source(params.Dataset(name="digits", path="", size=28, channels=None))
    images = np.concatenate([part for part, _ in source.train.batches()])
    samples = Samples(np.arange(len(images)), images, source.train.labels.astype(np.int64), Description(source.class_names, source.origin))
    recipe = params.Train.plain(model="two_conv_cnn", epochs=6, batch_size=64, learning_rate=2e-3, seed=0)
    state = training.begin(samples, recipe, CPU)
    data = training.to_device(samples, CPU)
    for epoch in range(recipe.epochs):
        order = torch.randperm(1400, generator=torch.Generator().manual_seed(epoch))
        for rows in order.split(64):
            loss = nn.functional.cross_entropy(state.classifier(data[0][rows]), data[1][rows])
            state.optimizer.zero_grad()
            loss.backward()
            state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    return state.classifier.eval(), samples.take(np.arange(1500, 1550))


def attacked(
    trained: tuple[Classifier, Samples], name: AttackName, goal: GoalName = "untargeted", **changed: Any
) -> list[evasion.Attacked]:
    classifier, samples = trained
    settings: dict[str, Any] = {"epsilons": SIZES[ATTACKS[name].norm], "budget": BUDGET, "device": CPU, "seed": 0} | changed
    return attack(classifier, samples.images, name=name, goal=goal, **settings)


def test_every_attack_has_a_name() -> None:
    assert set(ATTACKS) == set(get_args(AttackName))


@pytest.mark.parametrize("goal", GOALS)
@pytest.mark.parametrize("name", ATTACKS)
def test_it_stays_within_its_bounds_and_tells_the_truth(trained: tuple[Classifier, Samples], name: AttackName, goal: GoalName) -> None:
    classifier, samples = trained
    clean = torch.from_numpy(samples.images).float() / 255
    for found in attacked(trained, name, goal):
        images = torch.from_numpy(found.images)
        assert images.dtype == torch.float32 and images.min() >= 0 and images.max() <= 1
        sizes = ATTACKS[name].norm.size(images - clean)
        assert (sizes <= found.epsilon * (1 + 1e-5)).all()
        np.testing.assert_allclose(found.distance, sizes, rtol=1e-5)
        with torch.inference_mode():
            before, after = classifier(clean).softmax(1).max(1), classifier(images).softmax(1).max(1)
        np.testing.assert_array_equal(found.label_before, before.indices)
        assert (found.label_after == after.indices.numpy()).mean() >= 0.99  # another batch size may round a tie otherwise
        np.testing.assert_allclose(found.confidence_before, before.values, rtol=1e-4)
        if goal == "untargeted":
            assert (found.target == -1).all()
            np.testing.assert_array_equal(found.success, found.label_after != found.label_before)
        else:
            assert ((found.target >= 0) & (found.target != found.label_before)).all()
            np.testing.assert_array_equal(found.success, found.label_after == found.target)


@pytest.mark.parametrize("name", [name for name in ATTACKS if name not in CONTROLS])
def test_a_larger_budget_never_helps_the_defender(trained: tuple[Classifier, Samples], name: AttackName) -> None:
    rates = [found.success.mean() for found in attacked(trained, name)]
    assert rates == sorted(rates) and rates[0] < rates[-1]


@pytest.mark.parametrize("goal", GOALS)
@pytest.mark.parametrize("restarts", [1, 3])
def test_what_fgsm_solves_pgd_solves(trained: tuple[Classifier, Samples], goal: GoalName, restarts: int) -> None:
    budget = Budget(steps=5, restarts=restarts, queries=1)
    for simple, iterated in zip(attacked(trained, "fgsm", goal), attacked(trained, "pgd_linf", goal, budget=budget), strict=True):
        assert iterated.success[simple.success].all()
    middling = (0.08, 0.15, 0.25)
    solved = [sum(found.success.sum() for found in attacked(trained, name, goal, epsilons=middling)) for name in ("fgsm", "pgd_linf")]
    assert solved[0] < solved[1]


@pytest.mark.parametrize("name", SEARCHES)
def test_noise_of_the_same_size_does_less(trained: tuple[Classifier, Samples], name: AttackName) -> None:
    control: AttackName = "noise_linf" if ATTACKS[name].norm is LINF else "noise_l2"
    chance, found = attacked(trained, control)[-1], attacked(trained, name)[-1]
    assert chance.success.mean() + 0.1 < found.success.mean()


@pytest.mark.parametrize("steps", [1, 5])
def test_pgd_takes_as_many_gradients_as_its_steps(trained: tuple[Classifier, Samples], steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [0]
    slope = Victim._slope

    def counted(*arguments: Any) -> Any:
        asked[0] += 1
        return slope(*arguments)

    monkeypatch.setattr(Victim, "_slope", counted)
    for restarts in (1, 3):
        asked[0] = 0
        (found,) = attacked(trained, "pgd_linf", budget=Budget(steps=steps, restarts=restarts, queries=1), epsilons=[1e-4])
        assert not found.success.all()
        assert asked[0] == steps * restarts


def test_matched_features_are_nearer_to_a_natural_image_than_pgds(trained: tuple[Classifier, Samples]) -> None:
    classifier, samples = trained
    names: tuple[AttackName, ...] = ("pgd_linf", "feature_matching")
    apart = {}
    for name in names:
        (found,) = attacked(trained, name, epsilons=[0.3], budget=Budget(steps=30, restarts=1, queries=1))
        with torch.inference_mode():
            natural, features = (classifier.embed(torch.from_numpy(images)) for images in (samples.images, found.images))
        same = torch.from_numpy(found.label_after[:, None] == found.label_before)
        apart[name] = torch.cdist(features, natural).masked_fill(~same, torch.inf).amin(1)[torch.from_numpy(found.success)]
    assert len(apart["feature_matching"]) > 40
    assert apart["feature_matching"].median() < 0.5 * apart["pgd_linf"].median()


def test_without_an_image_that_is_answered_otherwise_features_have_no_guide(trained: tuple[Classifier, Samples]) -> None:
    classifier, samples = trained
    (found,) = attacked((classifier, samples.take(np.array([0]))), "feature_matching", epsilons=[0.3])
    np.testing.assert_allclose(found.images, samples.images[:1] / 255, atol=1e-6)


def test_more_restarts_only_add(trained: tuple[Classifier, Samples]) -> None:
    one, more = (attacked(trained, "pgd_linf", "least_likely", budget=Budget(steps=5, restarts=count, queries=1)) for count in (1, 4))
    assert all(second.success[first.success].all() for first, second in zip(one, more, strict=True))


def test_the_ensemble_is_at_least_its_first_part(trained: tuple[Classifier, Samples]) -> None:
    for single, together in zip(attacked(trained, "apgd_ce"), attacked(trained, "ensemble"), strict=True):
        assert together.success.sum() >= single.success.sum()


@pytest.mark.parametrize("name", ATTACKS)
def test_a_seed_decides_everything(trained: tuple[Classifier, Samples], name: AttackName) -> None:
    first, again, other = (attacked(trained, name, "random_class", seed=seed, epsilons=[0.1]) for seed in (0, 0, 1))
    for one, same in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.images, same.images)
    assert any((one.images != another.images).any() for one, another in zip(first, other, strict=True))


def test_the_parameters_are_as_before(trained: tuple[Classifier, Samples]) -> None:
    before = [(value.clone(), value.requires_grad) for value in trained[0].parameters()]
    attacked(trained, "pgd_linf")
    assert all(value.grad is None for value in trained[0].parameters())
    assert all(
        torch.equal(value, was) and value.requires_grad == asked
        for value, (was, asked) in zip(trained[0].parameters(), before, strict=True)
    )


def test_whom_an_attack_aims_at_does_not_hang_on_the_attack(trained: tuple[Classifier, Samples], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evasion, "BATCH", 16)
    first = attacked(trained, "fgsm", "random_class", epsilons=[0.1])[0].target
    others: tuple[AttackName, ...] = ("pgd_linf", "square", "noise_l2")
    for name in others:
        np.testing.assert_array_equal(attacked(trained, name, "random_class", epsilons=[0.05, 0.3])[1].target, first)


def test_no_images_are_no_error(trained: tuple[Classifier, Samples]) -> None:
    (found,) = attacked((trained[0], trained[1].take(np.empty(0, np.int64))), "pgd_linf", epsilons=[0.1])
    assert len(found.images) == len(found.success) == 0


# beside foolbox, on the same model


@pytest.mark.parametrize("epsilon", [0.02, 0.1])
@pytest.mark.parametrize(("norm", "theirs"), [(LINF, LinfProjectedGradientDescentAttack), (L2, L2ProjectedGradientDescentAttack)])
def test_every_step_is_foolboxs(trained: tuple[Classifier, Samples], norm: Norm, theirs: Any, epsilon: float) -> None:
    classifier, samples = trained
    epsilon = epsilon if norm is LINF else 10 * epsilon
    clean, labels = torch.from_numpy(samples.images).float() / 255, torch.from_numpy(samples.labels)
    target = Victim(classifier, CPU)
    way = Way(target, clean, Task(labels, targeted=False), norm, epsilon, step=0.3 * epsilon)
    model = PyTorchModel(classifier, bounds=(0, 1), device="cpu")
    images = clean
    for steps in range(1, 5):
        images = way.further(images, target.slope(images, way.task))
        peer = theirs(rel_stepsize=0.3, steps=steps, random_start=False)
        expected = peer.run(model, clean, Misclassification(labels), epsilon=epsilon)
        assert (images - expected).abs().flatten(1).amax(1).le(1e-5).float().mean() >= 0.98  # a gradient of 0 but for rounding has no sign


def test_fgsm_is_foolboxs(trained: tuple[Classifier, Samples]) -> None:
    classifier, samples = trained
    answers = attacked(trained, "fgsm")
    model = PyTorchModel(classifier, bounds=(0, 1), device="cpu")
    clean, labels = torch.from_numpy(samples.images).float() / 255, torch.from_numpy(answers[0].label_before)
    for found in answers:
        expected = LinfFastGradientAttack(random_start=False).run(model, clean, Misclassification(labels), epsilon=found.epsilon)
        assert np.isclose(found.images, expected, atol=1e-6).mean() > 0.999


# bad input


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("epsilon", [0.0, -0.1, float("nan"), 28.1])
def test_an_epsilon_out_of_range_is_named(trained: tuple[Classifier, Samples], name: AttackName, epsilon: float) -> None:
    with pytest.raises(InputError, match=rf"{name}: epsilon must lie above 0 and be at most (1|28) \(.*\); found {epsilon:g}"):
        attacked(trained, name, epsilons=[0.1, epsilon])


def test_a_model_in_train_mode_is_refused(trained: tuple[Classifier, Samples]) -> None:
    with pytest.raises(InputError, match="train mode"):
        Victim(cast(Classifier, Linear((1.0, 1.0)).train()), CPU)


def test_gradients_that_are_no_numbers_are_counted() -> None:
    with pytest.raises(InputError, match="the gradient of 1 of 2 images is not finite"):
        batch([[0.5, 0.5], [float("nan"), 0.5]], (1.0, 0.0), (0.0, -1.0))


def test_logits_that_are_no_numbers_are_counted() -> None:
    with pytest.raises(InputError, match="the logits of 1 of 2 images are not finite"):
        victim((1.0, 0.0), (0.0, -1.0)).logits(torch.tensor([[[[0.5], [0.5]]], [[[torch.nan], [0.5]]]]))


def of_floats(trained: tuple[Classifier, Samples], images: np.ndarray) -> evasion.Attacked:
    """One step against images as they are given."""
    (found,) = attack(trained[0], images, name="fgsm", goal="untargeted", epsilons=[0.1], budget=BUDGET, device=CPU, seed=0)
    return found


def test_images_may_be_shares_of_white(trained: tuple[Classifier, Samples]) -> None:
    pixels = trained[1].images / np.float32(255)
    np.testing.assert_array_equal(of_floats(trained, pixels).images, of_floats(trained, trained[1].images).images)
    of_floats(trained, pixels * np.float32(1 + 1e-6))  # rounding


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda pixels: pixels * 255, r"^images: pixels must lie in \[0, 1\], found 0 to 255$"),
        (lambda pixels: pixels - np.float32(0.5), r"found -0.5 to 0.5$"),
        (lambda pixels: pixels + np.float32(np.nan), "found nan to nan$"),
        (lambda pixels: pixels.astype(np.int64), r"^images must be uint8, or float in \[0, 1\]; found int64$"),
    ],
)
def test_pixels_out_of_range_are_told(trained: tuple[Classifier, Samples], change: Callable[[np.ndarray], np.ndarray], told: str) -> None:
    with pytest.raises(InputError, match=told):
        of_floats(trained, change(trained[1].images / np.float32(255)))


@pytest.mark.parametrize(
    ("by", "told"),
    [
        (lambda batch, epsilon: batch.clean + 2, r"^attacked images: pixels must lie in \[0, 1\], found 2 to 3$"),
        (lambda batch, epsilon: batch.moved(torch.full_like(batch.clean, 2 * epsilon)), "at most 0.1 away was asked for, found 0.2$"),
    ],
)
def test_an_attack_that_leaves_its_bounds_is_found_out(
    trained: tuple[Classifier, Samples], by: Any, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ATTACKS, "fgsm", evasion.Attack(by, LINF))
    with pytest.raises(InputError, match=told):
        of_floats(trained, trained[1].images)


class Plateau(Linear):
    """As Linear, but flat within a hundredth of the middle grey."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = super().forward(images)
        return torch.where((logits - 0.5).abs() < 0.01, 0.5 + 0 * logits, logits) + torch.tensor([1e-3, 0.0])


def test_pgd_leaves_a_plateau() -> None:
    target, generator = Victim(cast(Classifier, Plateau((1.0, 0.0), (0.0, 1.0)).eval()), CPU), torch.Generator().manual_seed(0)
    clean = torch.full((8, 1, 2, 1), 0.5)
    flat = target.begin(clean, lambda logits: set_task("untargeted", logits, generator))
    assert not flat[1].gradient.any()
    found = pgd_linf(Batch(target, clean, *flat, Budget(steps=6, restarts=1, queries=1), generator, Crowd(target, clean.numpy())), 0.1)
    assert flat[0].done(target.logits(found)).all()


def test_what_is_answered_already_is_nobodys_success(trained: tuple[Classifier, Samples]) -> None:
    classifier, samples = trained
    goal = int(attacked(trained, "fgsm", epsilons=[1e-6])[0].label_before[0])
    (found,) = attack(classifier, samples.images, name="noise_linf", goal=goal, epsilons=[1e-6], budget=BUDGET, device=CPU, seed=0)
    assert (found.label_after == goal).any() and not found.success.any()


@pytest.mark.parametrize("size", [1, 7])
def test_a_guide_is_sought_among_all_images(trained: tuple[Classifier, Samples], size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    (whole,) = attacked(trained, "feature_matching", epsilons=[0.3])
    monkeypatch.setattr(evasion, "BATCH", size)
    (parts,) = attacked(trained, "feature_matching", epsilons=[0.3])
    assert (parts.images != trained[1].images / np.float32(255)).any((1, 2, 3)).all()
    assert (parts.label_after == whole.label_after).mean() > 0.97  # sums of another order


@pytest.mark.parametrize("name", ["steps", "restarts", "queries"])
def test_a_budget_of_nothing_is_named(name: str) -> None:
    with pytest.raises(InputError, match=f"{name} must be at least 1, found 0"):
        Budget(**({"steps": 1, "restarts": 1, "queries": 1} | {name: 0}))


@pytest.mark.parametrize("label", [-1, 3])
def test_a_target_that_is_no_class_is_named(label: int) -> None:
    with pytest.raises(InputError, match=f"one of the 3 classes, 0 to 2; found {label}"):
        set_task(label, torch.zeros(2, 3), torch.Generator())


def test_a_model_of_one_class_has_no_other_answer() -> None:
    with pytest.raises(InputError, match="one class"):
        set_task("random_class", torch.zeros(2, 1), torch.Generator())
