"""The compiled loops over maps, against NumPy in double precision."""

from __future__ import annotations

import numpy as np
import pytest

from jobs.statistics.loops import GOOD, NOT_FINITE, ZERO, add_maps, add_numbers, distances, mass_of


@pytest.mark.parametrize(
    ("row", "state"),
    [
        ([0.5, 1.5, 2.0], GOOD),
        ([0.0, 0.0, 0.0], ZERO),
        ([np.nan, 1.0, 0.0], NOT_FINITE),
        ([np.inf, 1.0, 0.0], NOT_FINITE),
        ([np.inf, -np.inf, 0.0], NOT_FINITE),
        ([1e-40, 0.0, 0.0], ZERO),  # one over it is
        ([3e38, 3e38, 0.0], NOT_FINITE),  # their sum is too large for float32
    ],
)
def test_a_map_has_mass_or_says_why_not(row: list[float], state: int) -> None:
    found, mass = mass_of(np.array(row, np.float32))
    assert found == state and (mass == 4 or state != GOOD)


def test_a_sum_of_many_maps_is_exact_to_one_part_in_ten_million() -> None:
    rng = np.random.default_rng(0)
    maps = rng.gamma(2, 1, (200_000, 6)).astype(np.float32)
    maps[::100] = 0
    expected = maps.astype(np.float64)
    good = expected.sum(axis=1) > 0
    expected[good] /= expected[good].sum(axis=1, keepdims=True)
    cluster = (np.arange(len(maps)) % 5000 == 7).astype(np.int32)  # nearly all of them are in one
    state = np.zeros(len(maps), np.int8)
    share, large, spread = np.zeros((2, 6), np.float32), np.zeros((1, 6)), np.zeros((1, 6))
    add_maps(maps, cluster, np.zeros(2, np.int64), state, share, np.array([0, -1]), large, spread)
    np.testing.assert_array_equal(state, np.where(good, GOOD, ZERO))
    np.testing.assert_allclose(large[0], expected[good & (cluster == 0)].sum(axis=0), rtol=1e-7)
    np.testing.assert_allclose(share[1], expected[good & (cluster == 1)].sum(axis=0), rtol=1e-6)
    assert not share[0].any()
    np.testing.assert_allclose(spread[0], ((expected[good] - 1 / 6) ** 2).sum(axis=0), rtol=1e-6)


def test_numbers_are_added_and_binned() -> None:
    values = np.array([0, 0.24, 0.26, 0.999, 1, 1.5, -0.1, np.nan, np.inf], np.float32)
    cluster = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2], np.int32)
    sums, counts, bins = np.zeros(3), np.zeros(3), np.zeros((2, 4), np.int64)
    add_numbers(values, cluster, 1.0, sums, counts, np.array([0, 1, 1]), bins)
    np.testing.assert_allclose(sums, [0.5, 3.499, -0.1], rtol=1e-6)
    np.testing.assert_array_equal(counts, [3, 3, 1])
    np.testing.assert_array_equal(bins, [[2, 1, 0, 0], [1, 0, 0, 3]])
    add_numbers(values, cluster, 2.0, sums, counts, np.array([0, 1, 1]), bins)
    np.testing.assert_array_equal(bins, [[5, 1, 0, 0], [2, 1, 1, 4]])


def test_distances_are_total_variation() -> None:
    maps = np.array([[4, 0, 0], [0, 0, 0], [1, 1, 2], [1, 1, 1]], np.float32)
    means = np.array([[0, 1, 0], [0.25, 0.25, 0.5]], np.float32)
    found = np.empty(4, np.float32)
    distances(maps, np.array([0, 0, 1, -1]), means, found)
    np.testing.assert_array_equal(found, [1, -1, 0, -1])
