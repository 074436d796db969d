"""Fixtures shared by the tests: tiny checkpoints, and reference material that may stand beside a checkout."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("PROMPTSG_SHARED", Path(__file__).parents[2] / "shared"))


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
