"""One streaming pass over a run's maps: sums per identity and group that merge with `+` (no torch).

Legend: n maps in hand, N images, G groups, C clusters (one identity in one group), M = h*w patches, K maps. What is no
sum over patches (entropy, ...) was stored by mining; mean maps, stripes and area90 come from the maps themselves.
Memory: 40 + 20*K bytes per image, 160*K + 4*M*K bytes per cluster, and the sample; not the maps.
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
from jobs.shard_file import MAPS
from jobs.stats_partial import Partial, Sample
from jobs.stats_selection import Selection
from jobs.stats_shares import GOOD, NOT_FINITE, ZERO, held_area, normalise
from jobs.stats_stored import STORED, histograms, stored_sums
from jobs.store import Run

MEASURED = (*STORED, *(f"stripe_{i}" for i in range(STRIPES)), "area90")

_READ = 4 << 20  # bytes in one call of HDF5: 8192 of 16x8 maps
_SLICE = 1024  # rows in hand: 0.5 MB of them stay in a core's cache
_FEW = 32
_SHORT = 4

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]


def accumulate(selection: Selection, threads: int) -> Partial:
    """One pass over the chosen maps: each dataset is read once, in contiguous slices.

    Raises UserError naming a map or file that is not there.
    """
    maps, sampled = selection.question.maps, selection.sampled()
    found = {name: map_sums(selection, name, sampled, threads) for name in maps}
    sums, counts = stored_sums(selection)
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
    """Sums over one slice of a shard: of its clusters (c,) and groups (g,), each of them once."""

    cluster: NDArray[np.int32]
    group: Ints
    share: Floats
    total: Floats
    spread: Floats
    sample: Floats


def map_sums(selection: Selection, name: str, sampled: NDArray[np.bool_], threads: int) -> MapSums:
    """Adds up in the order of shards and rows, so that sums do not depend on the number of threads."""
    clusters, groups = len(selection.pid), selection.groups.num_rows
    area, state = np.zeros(len(selection.rows)), np.zeros(len(selection.rows), np.int8)
    grid: tuple[int, int] | None = None
    kept: list[Floats] = []

    def slices(item: tuple[str, slice]) -> tuple[tuple[int, int], list[_Slice]]:
        _, span = item
        return _shard_sums(selection, name, *item, sampled[span], area[span], state[span])

    spans = selection.spans()
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(spans), threads):  # a few at a time: what waits to be added takes memory
            some = spans[start : start + threads]
            for (shard, _), (size, parts) in zip(some, pool.map(slices, some), strict=True):
                if grid is None:
                    grid, patches = size, size[0] * size[1]
                    share = np.zeros((clusters, patches), np.float32)
                    total, spread = (np.zeros((groups, patches)) for _ in range(2))
                if grid != size:
                    raise UserError(f"{shard}: {name} is {size}, elsewhere {grid}: not one run's maps")
                for part in parts:
                    share[part.cluster] += part.share
                    total[part.group] += part.total
                    spread[part.group] += part.spread
                    kept.append(part.sample)
    if grid is None:
        grid, share, total, spread = (0, 0), np.zeros((0, 0), np.float32), np.zeros((0, 0)), np.zeros((0, 0))
    return MapSums(
        grid=grid,
        area90=np.bincount(selection.cluster, area, clusters).astype(np.float64),  # of no image: integers
        zero=np.bincount(selection.cluster[state == ZERO], minlength=clusters),
        not_finite=np.bincount(selection.cluster[state == NOT_FINITE], minlength=clusters),
        share=share,
        total=total,
        spread=spread,
        sample=np.concatenate(kept) if kept else np.zeros((0, share.shape[1]), np.float32),
    )


def _stripes(found: MapSums) -> Doubles:
    """(C, 6) sums of the mass in each horizontal stripe."""
    h, w = found.grid
    if not h:
        return np.zeros((0, STRIPES))
    return (found.share @ np.repeat(stripe_weights(h), w, axis=0).astype(np.float32)).astype(np.float64)


def _shard_sums(
    selection: Selection,
    name: str,
    shard: str,
    span: slice,
    sampled: NDArray[np.bool_],
    area: Doubles,
    state: NDArray[np.int8],
) -> tuple[tuple[int, int], list[_Slice]]:
    """The grid, and the sums of each slice; area90 (0 for a map without shape) and state of each map go into place."""
    grid, parts, clusters = (0, 0), [], selection.cluster[span]
    for at, maps in read_slices(selection.run, name, shard, selection.rows[span]):
        grid = (maps.shape[1], maps.shape[2])
        share, state[at] = normalise(maps)
        good = state[at] == GOOD
        area[at] = np.where(good, held_area(share, 0.9), 0)
        # Squares about the uniform map: about zero, a variance much smaller than the mean would be lost in float32.
        centred = share - np.float32(1 / share.shape[1]) * good[:, None]
        cluster, chosen = clusters[at], sampled[at]
        order, starts = _runs(cluster)
        group, of = np.unique(selection.group[cluster], return_inverse=True)
        parts.append(
            _Slice(
                cluster=cluster[order[starts]],
                group=group,
                share=_run_sums(share, order, starts),
                total=_group_sums(share, of, len(group)),
                spread=_group_sums(centred * centred, of, len(group)),
                sample=np.where(good[chosen, None], share[chosen], np.float32(np.nan)),
            )
        )
    return grid, parts


def _runs(codes: NDArray[np.integer]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The order (n,) that sorts codes, ties as they come, and where each distinct code starts in it."""
    order = np.argsort(codes, kind="stable")
    ordered = codes[order]
    return order, np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))


def _run_sums(values: Floats, order: NDArray[np.intp], starts: NDArray[np.intp]) -> Floats:
    """(n, M) -> (c, M) sums over the runs that start at `starts` in `order`."""
    if len(starts) == len(order):
        return values[order]
    lengths = np.diff(starts, append=len(order))
    if lengths.max() > _SHORT:
        return np.add.reduceat(values[order], starts, axis=0)
    sums = values[order[starts]]  # shuffled images: nearly every run is one row
    for place in range(1, int(lengths.max())):
        longer = np.flatnonzero(lengths > place)
        sums[longer] += values[order[starts[longer] + place]]
    return sums


def _group_sums(values: Floats, group: NDArray[np.intp], groups: int) -> Floats:
    """(n, M) -> (g, M) sums over the rows of each group; of a few groups by a matrix product, which is faster."""
    if groups > _FEW:
        return _run_sums(values, *_runs(group))
    sums: Floats = (np.arange(groups)[:, None] == group).astype(np.float32) @ values
    return sums


def read_slices(run: Run, name: str, shard: str, rows: NDArray[np.integer]) -> Iterator[tuple[slice, Floats]]:
    """(positions in `rows`, their maps (n, h, w)) for rising h5 rows, from whole slices of chunks; good until the next.

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
        buffer = np.empty((min(step, len(dataset)), *dataset.shape[1:]), np.float32)
        for start in range(int(rows[0]) // step * step, int(rows[-1]) + 1, step):
            stop = min(start + step, len(dataset))
            first, last = (int(i) for i in np.searchsorted(rows, [start, stop]))
            if first == last:
                continue
            try:
                dataset.read_direct(buffer, np.s_[start:stop], np.s_[: stop - start])
            except OSError as error:
                raise UserError(f"cannot read {name} from {path}, rows {start} to {stop}: {error}") from error
            whole = last - first == stop - start
            for at in range(first, last, _SLICE):
                part = slice(at, min(at + _SLICE, last))
                yield part, buffer[part.start - first : part.stop - first] if whole else buffer[rows[part] - start]
