"""The numbers of each group: means over images, their bootstrap intervals, and counts.

Legend: G groups, C clusters, K maps, V measures in the order of MEASURED.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from jobs.arrays import Float64Array, Int64Array
from jobs.identity import NOBODY
from jobs.statistics.bootstrap import intervals, rows_by_group
from jobs.statistics.parts.partial import Partial
from jobs.statistics.resamples import Resamples


@dataclass(frozen=True, kw_only=True)
class MeanMap:
    """One map's mean and deviation in each group: (G, h, w) each, of maps that were normalised to sum 1.

    `std` is over images (ddof 0); low and high are the ends of the mean's interval. NaN: not defined.
    """

    mean: Float64Array
    std: Float64Array
    mean_low: Float64Array
    mean_high: Float64Array


@dataclass(frozen=True, kw_only=True)
class GroupSummary:
    """value, low, high, n_images, n_identities (G, K, V); images (G,); zero, not_finite (G, K); maps, by name.

    NaN: not defined.
    """

    value: Float64Array
    low: Float64Array
    high: Float64Array
    n_images: Int64Array
    n_identities: Int64Array
    images: Int64Array
    zero: Int64Array
    not_finite: Int64Array
    maps: dict[str, MeanMap]

    @property
    def good(self) -> Int64Array:
        """(G, K) how many maps have a shape: neither all zero nor with a non-finite value."""
        return self.images[:, None] - self.zero - self.not_finite


def summarise(part: Partial, resamples: int) -> GroupSummary:
    """Means and their intervals. Images of nobody count as one identity in resamples, and as none in n_identities."""
    groups = part.groups.num_rows
    people, place = np.unique(part.identity, return_inverse=True)
    drawn = Resamples(len(people), resamples, part.question.seed)
    flat = (len(part.identity), -1)
    low, high = intervals(drawn, part.group, place, part.sums.reshape(flat), part.counts.reshape(flat), groups)
    sums, counts = by_group(part.sums, part.group, groups), by_group(part.counts, part.group, groups)
    persons = (part.counts > 0) & (part.identity != NOBODY)[:, None, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        value = sums / counts
    return GroupSummary(
        value=value,
        low=low.reshape(value.shape),
        high=high.reshape(value.shape),
        n_images=counts.astype(np.int64),
        n_identities=by_group(persons, part.group, groups, np.int64),
        images=by_group(part.images, part.group, groups),
        zero=by_group(part.zero, part.group, groups),
        not_finite=by_group(part.not_finite, part.group, groups),
        maps={name: _mean_map(part, k, place, drawn) for k, name in enumerate(part.question.maps)},
    )


def _mean_map(part: Partial, k: int, place: Int64Array, resamples: Resamples) -> MeanMap:
    """Of the k-th map; place (C,) is each cluster's identity among those that are drawn."""
    name, groups = part.question.maps[k], part.groups.num_rows
    good = part.good[:, k]
    number = by_group(good, part.group, groups)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = by_group(part.share[name], part.group, groups, np.float64) / number
        variance = np.maximum(part.spread[name] / number - (mean - 1 / max(1, mean.shape[1])) ** 2, 0)
    low, high = intervals(resamples, part.group, place, part.share[name], good[:, None].astype(np.float64), groups)
    shape = (groups, *part.grids[name])
    return MeanMap(
        mean=mean.reshape(shape),
        std=np.sqrt(variance).reshape(shape),
        mean_low=low.reshape(shape),
        mean_high=high.reshape(shape),
    )


def by_group(values: NDArray[Any], group: Int64Array, groups: int, dtype: DTypeLike | None = None) -> NDArray[Any]:
    """(C, ...) -> (G, ...): sums over the clusters of each group."""
    total = np.zeros((groups, *values.shape[1:]), dtype or values.dtype)
    for g, rows in enumerate(rows_by_group(group, groups)):
        total[g] = values[rows].sum(axis=0, dtype=total.dtype)
    return total
