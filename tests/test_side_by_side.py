"""The same work for several items at once."""

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest
import torch
from threadpoolctl import threadpool_info

from wellcheck.detectors.side_by_side import side_by_side


@pytest.fixture(params=[1, 2, 3])
def cores(request: pytest.FixtureRequest) -> Iterator[int]:
    """So many threads for PyTorch, as it is set for one test."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_items_come_back_in_their_order(cores: int) -> None:
    assert side_by_side(lambda item: item * item, range(20)) == [item * item for item in range(20)]


def test_as_many_work_at_once_as_there_are_cores(cores: int) -> None:
    together = threading.Barrier(cores, timeout=20)  # breaks where fewer come
    assert side_by_side(lambda _: together.wait() >= 0, range(cores)) == [True] * cores


def test_each_of_them_computes_on_one_core_and_afterwards_all_is_as_before(cores: int) -> None:
    def of_numpy() -> list[int]:
        return [one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"]

    before = of_numpy()
    assert side_by_side(lambda _: (torch.get_num_threads(), set(of_numpy())), range(4)) == [(1, {1})] * 4
    assert torch.get_num_threads() == cores
    assert of_numpy() == before
    elsewhere = []
    later = threading.Thread(target=lambda: elsewhere.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert elsewhere == [cores]


def test_the_first_error_is_raised_when_all_work_has_ended_and_all_is_as_before(cores: int) -> None:
    ended, begun = [], []

    def work(item: int) -> int:
        begun.append(item)
        if item == 0:
            raise ValueError("item 0")
        time.sleep(0.05)
        ended.append(item)
        return item

    with pytest.raises(ValueError, match="item 0"):
        side_by_side(work, range(8))
    assert sorted(ended) == sorted(set(begun) - {0})
    assert torch.get_num_threads() == cores
    assert side_by_side(abs, [-1, -2]) == [1, 2]


def test_within_such_work_and_beside_another_caller_items_are_worked_on_one_after_another(cores: int) -> None:
    def within(item: int) -> tuple[list[int], int]:
        return side_by_side(lambda one: one + item, range(3)), torch.get_num_threads()

    assert side_by_side(within, range(4)) == [([item, item + 1, item + 2], 1) for item in range(4)]
    going, enough = threading.Event(), threading.Event()

    def wait(_: int) -> bool:
        going.set()
        return enough.wait(20)

    other = threading.Thread(target=side_by_side, args=(wait, range(1)))
    other.start()
    going.wait(20)
    before = threading.get_ident()
    assert side_by_side(lambda _: threading.get_ident(), range(3)) == [before] * 3
    enough.set()
    other.join()
    assert torch.get_num_threads() == cores


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_of_a_process_that_used_it_can_use_it(cores: int) -> None:
    side_by_side(abs, range(4))
    child = os.fork()
    if not child:
        os._exit(0 if side_by_side(abs, [-1, -2, -3]) == [1, 2, 3] else 1)
    for _ in range(200):
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        time.sleep(0.05)
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        pytest.fail("the child hangs")
    assert os.waitstatus_to_exitcode(status) == 0
