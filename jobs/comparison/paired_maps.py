"""The maps of pairs of images, slice by slice, on the same cells of the image (no torch).

Legend: n pairs of a shard, M cells.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cam.measures import measure_maps
from cam.placement import GridPlacement
from jobs.arrays import Float32Array, Float64Array, Int32Array, Int64Array
from jobs.comparison.pairing import Pairing, ShardPairs
from jobs.errors import UserError
from jobs.runs.heads.names import is_head
from jobs.runs.run import Run
from jobs.statistics.chosen import ChosenImages
from jobs.statistics.map_slices import read_slices
from jobs.statistics.prefetch import prefetched
from jobs.statistics.regrid import CommonGrid, Regrid

OF_EACH = ("com_x", "com_y", "area50")  # what is measured of each map alone
_Slices = Iterator[tuple[slice, Float32Array]]


@dataclass(frozen=True, kw_only=True)
class PairSlice:
    """Some of a shard's n pairs, and the maps (k, M) of one name that both runs have of them.

    at: their positions among the pairs. clusters (n,): those of all pairs of the shard. measures_a, measures_b: see
    `measures_of`.
    """

    pairs: ShardPairs
    clusters: Int32Array
    name: str
    grid: CommonGrid
    at: slice
    a: Float32Array
    b: Float32Array
    measures_a: Float64Array | None
    measures_b: Float64Array | None

    @property
    def is_last(self) -> bool:
        """Whether it is the shard's last one of this map."""
        return bool(self.at.stop == len(self.pairs.keys))


def pair_slices(chosen: ChosenImages, pairing: Pairing) -> Iterator[PairSlice]:
    """All pairs of the chosen images: shard by shard, of each map by map, and of each slice by slice.

    The images of the next shard are joined meanwhile. Nothing in the maps is below zero, as in `read_slices`. Raises
    UserError where a shard's maps are of another size than those of the first shard with a pair, and CamError where
    they are of another one than run.json has.
    """
    a, b, grids = pairing.a, pairing.b, dict[str, CommonGrid]()
    for pairs, span in prefetched(_pairs(chosen, pairing), 1):
        if not len(pairs.keys):
            continue
        clusters = chosen.cluster[span][pairs.chosen]
        for name in chosen.question.maps:
            if name not in grids:
                grids[name] = _common_grid(a, b, name, pairs)
            for at, one, other in _of_shard(a, b, name, pairs):
                yield PairSlice(
                    pairs=pairs,
                    clusters=clusters,
                    name=name,
                    grid=grids[name],
                    at=at,
                    a=_laid(one, grids[name].a, a, pairs.shard),
                    b=_laid(other, grids[name].b, b, pairs.shard),
                    measures_a=measures_of(a, name, one),
                    measures_b=measures_of(b, name, other),
                )


def measures_of(run: Run, name: str, maps: Float32Array) -> Float64Array | None:
    """(k, OF_EACH) of a head's maps (k, h, w); None for all other maps, of which mining stored them."""
    if not is_head(name):
        return None
    measured = measure_maps(maps, run.manifest.measured_placement)
    return np.stack([measured[measure] for measure in OF_EACH], axis=1).astype(np.float64)


def _pairs(chosen: ChosenImages, pairing: Pairing) -> Iterator[tuple[ShardPairs, slice]]:
    """The pairs of each shard, and its images' places among the chosen ones."""
    for shard, span in chosen.spans():
        yield pairing.of_shard(shard, chosen.rows[span].astype(np.int64)), span


def _common_grid(a: Run, b: Run, name: str, pairs: ShardPairs) -> CommonGrid:
    """The common grid of a map, by the sizes that it has in a shard with a pair."""
    return CommonGrid.of(_placement(a, name, pairs.shard, pairs.rows_a), _placement(b, name, pairs.shard, pairs.rows_b))


def _placement(run: Run, name: str, shard: str, rows: Int64Array) -> GridPlacement:
    """Where the patches of a run's map lie. Raises CamError for a map of another grid than run.json has."""
    h, w = run.read_maps(name, shard, rows[:1].tolist()).shape[1:]
    return GridPlacement.of_maps((h, w), run.manifest.placement)


def _of_shard(a: Run, b: Run, name: str, pairs: ShardPairs) -> Iterator[tuple[slice, Float32Array, Float32Array]]:
    """(positions among the pairs, maps of A (k, h, w), maps of B (k, h, w)) of one map of a shard."""
    return _aligned(read_slices(a, name, pairs.shard, pairs.rows_a), _in_order_of(b, name, pairs))


def _laid(maps: Float32Array, regrid: Regrid, run: Run, shard: str) -> Float32Array:
    if maps.shape[1:] != regrid.placement.grid:
        raise UserError(
            f"{run.layout.shard_maps(shard)} has maps of {maps.shape[1:]}, other shards of {regrid.placement.grid}: "
            "these are not one run's maps"
        )
    return regrid.apply(maps.reshape(len(maps), -1))


def _in_order_of(run: Run, name: str, pairs: ShardPairs) -> _Slices:
    """Run B's maps in the order of the pairs; where its tar had another order, a whole shard is read at once."""
    rows: Int64Array = pairs.rows_b
    if (np.diff(rows) > 0).all():
        yield from read_slices(run, name, pairs.shard, rows)
        return
    distinct, place = np.unique(rows, return_inverse=True)
    maps = np.concatenate([maps for _, maps in read_slices(run, name, pairs.shard, distinct)])
    yield slice(0, len(rows)), maps[place]


def _aligned(first: _Slices, second: _Slices) -> Iterator[tuple[slice, Float32Array, Float32Array]]:
    """Two ways to cut the same positions into slices -> slices that lie in one of each."""
    a = b = None
    start = 0
    while True:
        a = a if a is not None and a[0].stop > start else next(first, None)
        b = b if b is not None and b[0].stop > start else next(second, None)
        if a is None or b is None:
            return
        stop = min(a[0].stop, b[0].stop)
        yield (
            slice(start, stop),
            a[1][start - a[0].start : stop - a[0].start],
            b[1][start - b[0].start : stop - b[0].start],
        )
        start = stop
