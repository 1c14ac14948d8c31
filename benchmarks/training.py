"""How much faster our epoch is than the article's own training loop, and how far it is from the arithmetic.

    WELLCHECK_MIRROR=<mirror> python benchmarks/training.py --runs 3

reads <mirror>/fashion_mnist/train.parquet and trains the network of article A1 (batch 4,096) on 40,000 images in two ways, in turn: as the
article does (a DataLoader that applies ToTensor to one image after the other, default memory layout), and as wellcheck does. Each has a
process of its own, for ours changes how its process keeps memory. The arithmetic limit is the time that the network's multiplications
take at the speed of this machine's best matrix product. Warm-up is left out. Writes results/benchmarks/training.json. Seconds wander on a
shared machine; the ratios are of medians of runs taken in turn.
"""

import argparse
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import ToTensor

from wellcheck import datasets, memory, params, training
from wellcheck.artifacts import write_json
from wellcheck.models import ModelDescription, build, device_name
from wellcheck.samples import Description, Samples

RESULT = Path("results/benchmarks/training.json")
IMAGES = 40_000
RECIPE = params.Train.plain(model="residual_cnn", epochs=1, batch_size=4096, learning_rate=1e-3, seed=0)
# Multiply-adds of one image: forward 2 convolutions and a linear layer; backward twice that, without the gradient of the input.
CONVOLUTION = 28 * 28 * 8 * 25
LINEAR = 784 * 10
MULTIPLY_ADDS = 2 * CONVOLUTION + LINEAR + (CONVOLUTION + 2 * CONVOLUTION) + 2 * LINEAR


class ArticleImages(Dataset[tuple[torch.Tensor, int]]):
    """Images as torchvision's data sets keep them: a PIL image and a transform for every item."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples
        self.transform = ToTensor()

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        picture = Image.fromarray(self.samples.images[index, 0], mode="L")
        return self.transform(picture), int(self.samples.labels[index])


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=3, help="counted epochs of each loop (3)")
    parser.add_argument("--images", type=int, default=IMAGES, help=f"training images ({IMAGES})")
    options = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        workers = {name: stack.enter_context(ProcessPoolExecutor(1, spawn)) for name in LOOPS}
        seconds: dict[str, list[float]] = {name: [] for name in LOOPS}
        for run in range(options.runs + 1):
            for name, worker in workers.items():
                spent = worker.submit(run_epoch, name, options.images).result()
                if run > 0:  # the first is the warm-up
                    seconds[name].append(spent)
    ideal = options.images * MULTIPLY_ADDS * 2 / operations_per_second()
    middle = {name: median(values) for name, values in seconds.items()}
    ratios = {
        "seconds of an epoch, the article's loop against ours": middle["article"] / middle["ours"],
        "seconds of an epoch, ours against the arithmetic limit": middle["ours"] / ideal,
    }
    figures = {name: [round(value, 2) for value in values] for name, values in seconds.items()} | {"arithmetic limit": round(ideal, 3)}
    command = f"python benchmarks/training.py --runs {options.runs}"
    device = device_name(torch.device("cpu"))
    write_json(RESULT, {"command": command, "device": device, "ratios": ratios, "runs": options.runs, "seconds": figures})
    for name, values in figures.items():
        print(f"{name}: {values} s")
    for name, ratio in ratios.items():
        print(f"{name}: {ratio:.2f}")


@cache
def prepare(name: str, count: int) -> Callable[[], object]:
    """A loop with its images and its model; made once in each process."""
    return LOOPS[name](read_images(count))


def run_epoch(name: str, count: int) -> float:
    """Seconds of one epoch of a loop."""
    epoch = prepare(name, count)
    start = time.perf_counter()
    epoch()
    return time.perf_counter() - start


def read_images(count: int) -> Samples:
    """The first images of Fashion-MNIST's training set."""
    source = datasets.open_source(params.Dataset(name="fashion_mnist", path="", size=None, channels=None))
    images = np.concatenate([images for images, _ in source.train.batches()])[:count]
    return Samples(np.arange(len(images)), images, source.train.labels[:count], Description(source.class_names, source.origin))


def article_loop(samples: Samples) -> Callable[[], object]:
    """One epoch as the article runs it."""
    model = fresh_model(samples).to(memory_format=torch.contiguous_format)
    optimizer = torch.optim.Adam(model.parameters(), lr=RECIPE.learning_rate)
    loader = DataLoader(ArticleImages(samples), batch_size=RECIPE.batch_size, shuffle=True)

    def epoch() -> None:
        for images, labels in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()

    return epoch


def our_loop(samples: Samples) -> Callable[[], object]:
    """One epoch as wellcheck runs it, the bookkeeping included."""
    memory.keep_freed()
    device = torch.device("cpu")
    state = training.begin(samples, RECIPE, device)
    images, labels = training.to_device(samples, device)
    return lambda: training.run_epoch(state, images, labels, RECIPE, 0)


LOOPS: dict[str, Callable[[Samples], Callable[[], object]]] = {"article": article_loop, "ours": our_loop}


def fresh_model(samples: Samples) -> nn.Module:
    """Article A1's network with PyTorch's default memory layout."""
    return build(ModelDescription("residual_cnn", samples.description.class_names, (1, 28, 28)), seed=0).network


def operations_per_second() -> float:
    """Floating-point operations a second of the best of several large float32 matrix products."""
    left, right = torch.rand(2, 2048, 2048)
    best = float("inf")
    for _ in range(8):
        start = time.perf_counter()
        left @ right
        best = min(best, time.perf_counter() - start)
    return 2 * 2048**3 / best


if __name__ == "__main__":
    main()
