"""One streaming pass over a run's maps: sums per identity and group that merge with `+` (no torch).

One thread reads and normalises while another adds up, slice by slice in the order of shards and rows. What is no sum
over patches (entropy, areas, ...) was stored by mining.

Legend: n maps in hand, N images, G groups, C clusters (one identity in one group), M = h*w patches, K maps.
Memory: 40 + 24*K bytes per image, 160*K + 4*M*K bytes per cluster, and the sample; not the maps.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import h5py
import numpy as np
from numpy.typing import NDArray

from cam.measures import STRIPES, stripe_weights
from jobs.errors import UserError
from jobs.prefetch import prefetched
from jobs.shard_file import MAPS
from jobs.stats_partial import Partial, Sample
from jobs.stats_selection import Selection
from jobs.stats_shares import GOOD, NOT_FINITE, ZERO, held_area, normalise
from jobs.stats_stored import STORED, area90_column, histograms, stored_sums
from jobs.store import Run

MEASURED = (*STORED, *(f"stripe_{i}" for i in range(STRIPES)), "area90")

_READ = 2 << 20  # bytes in one call of HDF5: 4096 of 16x8 maps
_SLICE = 1024  # rows in hand: 0.5 MB of them stay in a core's cache
_AHEAD = 8  # slices that wait to be added to the identities
_FEW = 32

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]
Codes = NDArray[np.int32]


def accumulate(selection: Selection) -> Partial:
    """One pass over the chosen maps: each dataset is read once, in contiguous slices.

    Raises UserError naming a map or file that is not there.
    """
    maps, sampled = selection.question.maps, selection.sampled()
    with ThreadPoolExecutor(1) as pool:
        stored = pool.submit(stored_sums, selection)
        found = {name: map_sums(selection, name, sampled) for name in maps}
        sums, counts = stored.result()
    goods = np.stack([selection.images - f.zero - f.not_finite for f in found.values()], axis=1).astype(np.float64)
    mapped = np.stack([np.column_stack([_stripes(f), f.area90]) for f in found.values()], axis=1)
    names = np.array(selection.shards, str) if selection.shards else np.zeros(0, "U1")
    sample = Sample(
        share=np.stack([f.sample for f in found.values()], axis=1),
        group=selection.group[selection.cluster[sampled]],
        pid=selection.pid[selection.cluster[sampled]],
        camid=selection.camid[sampled].astype(np.int64),
        shard=names[selection.shard_of[sampled]],
        row=selection.rows[sampled].astype(np.int64),
    )
    return Partial(
        question=selection.question,
        shards=selection.shards,
        grids={name: f.grid for name, f in found.items()},
        groups=selection.groups,
        group=selection.group,
        pid=selection.pid,
        images=selection.images,
        sums=np.concatenate([sums, mapped], axis=2),
        counts=np.concatenate([counts, np.repeat(goods[:, :, None], mapped.shape[2], axis=2)], axis=2),
        zero=np.stack([f.zero for f in found.values()], axis=1),
        not_finite=np.stack([f.not_finite for f in found.values()], axis=1),
        share={name: f.share for name, f in found.items()},
        total={name: f.total for name, f in found.items()},
        spread={name: f.spread for name, f in found.items()},
        histogram=histograms(selection, [f.grid[0] * f.grid[1] for f in found.values()]),
        sample=sample,
    )


@dataclass(frozen=True, kw_only=True)
class MapSums:
    """One map's sums: area90, zero, not_finite (C,), share (C, M), total, spread (G, M); sample (n, M)."""

    grid: tuple[int, int]
    area90: Doubles
    zero: Ints
    not_finite: Ints
    share: Floats
    total: Doubles
    spread: Doubles
    sample: Floats


@dataclass(frozen=True, kw_only=True)
class _Slice:
    """Some maps of one shard: their place among the N images, their share (n, M), zero for a map without shape, and the
    squares (n, M) of its difference from the uniform map; sample (s, M)."""

    shard: str
    grid: tuple[int, int]
    place: slice
    share: Floats
    squares: Floats
    sample: Floats


def map_sums(selection: Selection, name: str, sampled: NDArray[np.bool_]) -> MapSums:
    """The sums of one map over all chosen images."""
    clusters, groups = len(selection.pid), selection.groups.num_rows
    area, state = _stored_area90(selection, name), np.zeros(len(selection.rows), np.int8)
    grid, share = (0, 0), np.zeros((1, 0), np.float32)
    total, spread = np.zeros((groups, 0)), np.zeros((groups, 0))
    last = np.zeros(clusters, np.int32)
    kept: list[Floats] = []
    for part in prefetched(_slices(selection, name, sampled, area, state), _AHEAD):
        if grid == (0, 0):
            grid, patches = part.grid, part.grid[0] * part.grid[1]
            share = np.zeros((clusters + 1, patches), np.float32)  # the last row is nobody's
            total, spread = (np.zeros((groups, patches)) for _ in range(2))
        if grid != part.grid:
            raise UserError(f"{part.shard}: {name} is {part.grid}, elsewhere {grid}: not one run's maps")
        kept.append(part.sample)
        group, added, squared = _group_sums(selection, part)
        total[group] += added
        spread[group] += squared
        cluster, added = _distinct_rows(selection.cluster[part.place], part.share, last)
        share[cluster] += added
    return MapSums(
        grid=grid,
        area90=np.bincount(selection.cluster, area, clusters).astype(np.float64),  # of no image: integers
        zero=np.bincount(selection.cluster[state == ZERO], minlength=clusters),
        not_finite=np.bincount(selection.cluster[state == NOT_FINITE], minlength=clusters),
        share=share[:-1],
        total=total,
        spread=spread,
        sample=np.concatenate(kept) if kept else np.zeros((0, share.shape[1]), np.float32),
    )


