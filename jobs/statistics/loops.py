"""Loops over maps and their numbers, compiled by Numba (no torch).

Each map is touched once, while it is in the processor's cache, and no loop holds Python's lock: another thread reads.
Legend: n maps in hand, C clusters (one identity in one group), G groups, M = h*w patches.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cam.compiled import compiled

GOOD, ZERO, NOT_FINITE = 0, 1, 2  # a map has a shape, or is all zero, or holds what is no number

LARGEST, LEAST = np.finfo(np.float32).max, np.finfo(np.float32).tiny

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Counts = NDArray[np.int64]
States = NDArray[np.int8]


@compiled
def mass_of(row: Floats) -> tuple[int, np.float32]:
    """(M,) -> GOOD and the sum of a map's values, or ZERO or NOT_FINITE and what they sum to.

    A sum so small that one over it is too large for float32 is as good as none.
    """
    mass = np.float32(0)
    for j in range(len(row)):
        mass += row[j]
    if not abs(mass) <= LARGEST:  # np.isfinite subtracts, and would be simplified away
        return NOT_FINITE, mass
    return (GOOD if mass >= LEAST else ZERO), mass


@compiled
def add_maps(
    maps: Floats,
    cluster: NDArray[np.int32],
    group: NDArray[np.int64],
    state: States,
    share: Floats,
    place: NDArray[np.int64],
    large: Doubles,
    spread: Doubles,
) -> None:
    """Says how each of the maps (n, M) is in state (n,), and adds up the shares of mass of the good ones.

    cluster (n,) is each map's, group (C,) each cluster's. share (C, M) takes the sums; for a cluster whose place (C,)
    is not negative, large[place] does, since a float32 cannot hold the sum of very many. spread (G, M) takes sums of
    squares of differences from the uniform map: about zero, a variance much smaller than the mean would be lost.
    """
    even = np.float32(1 / maps.shape[1])
    for i in range(len(maps)):
        row, of = maps[i], cluster[i]
        state[i], mass = mass_of(row)
        if state[i] != GOOD:
            continue
        # The maps are not normalised in place: to write them back takes longer than to add them up.
        scale, squares = np.float32(1) / mass, spread[group[of]]
        if place[of] < 0:
            few = share[of]
            for j in range(len(row)):
                part = row[j] * scale
                few[j] += part
                squares[j] += (part - even) ** 2
        else:
            many = large[place[of]]
            for j in range(len(row)):
                part = row[j] * scale
                many[j] += part
                squares[j] += (part - even) ** 2


@compiled
def add_numbers(
    values: Floats,
    cluster: NDArray[np.int32],
    unit: float,
    sums: Doubles,
    counts: Doubles,
    group: NDArray[np.int64],
    bins: Counts,
) -> None:
    """Adds the finite values (n,) to sums and counts (C,), and counts them in bins (G, any) from 0 to `unit`.

    cluster (n,) is each value's, group (C,) each cluster's. Values out of range are in the first or last bin.
    """
    last, of_one = bins.shape[1] - 1, bins.shape[1] / unit
    for i in range(len(values)):
        if not abs(values[i]) <= LARGEST:
            continue
        sums[cluster[i]] += values[i]
        counts[cluster[i]] += 1
        bins[group[cluster[i]], int(min(max(values[i] * of_one, 0), last))] += 1


@compiled
def distances(maps: Floats, place: NDArray[np.int64], means: Floats, distance: Floats) -> None:
    """Into distance (n,): the share of each map's mass that lies elsewhere than means[place] puts it (total variation,
    0 to 1). -1 for a map without shape, and where place (n,) is negative.
    """
    for i in range(len(maps)):
        row = maps[i]
        state, mass = mass_of(row)
        distance[i] = -1
        if place[i] < 0 or state != GOOD:
            continue
        scale, mean, apart = np.float32(1) / mass, means[place[i]], np.float32(0)
        for j in range(len(row)):
            apart += abs(row[j] * scale - mean[j])
        distance[i] = apart / 2
