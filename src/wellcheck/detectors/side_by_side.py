"""The same work for every label, on all cores at once."""

import functools
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from threadpoolctl import ThreadpoolController

Item = TypeVar("Item")
Result = TypeVar("Result")


def side_by_side(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """What the work makes of every item, in their order: in as many threads as PyTorch may use, each of which computes on one core.

    A label's products are too narrow for several cores to share. So every core has labels of its own, and what comes out does not hang on
    how many cores there are. The first error ends it.
    """
    cores = torch.get_num_threads()
    with _numpy_threads().limit(limits=1, user_api="blas"):
        try:
            return list(_workers(cores).map(work, items))
        finally:
            torch.set_num_threads(cores)  # a worker's own setting is also what threads that start later get


@functools.lru_cache(maxsize=1)
def _workers(cores: int) -> ThreadPoolExecutor:
    """Kept: what oneMKL makes ready for a thread takes as long as a label."""
    return ThreadPoolExecutor(cores, "labels", initializer=torch.set_num_threads, initargs=(1,))


@functools.cache
def _numpy_threads() -> ThreadpoolController:
    """Kept: looking for the libraries takes longer than a label."""
    return ThreadpoolController()
