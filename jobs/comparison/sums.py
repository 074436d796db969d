"""What one pass over the pairs of two runs leaves: sums per identity and group, and the most changed images (no torch).

Legend: N chosen images, C clusters (one identity in one group), G groups, K maps, M cells, V measures.
Memory: 28 bytes per image; 16*K*V + 4*K*M bytes per cluster; the keys of one shard at a time. The maps are not kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from jobs.arrays import Float32Array, Float64Array, Int64Array
from jobs.comparison.measures import MEASURES
from jobs.statistics.chosen import ChosenImages
from jobs.statistics.regrid import CommonGrid


@dataclass(frozen=True, kw_only=True)
class MapPairSums:
    """One map's sums.

    sums, counts (C, V): of the measures. difference (C, M), mean_a, mean_b (G, M): sums of shares of mass, B minus A
    and of each run. pairs (C,): pairs of which both maps have a shape. zero_a, zero_b, not_finite_a, not_finite_b (G,):
    how many maps do not.
    """

    grid: CommonGrid
    sums: Float64Array
    counts: Int64Array
    difference: Float32Array
    mean_a: Float64Array
    mean_b: Float64Array
    pairs: Int64Array
    zero_a: Int64Array
    zero_b: Int64Array
    not_finite_a: Int64Array
    not_finite_b: Int64Array

    @classmethod
    def empty(cls, grid: CommonGrid, clusters: int, groups: int) -> MapPairSums:
        """Before the first pair."""
        cells = grid.cells[0] * grid.cells[1]
        return cls(
            grid=grid,
            sums=np.zeros((clusters, len(MEASURES))),
            counts=np.zeros((clusters, len(MEASURES)), np.int64),
            difference=np.zeros((clusters, cells), np.float32),
            mean_a=np.zeros((groups, cells)),
            mean_b=np.zeros((groups, cells)),
            pairs=np.zeros(clusters, np.int64),
            **{name: np.zeros(groups, np.int64) for name in ("zero_a", "zero_b", "not_finite_a", "not_finite_b")},
        )


@dataclass(frozen=True, kw_only=True)
class ChangedImage:
    """One of the most changed images: its measures of the first map, in the order of MEASURES; NaN: not defined."""

    shard: str
    key: str
    values: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class QueryChange:
    """The measures (V,) of one image of which the average precision is known, by map, and its identity's place."""

    identity: int
    values: Mapping[str, Float64Array]


@dataclass(frozen=True, kw_only=True)
class PairedSums:
    """All sums. cluster_pairs (C,): pairs of each cluster, whatever their maps. queries: by (shard, key)."""

    chosen: ChosenImages
    maps: Mapping[str, MapPairSums]
    cluster_pairs: Int64Array
    changed: tuple[ChangedImage, ...]
    queries: Mapping[tuple[str, str], QueryChange]
