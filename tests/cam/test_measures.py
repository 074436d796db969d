"""The numbers per map against hand computation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cam.measures import MEASURES, measure_maps, stripe_weights
from cam.placement import AxisPlacement


def measure(rows: list[list[float]]) -> dict[str, float]:
    return {name: float(v[0]) for name, v in measure_maps(np.array([rows], np.float32)).items()}


def test_a_single_peak() -> None:
    found = measure([[0, 0, 0, 0], [0, 0, 5, 0]])
    assert found["min"] == 0 and found["max"] == 5 and found["mass"] == 5
    assert found["entropy"] == 0
    assert (found["com_x"], found["com_y"]) == (0.625, 0.75)
    assert found["area50"] == 1 / 8


def test_a_uniform_map() -> None:
    found = measure([[2.0] * 8] * 16)
    assert found["entropy"] == pytest.approx(math.log(128))
    assert (found["com_x"], found["com_y"]) == (0.5, 0.5)
    assert found["area50"] == 0.5 and found["area90"] == 116 / 128  # 115 of 128 patches hold less than nine tenths
    assert [found[f"stripe_{i}"] for i in range(6)] == pytest.approx([1 / 6] * 6)


def test_half_of_the_mass_may_be_met_exactly() -> None:
    # 0.5 of the mass is in the first patch alone, up to rounding.
    assert measure([[0.3, 0.1], [0.1, 0.1]])["area50"] == 1 / 4
    assert measure([[4, 3, 2, 1]])["area90"] == 3 / 4


def test_stripes_share_a_row_that_lies_across_two() -> None:
    # 4 rows: a row is 1.5 stripes high, so the first row gives 2/3 of its mass to stripe 0, 1/3 to stripe 1.
    found = measure([[6.0], [0.0], [0.0], [3.0]])
    expected = [6 * 2 / 3, 6 / 3, 0, 0, 3 / 3, 3 * 2 / 3]
    assert [found[f"stripe_{i}"] for i in range(6)] == pytest.approx([x / 9 for x in expected])


@pytest.mark.parametrize("rows", [1, 5, 6, 16, 21, 24])
def test_every_row_gives_all_of_its_mass(rows: int) -> None:
    np.testing.assert_allclose(stripe_weights(AxisPlacement.even(rows)).sum(axis=1), 1)
    np.testing.assert_allclose(stripe_weights(AxisPlacement.even(rows)).sum(axis=0), rows / 6)


def test_a_map_without_mass_has_no_shape() -> None:
    found = measure([[0.0, 0.0]])
    assert (found["min"], found["max"], found["mass"]) == (0, 0, 0)
    assert all(math.isnan(found[name]) for name in MEASURES if name not in ("min", "max", "mass"))


def test_values_below_zero_have_no_mass() -> None:
    maps = np.zeros((2, 2, 2), np.float32)
    maps[0] = [[0.5, -0.25], [-1.0, 1.5]]
    maps[1] = -0.5
    found = measure_maps(maps)
    clipped = measure_maps(np.maximum(maps, 0))
    assert (found["min"][0], found["max"][0], found["mass"][0]) == (-1.0, 1.5, 2.0)
    for name in set(MEASURES) - {"min", "max"}:
        np.testing.assert_array_equal(found[name], clipped[name], err_msg=name)
    assert 3 * found["stripe_0"][0] == pytest.approx(0.25)  # half of the image's height is three stripes
    assert np.isnan(found["entropy"][1]) and found["max"][1] == -0.5
