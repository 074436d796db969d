"""Fixtures shared by the tests: tiny checkpoints, and reference material that may stand beside a checkout."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jobs.processes import available_cores

MOST_PROCESSES = 4  # each imports torch: about 1 GB
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # hundreds of processes are started; each would compile every module
if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported; its threads would take the other processes' cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

SHARED = Path(os.environ.get("PROMPTSG_SHARED", Path(__file__).parents[2] / "shared"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """The processes that share the tests: two for each core, since many tests wait for processes of their own."""
    return min(2 * available_cores(), MOST_PROCESSES)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests of the whole program come first: they take longest, and at the end one process would wait for them."""
    items.sort(key=lambda item: "system" not in item.path.parts)


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of recorded results of an independent implementation."""
    folder = SHARED / "golden"
    if not folder.is_dir():
        pytest.skip("needs the recorded reference results beside the checkout (PROMPTSG_SHARED)")
    return folder


@pytest.fixture(scope="session")
def market_sample() -> Path:
    """A folder of real Market-1501 images."""
    folder = SHARED / "market1501-sample" / "Market-1501-v15.09.15"
    if not folder.is_dir():
        pytest.skip("needs the sample of real images beside the checkout (PROMPTSG_SHARED)")
    return folder
