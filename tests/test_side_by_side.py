"""The same work for several items at once."""

import threading
from collections.abc import Iterator

import numpy as np
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


def test_products_do_not_hang_on_how_many_cores_there_are(cores: int) -> None:
    values = np.random.default_rng(0).standard_normal((6, 300, 64))

    def product(place: int) -> tuple[bytes, bytes]:
        one = values[place]
        return (torch.from_numpy(one).T @ torch.from_numpy(one)).numpy().tobytes(), (one.T @ one).tobytes()

    expected = side_by_side(product, range(6))
    torch.set_num_threads(1)
    assert side_by_side(product, range(6)) == expected


def test_the_first_error_ends_it_and_all_is_as_before(cores: int) -> None:
    def work(item: int) -> int:
        if item == 3:
            raise ValueError("item 3")
        return item

    with pytest.raises(ValueError, match="item 3"):
        side_by_side(work, range(8))
    assert torch.get_num_threads() == cores
