"""What every test shares: a cache of its own, small samples, and hypothesis that draws the same examples every time."""

import os
import shutil
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import settings
from workspace import ALL, QUICK, Project, checkout, replace

from wellcheck.samples import Description, Samples

settings.register_profile("wellcheck", max_examples=40, deadline=None, derandomize=True, database=None)
settings.load_profile("wellcheck")


FIRST = ("test_pipeline.py", "test_report.py", "test_verdict.py")
BETWEEN = len(FIRST)
LATER = ("test_pipeline_experiments.py", "test_pipeline_own.py")  # when the first pipeline file has run the graph for all


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take minutes first, so that no worker is left alone with one at the end."""
    places = {name: place for place, name in enumerate(FIRST)} | dict.fromkeys(LATER, BETWEEN + 1)
    items.sort(key=lambda item: places.get(item.path.name, BETWEEN))


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or writes the user's downloads and checkpoints, in this process or in one it starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WELLCHECK_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("DVC_STAGE", raising=False)  # the tests may themselves run in a stage
        yield


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Tensors so small that threads would only wait for each other."""
    import torch  # takes seconds, and most tests do without

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def make_samples() -> Callable[..., Samples]:
    """`make_samples(10, shape=(1, 4, 4), classes=3, seed=0)`: random images; the labels take turns and the brightness tells them."""

    def make(count: int, *, shape: tuple[int, int, int] = (1, 4, 4), classes: int = 3, seed: int = 0, first_id: int = 0) -> Samples:
        generator = np.random.default_rng(seed)
        labels = np.arange(count, dtype=np.int64) % classes
        noise = generator.integers(0, 40, (count, *shape))
        images = (noise + (labels * (200 // classes))[:, None, None, None]).astype(np.uint8)
        names = tuple(f"class {label}" for label in range(classes))
        return Samples(np.arange(first_id, first_id + count), images, labels, Description(names, "made here"))

    return make


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A Git checkout in which the whole graph has run once."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent  # of all workers: whoever comes first runs the graph for the others
    with FileLock(shared / "project.lock"):
        if not (shared / "project").exists():
            running, cache = checkout(tmp_path_factory.mktemp("running")), tmp_path_factory.mktemp("running-cache")
            _run_all(Project(running, cache))
            cache.rename(shared / "project-cache")
            running.rename(shared / "project")
    mine, cache = tmp_path_factory.mktemp("project"), tmp_path_factory.mktemp("cache")
    for source, target in ((shared / "project", mine), (shared / "project-cache", cache)):
        shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
    return Project(mine, cache)


def _run_all(project: Project) -> None:
    replace(project.folder, QUICK)
    project.run("git", "init", "-q", "-b", "main")
    project.run("git", "config", "user.name", "t")
    project.run("git", "config", "user.email", "t@example.org")
    assert project.repro() == ALL
    project.commit("first run")
