"""Loops over maps and their numbers, compiled by Numba (no torch).

Each map is touched once, while it is in the processor's cache. No loop holds Python's lock, so that another thread can
read meanwhile. Nothing checks the bounds of arrays here.

Legend: n maps of one call, C clusters (one identity in one group), G groups, M = h*w patches.
"""

from __future__ import annotations

import numpy as np

from cam.compiled import compiled
from jobs.arrays import Float32Array, Float64Array, Int8Array, Int32Array, Int64Array

GOOD, ZERO, NOT_FINITE = 0, 1, 2  # a map has a shape, or is all zero, or holds a non-finite value

LARGEST, LEAST = np.finfo(np.float32).max, np.finfo(np.float32).tiny


@compiled
def mass_of(row: Float32Array) -> tuple[int, np.float32]:
    """(M,) -> whether a map is GOOD, ZERO or NOT_FINITE, and the sum of its values.

    A map is ZERO also where its sum is so small that 1 / sum is too large for float32.
    """
    mass = np.float32(0)
    for j in range(len(row)):
        mass += row[j]
    if not abs(mass) <= LARGEST:  # np.isfinite subtracts, and would be simplified away
        return NOT_FINITE, mass
    return (GOOD if mass >= LEAST else ZERO), mass


@compiled
def add_maps(
    maps: Float32Array,
    cluster: Int32Array,
    group: Int64Array,
    state: Int8Array,
    share: Float32Array,
    place: Int64Array,
    large: Float64Array,
    spread: Float64Array,
) -> None:
    """Writes into state (n,) how each of the maps (n, M) is, and adds up the shares of mass of the good ones.

    cluster (n,) is each map's, group (C,) each cluster's. The sums go to share (C, M). Those of a cluster whose place
    (C,) is not negative go to large[place] instead, since a float32 cannot hold the sum of very many. The squares of
    the differences from the uniform map go to spread (G, M): from sums of plain squares, a variance much smaller than
    the mean would be lost.
    """
    even = np.float32(1 / maps.shape[1])
    for i in range(len(maps)):
        row, of = maps[i], cluster[i]
        state[i], mass = mass_of(row)
        if state[i] != GOOD:
            continue
        # The maps are not normalised in place: writing them back takes longer than adding them up.
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
    values: Float32Array,
    cluster: Int32Array,
    unit: float,
    sums: Float64Array,
    counts: Float64Array,
    group: Int64Array,
    bins: Int64Array,
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
def distances(maps: Float32Array, place: Int64Array, means: Float32Array, distance: Float32Array) -> None:
    """Writes into distance (n,) the share of each map's mass that lies elsewhere than in means[place].

    This is the total variation, 0 to 1. It is -1 for a map without shape, and where place (n,) is negative.
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
