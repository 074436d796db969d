"""The runs with masks that tests of localisation share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jobs.statistics.localisation.findings import LocaliseFindings
from tests.statistics.localisation.made_masks import (
    Made,
    a_mask,
    key_of,
    make,
    palette_png,
    png,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """40 images of 10 persons, with masks of several sizes and kinds; 3 of them have none that can be used."""
    rng = np.random.default_rng(3)
    sizes = [(32, 16), (48, 24), (20, 10), (128, 64), (7, 3)]
    arrays = {key_of(n): a_mask(rng, sizes[n % len(sizes)]) for n in range(40)}
    data: dict[str, bytes | None] = {
        key: (palette_png if n % 2 else png)(mask) for n, (key, mask) in enumerate(arrays.items())
    }
    data[key_of(5)], data[key_of(9)] = None, png(np.zeros((32, 16), np.uint8))
    data[key_of(13)] = png(np.zeros((32, 16, 3), np.uint8))
    made = make(tmp_path_factory.mktemp("localise"), data)
    made.masks = {key: mask for n, (key, mask) in enumerate(arrays.items()) if n not in (5, 9, 13)}
    return made


@pytest.fixture(scope="module")
def findings(made: Made) -> LocaliseFindings:
    return made.find(by=("camid",), seed=7)


@pytest.fixture
def small(tmp_path: Path) -> Made:
    return make(tmp_path, {key_of(n): png(a_mask(np.random.default_rng(n), (32, 16))) for n in range(8)})
