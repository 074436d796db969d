"""One streaming pass over a run's maps: sums per identity and group that can be merged (no torch).

One thread reads while another adds up, slice by slice in the order of shards and rows, and a third sums the numbers
that mining stored (entropy, areas, ...). Only the area90 of a run of the first version takes a second look at its maps.

Legend: N images, G groups, C clusters (one identity in one group), M = h*w patches, K maps.
Memory: 30 + 24*K bytes per image; 300*K + 4*M*K bytes per cluster, or 12*M*K in one of more than 64 images; and the
sample. The maps are not kept.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from cam.measures import STRIPES, stripe_weights
from cam.placement import GridPlacement
from jobs.arrays import BoolArray, Float32Array, Float64Array, Int64Array
from jobs.progress import LongTask
from jobs.statistics.chosen import ChosenImages
from jobs.statistics.loops import GOOD, NOT_FINITE, ZERO, add_maps
from jobs.statistics.map_slices import chosen_maps, grid_of
from jobs.statistics.parts.partial import KeptSums, Partial, SampledImages
from jobs.statistics.prefetch import prefetched
from jobs.statistics.sampling import sampled_images
from jobs.statistics.stored import STORED, stored_numbers

# The order is that of the files of `--block`, to which area90 came last.
MEASURED = (*STORED[:-1], *(f"stripe_{i}" for i in range(STRIPES)), STORED[-1])

_AHEAD = 2  # slices that wait to be added up
_MANY = 64  # images of a cluster whose sum is taken in double precision


def accumulate(chosen: ChosenImages) -> Partial:
    """One pass over the chosen maps, in contiguous slices of each dataset.

    The images were chosen with `stored_columns`. Raises UserError naming a map or file that is not there.
    """
    maps, sampled = chosen.question.maps, sampled_images(chosen)
    grids = {name: grid_of(chosen, name) for name in maps}
    with ThreadPoolExecutor(1) as pool:
        counting = pool.submit(stored_numbers, chosen, grids)
        by_map = {name: map_sums(chosen, name, grids[name], sampled) for name in maps}
        numbers = counting.result()
    zero = np.stack([sums.zero for sums in by_map.values()], axis=1)
    not_finite = np.stack([sums.not_finite for sums in by_map.values()], axis=1)
    good = (chosen.images[:, None] - zero - not_finite).astype(np.float64)
    placed = chosen.run.manifest.measured_placement  # as the numbers that mining stored
    stripes = np.stack([_stripes(by_map[name].share, grids[name], placed) for name in maps], axis=1)
    return Partial(
        question=chosen.question,
        shards=chosen.shards,
        grids=grids,
        groups=chosen.groups,
        identities=chosen.identities,
        group=chosen.group,
        identity=chosen.identity,
        images=chosen.images,
        clusters=KeptSums(
            sums=_measured(numbers.sums, stripes),
            counts=_measured(numbers.counts, np.repeat(good[:, :, None], STRIPES, axis=2)),
            zero=zero,
            not_finite=not_finite,
            share={name: sums.share for name, sums in by_map.items()},
        ),
        spread={name: sums.spread for name, sums in by_map.items()},
        histogram=numbers.histogram,
        sample=_sample(chosen, sampled, np.stack([sums.sample for sums in by_map.values()], axis=1)),
    )


def _sample(chosen: ChosenImages, sampled: BoolArray, share: Float32Array) -> SampledImages:
    shards = np.array(chosen.shards, str) if chosen.shards else np.zeros(0, "U1")
    return SampledImages(
        share=share,
        group=chosen.group[chosen.cluster[sampled]],
        identity=chosen.identity[chosen.cluster[sampled]],
        camid=chosen.camid[sampled].astype(np.int64),
        shard=shards[chosen.shard_of[sampled]],
        row=chosen.rows[sampled].astype(np.int64),
    )


def _measured(stored: Float64Array, stripes: Float64Array) -> Float64Array:
    """(C, K, STORED) and (C, K, 6) -> (C, K, MEASURED)."""
    return np.concatenate([stored[:, :, :-1], stripes, stored[:, :, -1:]], axis=2)


@dataclass(frozen=True, kw_only=True)
class MapSums:
    """One map's sums: zero, not_finite (C,), share (C, M), spread (G, M); sample (n, M)."""

    zero: Int64Array
    not_finite: Int64Array
    share: Float32Array
    spread: Float64Array
    sample: Float32Array


def map_sums(chosen: ChosenImages, name: str, grid: tuple[int, int], sampled: BoolArray) -> MapSums:
    """The sums of one map over all chosen images."""
    clusters, groups, patches = len(chosen.identity), chosen.groups.num_rows, grid[0] * grid[1]
    state = np.zeros(len(chosen.rows), np.int8)
    many = chosen.images > _MANY
    place, large = np.where(many, np.cumsum(many) - 1, -1), np.zeros((int(many.sum()), patches))
    share, spread = np.zeros((clusters, patches), np.float32), np.zeros((groups, patches))
    sample = np.empty((int(sampled.sum()), patches), np.float32)
    kept = 0
    with LongTask(f"adding up {name}", len(state), "map") as task:
        for at, maps in prefetched(chosen_maps(chosen, name), _AHEAD):
            flat = maps.reshape(len(maps), patches)
            add_maps(flat, chosen.cluster[at], chosen.group, state[at], share, place, large, spread)
            some = np.flatnonzero(sampled[at])
            sample[kept : kept + len(some)] = flat[some]
            kept += len(some)
            task.advance(len(maps))
    share[many] = large
    sample[state[sampled] != GOOD] = np.nan
    sample /= sample.sum(axis=1, keepdims=True)
    return MapSums(
        zero=np.bincount(chosen.cluster[state == ZERO], minlength=clusters),
        not_finite=np.bincount(chosen.cluster[state == NOT_FINITE], minlength=clusters),
        share=share,
        spread=spread,
        sample=sample,
    )


def _stripes(share: Float32Array, grid: tuple[int, int], placed: GridPlacement | None) -> Float64Array:
    """(C, M) -> (C, 6) sums of the mass in each horizontal stripe."""
    if not grid[0]:
        return np.zeros((0, STRIPES))
    placement = GridPlacement.of_maps(grid, placed)
    weights = np.repeat(stripe_weights(placement.rows), placement.columns.count, axis=0)
    return (share @ weights.astype(np.float32)).astype(np.float64)
