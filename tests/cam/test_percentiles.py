"""Percentiles of many values in little memory, against numpy's."""

from __future__ import annotations

import numpy as np
import pytest

from cam.overlay import range_of
from cam.percentiles import percentiles


@pytest.mark.parametrize("offset", [0.0, -5.0])
def test_they_are_numpys(offset: float) -> None:
    values = (np.random.default_rng(0).lognormal(0, 3, (50, 40, 5)) + offset).astype(np.float32)
    values[0, 0, :2] = np.nan
    found = percentiles(iter(np.split(values, 5)))
    assert found == pytest.approx(np.nanpercentile(values, [1, 99]), rel=1 / 2048)
    assert percentiles(iter([np.zeros((3, 2, 2), np.float32)])) == (0.0, 0.0)
    assert percentiles([]) is None and percentiles([np.full(3, np.nan, np.float32)]) is None


def test_between_few_values_they_are_interpolated() -> None:
    values = np.array([2, 4, 1, 8], np.float32)  # the 1st percentile is at 0.03 from 1 to 2, the 99th at 0.97 from 4
    assert percentiles([values]) == pytest.approx((1.03, 7.88))
    assert range_of(values.reshape(1, 2, 2), "percentile") == percentiles([values[:2], values[2:]])
    assert percentiles([values[:1]]) == (2, 2)
