"""What one pass over some shards leaves: sums per identity and group (no torch).

Legend: G groups, C clusters (one identity in one group), P identities, N sampled images, M = h*w patches, K maps, V
measures. Sums of clusters are asked for a map and some clusters at a time: of millions of clusters they take gigabytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from jobs.arrays import Float32Array, Float64Array, Int64Array
from jobs.identity import NOBODY
from jobs.statistics.question import Question

_CLUSTERS_AT_A_TIME = 1 << 16


@dataclass(frozen=True, kw_only=True)
class SampledImages:
    """Images of sampled identities, in order of (shard, row): share (N, K, M) float32, NaN for a map without mass.

    `group` and `identity` (N,) are places in the groups and identities of the Partial that holds the sample.
    """

    share: Float32Array
    group: Int64Array
    identity: Int64Array
    camid: Int64Array
    shard: NDArray[np.str_]
    row: Int64Array


@dataclass(frozen=True, kw_only=True)
class SumsOfMap:
    """One map's sums in n clusters.

    sums, counts (n, V): of the measures. zero, not_finite (n,). share (n, M): sums of maps that were normalised to
    sum 1.
    """

    sums: Float64Array
    counts: Float64Array
    zero: Int64Array
    not_finite: Int64Array
    share: Float32Array


class ClusterSums(Protocol):
    """The sums of all clusters, wherever they are."""

    def of_map(self, k: int, clusters: slice) -> SumsOfMap:
        """Those of the k-th map in a range of clusters, whose ends are not negative; nobody may change them."""


@dataclass(frozen=True, kw_only=True)
class KeptSums:
    """Sums in memory: sums, counts (C, K, V), zero, not_finite (C, K), and the share (C, M) of each map."""

    sums: Float64Array
    counts: Float64Array
    zero: Int64Array
    not_finite: Int64Array
    share: Mapping[str, Float32Array]

    def of_map(self, k: int, clusters: slice) -> SumsOfMap:
        """See ClusterSums."""
        return SumsOfMap(
            sums=self.sums[clusters, k],
            counts=self.counts[clusters, k],
            zero=self.zero[clusters, k],
            not_finite=self.not_finite[clusters, k],
            share=list(self.share.values())[k][clusters],
        )


@dataclass(frozen=True)
class GroupSpan:
    """Some groups, one after the other, and their clusters."""

    groups: slice
    clusters: slice


@dataclass(frozen=True, kw_only=True)
class Partial:
    """Sums over some shards.

    groups: G rows of group values. identities (P,): texts. group, identity, images (C,): of each cluster, in order of
    (group, identity); `identity` is a place in `identities`, or NOBODY. spread: map -> (G, M) float64, sums of the
    squares of the maps' differences from the uniform map. histogram (G, K, distributions, bins).
    """

    question: Question
    shards: tuple[str, ...]
    grids: dict[str, tuple[int, int]]
    groups: pa.Table
    identities: pa.StringArray
    group: Int64Array
    identity: Int64Array
    images: Int64Array
    clusters: ClusterSums
    spread: dict[str, Float64Array]
    histogram: Int64Array
    sample: SampledImages

    @property
    def persons(self) -> Int64Array:
        """(G,) how many identities are in each group."""
        return np.bincount(self.group[self.identity != NOBODY], minlength=self.groups.num_rows)

    def good(self, found: SumsOfMap, clusters: slice) -> Int64Array:
        """(n,) how many maps in these clusters have a shape: neither all zero nor with a non-finite value."""
        return self.images[clusters] - found.zero - found.not_finite

    def spans(self) -> Iterator[GroupSpan]:
        """All groups in their order, as many at a time as have few clusters, and at least one."""
        ends = np.searchsorted(self.group, np.arange(self.groups.num_rows), side="right")
        group = cluster = 0
        while group < len(ends):
            last = max(group + 1, int(np.searchsorted(ends, cluster + _CLUSTERS_AT_A_TIME, side="right")))
            yield GroupSpan(slice(group, last), slice(cluster, int(ends[last - 1])))
            group, cluster = last, int(ends[last - 1])