def _stored_area90(selection: Selection, name: str) -> Doubles:
    """(N,) as mining stored it; NaN where it did not, as in runs of an earlier version."""
    column = area90_column(name)
    if column not in selection.columns:
        return np.full(len(selection.rows), np.nan)
    return selection.column(column).astype(np.float64)


def _stripes(found: MapSums) -> Doubles:
    """(C, 6) sums of the mass in each horizontal stripe."""
    h, w = found.grid
    if not h:
        return np.zeros((0, STRIPES))
    return (found.share @ np.repeat(stripe_weights(h), w, axis=0).astype(np.float32)).astype(np.float64)


def _slices(
    selection: Selection, name: str, sampled: NDArray[np.bool_], area: Doubles, state: NDArray[np.int8]
) -> Iterator[_Slice]:
    """All chosen maps. The state of each goes into place, and so does an area90 that is missing there (0 for a map
    without shape)."""
    for shard, span in selection.spans():
        for at, maps in read_slices(selection.run, name, shard, selection.rows[span]):
            place = slice(span.start + at.start, span.start + at.stop)
            share, state[place] = normalise(maps)
            bad = state[place] != GOOD
            missing = np.isnan(area[place]) & ~bad
            if missing.any():
                area[place][missing] = held_area(share[missing], 0.9)
            # Squares about the uniform map: about zero, a variance much smaller than the mean would be lost in float32.
            squares = share - np.float32(1 / share.shape[1])
            squares *= squares
            chosen = share[sampled[place]]
            if bad.any():
                area[place][bad], squares[bad], chosen[bad[sampled[place]]] = 0, 0, np.nan
            grid = (maps.shape[1], maps.shape[2])
            yield _Slice(shard=shard, grid=grid, place=place, share=share, squares=squares, sample=chosen)


def _group_sums(selection: Selection, part: _Slice) -> tuple[Ints, Floats, Floats]:
    """The groups (g,) of some maps and the sums (g, M) of share and squares; of a few by products, which are faster."""
    of = selection.group[selection.cluster[part.place]]
    if selection.groups.num_rows <= _FEW:
        group = np.arange(selection.groups.num_rows)
        member = (group[:, None] == of).astype(np.float32)
        return group, member @ part.share, member @ part.squares
    order, starts = _runs(of)
    total, spread = (np.add.reduceat(values[order], starts, axis=0) for values in (part.share, part.squares))
    return of[order[starts]], total, spread


def _distinct_rows(cluster: Codes, share: Floats, last: Codes) -> tuple[Codes, Floats]:
    """The same sums with each cluster but once, so that `+=` adds them all; `last` (C,) is scratch.

    Images of one cluster lie side by side where shards were packed by name. Of shuffled images few share a cluster with
    another: those are added to the last of it, and left to nobody (C).
    """
    starts = np.flatnonzero(np.append(True, cluster[1:] != cluster[:-1]))
    if len(starts) <= len(cluster) // 2:
        cluster, share = cluster[starts], np.add.reduceat(share, starts, axis=0)
    at = np.arange(len(cluster), dtype=np.int32)
    last[cluster] = at
    again = np.flatnonzero(last[cluster] != at)
    if not len(again):
        return cluster, share
    if len(again) > len(cluster) // 4:
        order, starts = _runs(cluster)
        return cluster[order[starts]], np.add.reduceat(share[order], starts, axis=0)
    np.add.at(share, last[cluster[again]], share[again])
    cluster = cluster.copy()
    cluster[again] = len(last)
    return cluster, share


def _runs(codes: NDArray[np.integer]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The order (n,) that sorts codes, ties as they come, and where each distinct code starts in it."""
    order = np.argsort(codes, kind="stable")
    ordered = codes[order]
    return order, np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))


def read_slices(run: Run, name: str, shard: str, rows: NDArray[np.integer]) -> Iterator[tuple[slice, Floats]]:
    """(positions in `rows`, their maps (n, h, w)) for rising h5 rows, from whole slices of chunks, to keep or change.

    Raises UserError naming what is missing.
    """
    path = run.layout.shard_maps(shard)
    try:
        file = h5py.File(path, "r", locking=False)
    except OSError as error:
        raise UserError(f"cannot open {path}: {error}") from error
    with file:
        if f"{MAPS}/{name}" not in file:
            raise UserError(f"{path} has no map {name!r}")
        dataset = file[f"{MAPS}/{name}"]
        if int(rows[-1]) >= len(dataset):
            raise UserError(f"{path}: {name} has {len(dataset)} rows, but the metadata name row {int(rows[-1])}")
        row = 4 * int(np.prod(dataset.shape[1:]))
        step = max(1, _READ // row // dataset.chunks[0]) * dataset.chunks[0]
        for start in range(int(rows[0]) // step * step, int(rows[-1]) + 1, step):
            stop = min(start + step, len(dataset))
            first, last = (int(i) for i in np.searchsorted(rows, [start, stop]))
            if first == last:
                continue
            buffer = np.empty((stop - start, *dataset.shape[1:]), np.float32)
            try:
                dataset.read_direct(buffer, np.s_[start:stop])
            except OSError as error:
                raise UserError(f"cannot read {name} from {path}, rows {start} to {stop}: {error}") from error
            whole = last - first == stop - start
            for at in range(first, last, _SLICE):
                part = slice(at, min(at + _SLICE, last))
                yield part, buffer[part.start - first : part.stop - first] if whole else buffer[rows[part] - start]
