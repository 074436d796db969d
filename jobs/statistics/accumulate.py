"""One streaming pass over a run's maps: sums per identity and group that merge with `+` (no torch).

One thread reads while another adds up, slice by slice in the order of shards and rows, and a third sums the numbers
that mining stored (entropy, areas, ...). Only the area90 of a run of the first version takes a second look at its maps.

Legend: N images, G groups, C clusters (one identity in one group), M = h*w patches, K maps.
Memory: 30 + 24*K bytes per image, 300*K + 4*M*K bytes per cluster (12*M*K in one of more
than 64 images), and the sample; not the maps.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cam.measures import STRIPES, stripe_weights
from jobs.statistics.loops import GOOD, NOT_FINITE, ZERO, add_maps
from jobs.statistics.map_slices import chosen_maps, grid_of
from jobs.statistics.partial import Partial, Sample
from jobs.statistics.prefetch import prefetched
from jobs.statistics.question import Selection
from jobs.statistics.stored import STORED, stored_numbers

# The order is that of the files of `--block`, to which area90 came last.
MEASURED = (*STORED[:-1], *(f"stripe_{i}" for i in range(STRIPES)), STORED[-1])

_AHEAD = 2  # slices that wait to be added up
_MANY = 64  # images of a cluster whose sum is taken in double precision

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]


def accumulate(selection: Selection) -> Partial:
    """One pass over the chosen maps, in contiguous slices of each dataset.

    The selection was made with `stored_columns`. Raises UserError naming a map or file that is not there.
    """
    maps, sampled = selection.question.maps, selection.sampled()
    grids = {name: grid_of(selection, name) for name in maps}
    with ThreadPoolExecutor(1) as pool:
        counting = pool.submit(stored_numbers, selection, grids)
        found = {name: map_sums(selection, name, grids[name], sampled) for name in maps}
        numbers = counting.result()
    goods = np.stack([selection.images - f.zero - f.not_finite for f in found.values()], axis=1).astype(np.float64)
    stripes = np.stack([_stripes(found[name].share, grids[name]) for name in maps], axis=1)
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
        grids=grids,
        groups=selection.groups,
        group=selection.group,
        pid=selection.pid,
        images=selection.images,
        sums=_measured(numbers.sums, stripes),
        counts=_measured(numbers.counts, np.repeat(goods[:, :, None], STRIPES, axis=2)),
        zero=np.stack([f.zero for f in found.values()], axis=1),
        not_finite=np.stack([f.not_finite for f in found.values()], axis=1),
        share={name: f.share for name, f in found.items()},
        spread={name: f.spread for name, f in found.items()},
        histogram=numbers.histogram,
        sample=sample,
    )


def _measured(stored: Doubles, stripes: Doubles) -> Doubles:
    """(C, K, STORED) and (C, K, 6) -> (C, K, MEASURED)."""
    return np.concatenate([stored[:, :, :-1], stripes, stored[:, :, -1:]], axis=2)


@dataclass(frozen=True, kw_only=True)
class MapSums:
    """One map's sums: zero, not_finite (C,), share (C, M), spread (G, M); sample (n, M)."""

    zero: Ints
    not_finite: Ints
    share: Floats
    spread: Doubles
    sample: Floats


def map_sums(selection: Selection, name: str, grid: tuple[int, int], sampled: NDArray[np.bool_]) -> MapSums:
    """The sums of one map over all chosen images."""
    clusters, groups, patches = len(selection.pid), selection.groups.num_rows, grid[0] * grid[1]
    state = np.zeros(len(selection.rows), np.int8)
    many = selection.images > _MANY
    place, large = np.where(many, np.cumsum(many) - 1, -1), np.zeros((int(many.sum()), patches))
    share, spread = np.zeros((clusters, patches), np.float32), np.zeros((groups, patches))
    sample = np.empty((int(sampled.sum()), patches), np.float32)
    kept = 0
    for at, maps in prefetched(chosen_maps(selection, name), _AHEAD):
        flat = maps.reshape(len(maps), patches)
        add_maps(flat, selection.cluster[at], selection.group, state[at], share, place, large, spread)
        some = np.flatnonzero(sampled[at])
        sample[kept : kept + len(some)] = flat[some]
        kept += len(some)
    share[many] = large
    sample[state[sampled] != GOOD] = np.nan
    sample /= sample.sum(axis=1, keepdims=True)
    return MapSums(
        zero=np.bincount(selection.cluster[state == ZERO], minlength=clusters),
        not_finite=np.bincount(selection.cluster[state == NOT_FINITE], minlength=clusters),
        share=share,
        spread=spread,
        sample=sample,
    )


def _stripes(share: Floats, grid: tuple[int, int]) -> Doubles:
    """(C, M) -> (C, 6) sums of the mass in each horizontal stripe."""
    h, w = grid
    if not h:
        return np.zeros((0, STRIPES))
    return (share @ np.repeat(stripe_weights(h), w, axis=0).astype(np.float32)).astype(np.float64)
