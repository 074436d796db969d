"""Bootstrap intervals over identities of means in groups.

Legend: C clusters (one identity in one group), G groups, V values of each cluster.
"""

from __future__ import annotations

import numpy as np

from jobs.arrays import Float64Array, FloatArray, Int64Array
from jobs.statistics.resamples import EDGES, Resamples

_RATIO_BYTES = 128 << 20


def intervals(
    resamples: Resamples, group: Int64Array, identity: Int64Array, sums: FloatArray, counts: FloatArray, groups: int
) -> tuple[Float64Array, Float64Array]:
    """95 % percentile intervals (Efron 1979) of sum / count in each group: low and high, each (G, V).

    group, identity (C,): the group, and the index below `resamples.identities`, of each cluster. sums (C, V), counts
    (C, V) or (C, 1). NaN where a group has fewer than two identities with a value: one tells nothing of the spread.
    """
    rows = rows_by_group(group, groups)
    low, high = (np.full((groups, sums.shape[1]), np.nan) for _ in range(2))
    several = [g for g in range(groups) if len(rows[g]) > 1]
    # Many groups are taken some at a time; the resamples are the same each time.
    step = max(1, _RATIO_BYTES // (8 * resamples.resamples * max(1, sums.shape[1])))
    for start in range(0, len(several), step):
        some = several[start : start + step]
        ratios = _ratios(resamples, [rows[g] for g in some], identity, sums, counts)
        for g, values in zip(some, ratios, strict=True):
            enough = np.broadcast_to((counts[rows[g]] > 0).sum(axis=0) >= 2, (sums.shape[1],))
            if enough.any():
                kept = values[:, enough]
                percentile = np.nanpercentile if np.isnan(kept).any() else np.percentile  # the first is slow
                low[g, enough], high[g, enough] = percentile(kept, EDGES, axis=0)
    return low, high


def rows_by_group(group: Int64Array, groups: int) -> list[Int64Array]:
    """The positions of each group's clusters, in their order."""
    order = np.argsort(group, kind="stable")
    return np.split(order, np.searchsorted(group[order], np.arange(1, groups)))


def _ratios(
    resamples: Resamples, rows: list[Int64Array], identity: Int64Array, sums: FloatArray, counts: FloatArray
) -> Float64Array:
    """(groups, resamples, V): sum / count in each resample; NaN where none of a group's identities was drawn."""
    width = sums.shape[1]
    ratios = np.empty((len(rows), resamples.resamples, width))
    for g, chosen in enumerate(rows):
        # A group at a time, since there may be millions of clusters.
        who, both = identity[chosen], np.concatenate([sums[chosen], counts[chosen].astype(sums.dtype)], axis=1)
        values = both
        # Where a group has most identities, zeros for the others cost less than picking columns.
        dense = 2 * len(chosen) > resamples.identities
        if dense:
            values = np.zeros((resamples.identities, both.shape[1]), sums.dtype)
            values[who] = both
        done = 0
        for weights in resamples.counts():
            totals = (weights if dense else weights[:, who]).astype(sums.dtype) @ values
            with np.errstate(divide="ignore", invalid="ignore"):
                ratios[g, done : done + len(weights)] = totals[:, :width] / totals[:, width:]
            done += len(weights)
    return ratios
