"""The numbers of each group: means over images, their bootstrap intervals, and counts.

Legend: G groups, C clusters, K maps, V measures in the order of MEASURED.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from jobs.arrays import Float64Array, Int64Array
from jobs.identity import NOBODY
from jobs.progress import told
from jobs.statistics.groups import distinct
from jobs.statistics.intervals.bootstrap import Means, intervals, rows_by_group
from jobs.statistics.intervals.resamples import Resamples
from jobs.statistics.parts.partial import GroupSpan, Partial


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


@told("resampling identities")
def summarise(part: Partial, resamples: int) -> GroupSummary:
    """Means and their intervals. Images of nobody count as one identity in resamples, and as none in n_identities."""
    people, place = distinct(part.identity)
    drawn = Resamples(len(people), resamples, part.question.seed)
    maps = [_map_summary(part, k, place, drawn) for k in range(len(part.question.maps))]

    def stacked(name: str) -> NDArray[Any]:
        return np.stack([getattr(one, name) for one in maps], axis=1)

    return GroupSummary(
        value=stacked("value"),
        low=stacked("low"),
        high=stacked("high"),
        n_images=stacked("n_images"),
        n_identities=stacked("n_identities"),
        images=by_group(part.images, part.group, part.groups.num_rows),
        zero=stacked("zero"),
        not_finite=stacked("not_finite"),
        maps={name: one.map for name, one in zip(part.question.maps, maps, strict=True)},
    )


@dataclass(frozen=True, kw_only=True)
class _MapSummary:
    """What a GroupSummary says of one map."""

    value: Float64Array
    low: Float64Array
    high: Float64Array
    n_images: Int64Array
    n_identities: Int64Array
    zero: Int64Array
    not_finite: Int64Array
    map: MeanMap


def _map_summary(part: Partial, k: int, place: Int64Array, resamples: Resamples) -> _MapSummary:
    """Of the k-th map, some groups at a time; place (C,) is each cluster's identity among those that are drawn."""
    some = [_span_summary(part, k, span, place, resamples) for span in part.spans()]

    def joined(of: Sequence[_MapSummary] | Sequence[MeanMap]) -> dict[str, Any]:
        names = [field.name for field in fields(of[0]) if field.name != "map"]
        return {name: np.concatenate([getattr(one, name) for one in of]) for name in names}

    return _MapSummary(**joined(some), map=MeanMap(**joined([one.map for one in some])))


def _span_summary(part: Partial, k: int, span: GroupSpan, place: Int64Array, resamples: Resamples) -> _MapSummary:
    """Of the k-th map in some groups."""
    found = part.clusters.of_map(k, span.clusters)
    group, groups = part.group[span.clusters] - span.groups.start, span.groups.stop - span.groups.start
    good = part.good(found, span.clusters)
    persons = (found.counts > 0) & (part.identity[span.clusters] != NOBODY)[:, None]
    means = [Means(found.sums, found.counts), Means(found.share, good[:, None])]
    of_measures, of_map = intervals(resamples, group, place[span.clusters], means, groups)
    sums, counts = by_group(found.sums, group, groups), by_group(found.counts, group, groups)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = sums / counts
    mean, std = _mean_and_deviation(part, k, span, by_group(found.share, group, groups, np.float64), good, group)
    shape = (groups, *part.grids[part.question.maps[k]])
    return _MapSummary(
        value=value,
        low=of_measures.low,
        high=of_measures.high,
        n_images=counts.astype(np.int64),
        n_identities=by_group(persons, group, groups, np.int64),
        zero=by_group(found.zero, group, groups),
        not_finite=by_group(found.not_finite, group, groups),
        map=MeanMap(
            mean=mean.reshape(shape),
            std=std.reshape(shape),
            mean_low=of_map.low.reshape(shape),
            mean_high=of_map.high.reshape(shape),
        ),
    )


def _mean_and_deviation(
    part: Partial, k: int, span: GroupSpan, share: Float64Array, good: Int64Array, group: Int64Array
) -> tuple[Float64Array, Float64Array]:
    """(g, M) each, of the k-th map in some groups: of sums of `share`, and how many maps of each cluster are good."""
    number = by_group(good, group, len(share))[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = share / number
        spread = part.spread[part.question.maps[k]][span.groups] / number
        variance = np.maximum(spread - (mean - 1 / max(1, mean.shape[1])) ** 2, 0)
    return mean, np.sqrt(variance)


def by_group(values: NDArray[Any], group: Int64Array, groups: int, dtype: DTypeLike | None = None) -> NDArray[Any]:
    """(C, ...) -> (G, ...): sums over the clusters of each group."""
    total = np.zeros((groups, *values.shape[1:]), dtype or values.dtype)
    for g, rows in enumerate(rows_by_group(group, groups)):
        total[g] = values[rows].sum(axis=0, dtype=total.dtype)
    return total
