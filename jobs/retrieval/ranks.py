"""Ranks of hits among distances that are known up to a margin: what lies within it is compared exactly.

Legend: M gallery images, H hits of one query, P positions, W windows around hits.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from jobs.arrays import Float64Array, FloatArray, Int64Array

# (P,) positions in the gallery -> (P,) float64 distances of one query to them.
ExactDistances = Callable[[Int64Array], Float64Array]


def nearest(row: FloatArray, count: int, exact: ExactDistances, margin: float) -> tuple[Int64Array, Float64Array]:
    """Positions and float64 distances of the `count` nearest of (M,), nearest first; infinite ones never come."""
    bound = np.partition(row, count - 1)[count - 1] if count < len(row) else np.inf
    candidates = np.flatnonzero((row <= bound + 2 * margin) & (row < np.inf))
    distances = exact(candidates)
    order = np.argsort(distances, kind="stable")[:count]
    return candidates[order], distances[order]


def hit_ranks(
    row: FloatArray, hits: Int64Array, groups: Int64Array, exact: ExactDistances, margin: float
) -> tuple[Int64Array, Int64Array]:
    """(M,) distances, (H,) positions -> (H,) 1-based ranks of the hits among all, and among their own group.

    Windows of twice the margin around the hits cut the axis of distances: what lies between two windows is counted,
    and only what shares a window with a hit is compared exactly. `groups` (M,) numbers the gallery's cameras from 0.
    """
    edges = _windows(row[hits], margin)
    near = np.flatnonzero(row <= edges[-1])
    slot = np.searchsorted(edges, row[near])
    group = groups[near]
    # Odd slots are windows, even slots the space before the window that follows.
    inside = slot % 2 == 1
    slots, width = len(edges) + 1, int(group.max()) + 1
    outside = np.bincount(group[~inside] * slots + slot[~inside], minlength=width * slots)
    before = outside.reshape(width, slots).cumsum(axis=1)
    near, slot, group = near[inside], slot[inside], group[inside]
    crowded = np.bincount(slot, minlength=slots)[slot] > 1
    distances = np.zeros(len(near))
    distances[crowded] = exact(near[crowded])
    order = np.lexsort((distances, slot))  # stable, and `near` rises: ties keep the gallery's order
    near, slot, group = near[order], slot[order], group[order]
    overall = before.sum(axis=0)[slot] + np.arange(1, len(near) + 1)
    in_group = before[group, slot] + _count_in_group(group)
    at = np.argsort(near)
    wanted = at[np.searchsorted(near, hits, sorter=at)]
    return overall[wanted], in_group[wanted]


def average_precision(ranks: Int64Array) -> float:
    """Mean of the precisions at the hits, whose 1-based ranks rise."""
    return float((np.arange(1, len(ranks) + 1) / ranks).mean())


def _count_in_group(group: Int64Array) -> Int64Array:
    """(n,) groups from 0 -> (n,) how many of the entries up to and with each one are of its group."""
    order = np.argsort(group, kind="stable")
    sizes = np.bincount(group)
    firsts = sizes.cumsum() - sizes  # where each group begins in this order
    counts = np.empty(len(group), np.int64)
    counts[order] = np.arange(1, len(group) + 1) - firsts[group[order]]
    return counts


def _windows(distances: FloatArray, margin: float) -> FloatArray:
    """(H,) -> (2W,) rising: low and high ends of the windows (low, high] around the distances, merged if they touch."""
    centres = np.sort(distances)
    # One step lower, so that the distance itself is inside also without a margin.
    low, high = np.nextafter(centres - 2 * margin, -np.inf, dtype=centres.dtype), centres + 2 * margin
    apart = low[1:] > high[:-1]
    edges = np.stack([low[np.append(True, apart)], high[np.append(apart, True)]], axis=1)
    return edges.astype(centres.dtype).ravel()
