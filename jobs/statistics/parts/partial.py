"""What one pass over some shards leaves: sums per identity and group (no torch).

Legend: G groups, C clusters (one identity in one group), P identities, N sampled images, M = h*w patches, K maps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from jobs.arrays import Float32Array, Float64Array, Int64Array
from jobs.identity import NOBODY
from jobs.statistics.question import Question


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
class Partial:
    """Sums over some shards.

    groups: G rows of group values. identities (P,): texts. group, identity, images (C,): of each cluster, in order of
    (group, identity); `identity` is a place in `identities`, or NOBODY. sums, counts (C, K, measures) float64. zero,
    not_finite (C, K). share: map -> (C, M) float32, sums of maps that were normalised to sum 1. spread: map -> (G, M)
    float64, sums of the squares of their differences from the uniform map. histogram (G, K, distributions, bins).
    """

    question: Question
    shards: tuple[str, ...]
    grids: dict[str, tuple[int, int]]
    groups: pa.Table
    identities: pa.StringArray
    group: Int64Array
    identity: Int64Array
    images: Int64Array
    sums: Float64Array
    counts: Float64Array
    zero: Int64Array
    not_finite: Int64Array
    share: dict[str, Float32Array]
    spread: dict[str, Float64Array]
    histogram: Int64Array
    sample: SampledImages

    @property
    def good(self) -> Int64Array:
        """(C, K) how many maps have a shape: neither all zero nor with a non-finite value."""
        return self.images[:, None] - self.zero - self.not_finite

    @property
    def persons(self) -> Int64Array:
        """(G,) how many identities are in each group."""
        return np.bincount(self.group[self.identity != NOBODY], minlength=self.groups.num_rows)
