"""Projected gradient descent beside ART, torchattacks and foolbox, and attributions beside captum: seconds at the same strength.

    uv pip install -e '.[bench,test]'
    WELLCHECK_MIRROR=<mirror> python benchmarks/evasion.py --rounds 5

trains two networks for a few epochs on 10,000 images of Fashion-MNIST (once; the weights are cached) and attacks test images with 40 steps
of PGD in L∞: the same network, images, labels, ε, step and batch for all, one way from the start that each makes by itself, weights frozen,
which only helps those that would differentiate by them. The floor is 40 times the logits and the gradient of the image and nothing
else, on all images. Two sizes: `solvable`, where what is solved may leave the batch, and `hopeless`, where nothing can be solved and the
loop's own cost shows. Then occlusion and integrated gradients, equal to captum's up to rounding, against its defaults and against the best
of some batch sizes. Everything takes turns within a round in one process of one thread; a figure is the seconds of processor time
(another process cannot add to them), a ratio the median over the rounds. Writes results/benchmarks/evasion.json.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torchattacks
from art.attacks.evasion.projected_gradient_descent.projected_gradient_descent_pytorch import ProjectedGradientDescentPyTorch
from art.estimators.classification import PyTorchClassifier
from captum.attr import IntegratedGradients, Occlusion
from detection import read
from foolbox.attacks.projected_gradient_descent import LinfProjectedGradientDescentAttack
from foolbox.criteria import Misclassification
from foolbox.models.pytorch import PyTorchModel
from torch import nn

from wellcheck import attributions, memory, params, training
from wellcheck.artifacts import cache_folder, write_json
from wellcheck.evasion import attack
from wellcheck.evasion.batch import Budget
from wellcheck.gradients import as_pixels
from wellcheck.models import Classifier, device_name
from wellcheck.samples import Samples

RESULT = Path("results/benchmarks/evasion.json")
CPU = torch.device("cpu")
ATTACKED: dict[params.ModelName, int] = {"two_conv_cnn": 128, "deep_cnn": 32}  # images, all in one batch
EPSILONS = {"solvable": 8 / 255, "hopeless": 1e-4}
STEPS = 40
REACH = 2.5  # steps together, in ε; as our attack has it
EXPLAINED = 32  # images
PATCH, STRIDE = 4, 2
POINTS = 50  # on the path of integrated gradients; captum's default
PATCHES_AT_ONCE = (1, 4, 16)  # captum's perturbations_per_eval; 1 is its default
POINTS_AT_ONCE = (None, 64, 256)  # images in captum's internal batch; None, all, is its default
TRAINING_IMAGES = 10_000
RECIPE: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 64,
    "learning_rate": 1e-3,
    "seed": 0,
}

Images = torch.Tensor | np.ndarray
Run = Callable[[], Images]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="runs of each method (5)")
    options = parser.parse_args()
    memory.keep_freed()  # as every stage does
    torch.set_num_threads(1)  # processor time is what one thread waits for
    train, test = read("fashion_mnist")
    figures: dict[str, Any] = {}
    ratios: dict[str, float] = {}
    for name, count in ATTACKED.items():
        classifier = trained(train, name)
        for setting, epsilon in EPSILONS.items():
            title = f"{name}, {setting}"
            figures[title] = attacks(classifier, test.images[:count], epsilon, options.rounds)
            ratios |= compared(title, figures[title], "ours", ("the floor", "ART", "torchattacks", "foolbox"))
            ratios |= {
                f"{title}, success rate of {who}": one["success_rate"]
                for who, one in figures[title].items()
                if one["success_rate"] is not None
            }
        for method, runs in explanations(classifier, test.images[:EXPLAINED]).items():
            title = f"{name}, {method}"
            figures[title] = attributed(runs, options.rounds)
            best = min((one for one in figures[title] if one != "ours"), key=lambda one: median(figures[title][one]["seconds"]))
            ratios |= {f"{title}, seconds: captum's defaults / ours": ratio(figures[title], "captum", "ours")}
            ratios |= {f"{title}, seconds: captum's best ({best}) / ours": ratio(figures[title], best, "ours")}
    for name_, value in ratios.items():
        print(f"{name_}: {value:.3g}")
    command = f"python benchmarks/evasion.py --rounds {options.rounds}"
    told = {"command": command, "device": f"{device_name(CPU)}, shared with other work", "runs": options.rounds}
    write_json(RESULT, {**told, "figures": figures, "ratios": ratios})


def trained(train: Samples, name: params.ModelName) -> Classifier:
    """A network with frozen weights; from the cache if it was trained before."""
    samples, recipe = train.take(np.arange(TRAINING_IMAGES)), params.Train.plain(model=name, **RECIPE)
    found = training.train_again(samples, recipe, device=CPU, cache=cache_folder() / "benchmarks", title=name)
    return found.classifier.requires_grad_(False)


def attacks(classifier: Classifier, images: np.ndarray, epsilon: float, rounds: int) -> dict[str, dict[str, Any]]:
    """Seconds of each method in each round, and the share of images that it brought to another answer."""
    clean = as_pixels(images, CPU)
    with torch.inference_mode():
        answers = classifier(clean).argmax(1)
    before = answers.clone()  # no inference tensor: others differentiate losses of it
    found: dict[str, dict[str, Any]] = {}
    for _ in range(rounds):
        for name, method in METHODS.items():
            one = found.setdefault(name, {"seconds": [], "success_rate": None})
            start = time.process_time()
            changed = method(classifier, images, clean, before, epsilon)
            one["seconds"].append(round(time.process_time() - start, 3))
            if changed is not None:
                changed = torch.as_tensor(changed)
                assert (changed - clean).abs().max() <= epsilon + 1e-6 and changed.min() >= 0 and changed.max() <= 1
                with torch.inference_mode():
                    one["success_rate"] = float((classifier(changed).argmax(1) != before).float().mean())
    return found


def ours(classifier: Classifier, images: np.ndarray, clean: torch.Tensor, labels: torch.Tensor, epsilon: float) -> Images:
    """The whole call, with the answers and distances that it reports."""
    budget = Budget(steps=STEPS, restarts=1, queries=1)
    return attack(classifier, images, name="pgd_linf", goal="untargeted", epsilons=[epsilon], budget=budget, device=CPU, seed=0)[0].images


def floor(classifier: Classifier, images: np.ndarray, clean: torch.Tensor, labels: torch.Tensor, epsilon: float) -> None:
    """So many gradients by the image."""
    for _ in range(STEPS):
        point = clean.detach().requires_grad_(True)
        torch.autograd.grad(nn.functional.cross_entropy(classifier(point), labels, reduction="sum"), point)


def art(classifier: Classifier, images: np.ndarray, clean: torch.Tensor, labels: torch.Tensor, epsilon: float) -> Images:
    """ART's, its classifier wrapped beforehand as its users have it."""
    wrapped = PyTorchClassifier(classifier, nn.CrossEntropyLoss(), clean.shape[1:], 10, clip_values=(0, 1), device_type="cpu")
    settings = {"eps": epsilon, "eps_step": REACH * epsilon / STEPS, "max_iter": STEPS, "num_random_init": 1, "batch_size": len(clean)}
    found: np.ndarray = ProjectedGradientDescentPyTorch(wrapped, verbose=False, **settings).generate(clean.numpy(), labels.numpy())
    return found


