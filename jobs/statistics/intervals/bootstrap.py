"""Bootstrap intervals over identities of means in groups.

Legend: C clusters (one identity in one group), G groups, V values of each cluster.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jobs.arrays import Float64Array, FloatArray, Int64Array
from jobs.statistics.intervals.resamples import EDGES, Resamples


class Means(NamedTuple):
    """What means are taken of: sums (C, V), and counts (C, V) or (C, 1)."""

    sums: FloatArray
    counts: FloatArray | Int64Array


class Interval(NamedTuple):
    """The ends (G, V) of 95 % intervals."""

    low: Float64Array
    high: Float64Array


def intervals(
    resamples: Resamples, group: Int64Array, identity: Int64Array, means: Sequence[Means], groups: int
) -> list[Interval]:
    """95 % percentile intervals (Efron 1979) of sum / count in each group, for each of `means`.

    group, identity (C,): the group, and the index below `resamples.identities`, of each cluster. NaN where a group has
    fewer than two identities with a value: one tells nothing of the spread.
    """
    found = [Interval(*(np.full((groups, one.sums.shape[1]), np.nan) for _ in range(2))) for one in means]
    for g, rows in enumerate(rows_by_group(group, groups)):
        if len(rows) < 2:
            continue
        every = _ratios(resamples, rows, identity, means)
        for (sums, counts), (low, high), ratios in zip(means, found, every, strict=True):
            enough = np.broadcast_to((counts[rows] > 0).sum(axis=0) >= 2, (sums.shape[1],))
            if enough.any():
                kept = ratios[:, enough]
                percentile = np.nanpercentile if np.isnan(kept).any() else np.percentile  # the first is slow
                low[g, enough], high[g, enough] = percentile(kept, EDGES, axis=0)
    return found


def rows_by_group(group: Int64Array, groups: int) -> list[Int64Array]:
    """The positions of each group's clusters, in their order."""
    order = np.argsort(group, kind="stable")
    return np.split(order, np.searchsorted(group[order], np.arange(1, groups)))


def _ratios(resamples: Resamples, rows: Int64Array, identity: Int64Array, means: Sequence[Means]) -> list[Float64Array]:
    """(resamples, V) for each of `means`: sum / count in each resample; NaN where none of the identities was drawn.

    `rows` are the clusters of one group: there may be millions in all.
    """
    who = identity[rows]
    # Where a group has most identities, zeros for the others cost less than picking columns.
    dense = 2 * len(rows) > resamples.identities
    values = [_values(one, rows, who, resamples.identities if dense else 0) for one in means]
    ratios = [np.empty((resamples.resamples, one.sums.shape[1])) for one in means]
    done = 0
    for drawn in resamples.counts():
        weights = drawn if dense else drawn[:, who]
        for one, both, ratio in zip(means, values, ratios, strict=True):
            totals, width = weights.astype(both.dtype) @ both, one.sums.shape[1]
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio[done : done + len(drawn)] = totals[:, :width] / totals[:, width:]
        done += len(drawn)
    return ratios


def _values(means: Means, rows: Int64Array, who: Int64Array, identities: int) -> FloatArray:
    """Sums and counts of some clusters side by side: of each, or of each of so many identities, zero for the others."""
    width = means.sums.shape[1]
    both = np.zeros((identities or len(rows), width + means.counts.shape[1]), means.sums.dtype)
    place = who if identities else slice(None)
    both[place, :width], both[place, width:] = means.sums[rows], means.counts[rows]
    return both
