"""How similar a query's map is to the maps of its matches: one number per query, from the stored maps.

Legend: N queries, b maps of a block, h x w patches of a map.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from jobs.arrays import Float64Array, Int64Array
from jobs.identity import NOBODY
from jobs.retrieval.selection import SideRows
from jobs.runs.run import Run, positions_by_shard
from jobs.statistics.intervals.weighted import weighted_pearson

_ROWS = 4096  # maps read at a time


def match_consistency(
    run: Run, name: str, queries: SideRows, gallery: SideRows, own: Int64Array | None = None
) -> Float64Array:
    """(N,) Pearson correlation of each query's map with the mean map of its matching gallery images.

    Matching images have the query's identity and another camera; with `own`, as in `rank_gallery`, any camera, but are
    not the query itself. Maps are taken as distributions (mass 1) before the mean, so that a map of large values has no
    larger say. NaN where nothing matches, a map has no mass, or one is flat.

    Each map is read once. One mean map per identity and camera is held in memory.
    """
    means = _CameraMeans(run, name, gallery)
    found = np.full(len(queries), np.nan)
    for positions, maps in _read_in_blocks(run, name, queries.table, np.arange(len(queries))):
        for position, share in zip(positions.tolist(), _shares(maps), strict=True):
            identity = int(queries.identity[position])
            if own is None:
                mean = means.of_other_cameras(identity, int(queries.camid[position]))
            else:
                mean = means.of_others(identity, share if own[position] >= 0 else None)
            if mean is not None:
                found[position] = weighted_pearson(share, mean, np.ones((1, len(mean))))[0]
    return found


class _CameraMeans:
    """Sums of the maps of each identity in each camera."""

    def __init__(self, run: Run, name: str, gallery: SideRows) -> None:
        known = np.flatnonzero(gallery.identity != NOBODY)
        pairs = np.stack([gallery.identity[known], gallery.camid[known]], axis=1)
        self._pairs, pair_of = np.unique(pairs, axis=0, return_inverse=True)
        pair_of_row = np.full(len(gallery), -1, np.int64)
        pair_of_row[known] = pair_of.reshape(-1)
        self._sums = np.zeros((len(self._pairs), 0))
        self._counts = np.zeros(len(self._pairs))
        for positions, maps in _read_in_blocks(run, name, gallery.table, known):
            if not self._sums.size:
                self._sums = np.zeros((len(self._pairs), maps.shape[1]))
            shares = _shares(maps)
            good = ~np.isnan(shares[:, 0])
            np.add.at(self._sums, pair_of_row[positions[good]], shares[good])
            np.add.at(self._counts, pair_of_row[positions[good]], 1)

    def of_other_cameras(self, identity: int, camid: int) -> Float64Array | None:
        """(h*w,) the mean map of an identity in all other cameras; None where there is none."""
        low, high = np.searchsorted(self._pairs[:, 0], [identity, identity + 1])
        matching = np.flatnonzero(self._pairs[low:high, 1] != camid) + low
        count = self._counts[matching].sum()
        return np.asarray(self._sums[matching].sum(axis=0) / count) if count > 0 else None

    def of_others(self, identity: int, own: Float64Array | None) -> Float64Array | None:
        """(h*w,) the mean map of an identity but for the query's `own`, if that is in it; None where there is none."""
        low, high = np.searchsorted(self._pairs[:, 0], [identity, identity + 1])
        total, count = self._sums[low:high].sum(axis=0), self._counts[low:high].sum()
        if own is not None and not np.isnan(own[0]):
            total, count = total - own, count - 1
        return np.asarray(total / count) if count > 0 else None


def _shares(maps: Float64Array) -> Float64Array:
    """(b, h*w) -> the same with every row's sum 1, or NaN."""
    mass = maps.sum(axis=1, keepdims=True)
    shares: Float64Array = np.divide(maps, mass, out=np.full_like(maps, np.nan), where=mass > 0)
    return shares


def _read_in_blocks(
    run: Run, name: str, table: pa.Table, wanted: Int64Array
) -> Iterator[tuple[Int64Array, Float64Array]]:
    """(positions in the table, maps (b, h*w) float64) of the wanted positions, by shard in the order of h5 rows."""
    rows = table["h5_row"].to_numpy()
    for places in positions_by_shard(table["shard"].take(wanted)).values():
        positions = wanted[places]
        positions = positions[np.argsort(rows[positions], kind="stable")]
        for start in range(0, len(positions), _ROWS):
            part = positions[start : start + _ROWS]
            yield part, run.maps_of(name, table.take(part)).reshape(len(part), -1).astype(np.float64)
