"""The same work for every label, on all cores at once."""

import functools
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from threadpoolctl import ThreadpoolController

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST = 8  # workers: each may hold a matrix or two of all features by all features
_alone = threading.Lock()  # the number of threads is the process's, and one caller's to change


def side_by_side(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """What the work makes of every item, in their order: in as many threads as PyTorch may use, each of which computes on one core.

    A label's products are too narrow for several cores to share. So every core has labels of its own, and what comes out does not hang on
    how many cores there are. The first error is raised when all work has ended. Within such work, or while another thread is at it, items
    are worked on one after another.
    """
    if not _alone.acquire(blocking=False):
        return [work(item) for item in items]
    cores = torch.get_num_threads()
    try:
        with (
            _numpy_threads().limit(limits=1, user_api="blas"),
            ThreadPoolExecutor(min(cores, MOST), "labels", initializer=torch.set_num_threads, initargs=(1,)) as pool,
        ):
            return list(pool.map(work, items))
    finally:
        torch.set_num_threads(cores)  # a worker's own setting is also what threads that start later get
        _alone.release()


@functools.cache
def _numpy_threads() -> ThreadpoolController:
    """Kept: looking for the libraries takes longer than a label."""
    return ThreadpoolController()