def torch_attacks(classifier: Classifier, images: np.ndarray, clean: torch.Tensor, labels: torch.Tensor, epsilon: float) -> Images:
    """torchattacks', from a random start."""
    found: torch.Tensor = torchattacks.PGD(classifier, eps=epsilon, alpha=REACH * epsilon / STEPS, steps=STEPS)(clean, labels)
    return found


def fool_box(classifier: Classifier, images: np.ndarray, clean: torch.Tensor, labels: torch.Tensor, epsilon: float) -> Images:
    """foolbox's, from a random start."""
    model = PyTorchModel(classifier, bounds=(0, 1), device="cpu")
    attacker = LinfProjectedGradientDescentAttack(abs_stepsize=REACH * epsilon / STEPS, steps=STEPS, random_start=True)
    found: torch.Tensor = attacker.run(model, clean, Misclassification(labels), epsilon=epsilon)
    return found


METHODS: dict[str, Callable[[Classifier, np.ndarray, torch.Tensor, torch.Tensor, float], Images | None]] = {
    "the floor": floor,
    "ours": ours,
    "ART": art,
    "torchattacks": torch_attacks,
    "foolbox": fool_box,
}


def explanations(classifier: Classifier, images: np.ndarray) -> dict[str, dict[str, Run]]:
    """By method, ours and captum's with several batch sizes, each of one call."""
    pixels = as_pixels(images, CPU)
    with torch.inference_mode():
        target = classifier(pixels).argmax(1).clone()
    labels, window = target.numpy(), {"sliding_window_shapes": (1, PATCH, PATCH), "strides": (1, STRIDE, STRIDE)}

    def occluded(at_once: int) -> Run:
        return lambda: Occlusion(classifier).attribute(pixels, target=target, perturbations_per_eval=at_once, **window)

    def integrated(at_once: int | None) -> Run:
        return lambda: IntegratedGradients(classifier).attribute(pixels, target=target, n_steps=POINTS, internal_batch_size=at_once)

    return {
        "occlusion": {
            "ours": lambda: attributions.occlusion(classifier, images, labels, CPU, patch=PATCH, stride=STRIDE),
            **{"captum" if at_once == 1 else f"captum, {at_once} patches at once": occluded(at_once) for at_once in PATCHES_AT_ONCE},
        },
        "integrated gradients": {
            "ours": lambda: attributions.integrated_gradients(classifier, images, labels, CPU, steps=POINTS),
            **{f"captum, {at_once} points at once" if at_once else "captum": integrated(at_once) for at_once in POINTS_AT_ONCE},
        },
    }


def attributed(runs: dict[str, Run], rounds: int) -> dict[str, dict[str, Any]]:
    """Seconds of each in each round. Every map must be ours."""
    found: dict[str, dict[str, Any]] = {name: {"seconds": []} for name in runs}
    for _ in range(rounds):
        maps: dict[str, np.ndarray] = {}
        for name, run in runs.items():
            start = time.process_time()
            result = run()
            found[name]["seconds"].append(round(time.process_time() - start, 3))
            maps[name] = result.detach().numpy() if isinstance(result, torch.Tensor) else result
        for name, theirs in maps.items():
            assert np.allclose(maps["ours"], theirs, atol=1e-4 * np.abs(theirs).max()), f"{name} has other maps"
    return found


def compared(title: str, figures: dict[str, dict[str, Any]], mine: str, others: tuple[str, ...]) -> dict[str, float]:
    """How many times as fast ours is as each of the others."""
    return {f"{title}, seconds: {other} / ours": ratio(figures, other, mine) for other in others}


def ratio(figures: dict[str, dict[str, Any]], other: str, mine: str) -> float:
    """The median over the rounds of the ratio of seconds."""
    rounds = zip(figures[other]["seconds"], figures[mine]["seconds"], strict=True)
    return float(median(theirs / own for theirs, own in rounds))


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
