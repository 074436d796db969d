"""Images whose map is far from the mean map of their identity: a second pass over one map of a run.

Legend: C clusters (one identity in one group), P identities of a part, M patches.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc

from jobs.arrays import Float32Array, Int64Array
from jobs.identity import NOBODY
from jobs.progress import LongTask
from jobs.runs.run import Run
from jobs.statistics.chosen import ChosenImages
from jobs.statistics.loops import distances
from jobs.statistics.map_slices import read_slices
from jobs.statistics.parts.partial import Partial


@dataclass(frozen=True, kw_only=True)
class Outlier:
    """An image far from its identity's mean map; `distance` is the share of mass that lies elsewhere, 0 to 1."""

    key: str
    shard: str
    identity: str
    distance: float


class _FarImage(NamedTuple):
    """`identity` is a place in the part's identities."""

    distance: float
    shard: str
    row: int
    identity: int


def find_outliers(
    run: Run, blocks: Iterable[ChosenImages], part: Partial, number: int, threads: int = 1
) -> list[Outlier]:
    """The `number` images whose first map is farthest (total variation) from the mean of their identity's chosen maps.

    Farthest first; images of nobody are left out. This is a second pass over that one map: no distance is known before
    the means are. `blocks` are the chosen images, one block of shards after another, and `part` the sums over them all.
    """
    if not len(part.identities) or not number:
        return []
    means = identity_means(part)
    found: list[_FarImage] = []
    task = LongTask("looking for outliers", len(part.shards), "shard")
    with ThreadPoolExecutor(threads) as pool, task:
        for chosen in blocks:
            farthest = partial(_farthest, chosen, means, _places(chosen, part), number)
            for some in pool.map(farthest, chosen.spans()):
                task.advance()
                found = sorted([*found, *some], key=lambda far: (-far.distance, far.shard, far.row))[:number]
    keys = {shard: run.read_keys(shard) for shard in {far.shard for far in found}}
    names = part.identities
    return [
        Outlier(key=keys[f.shard][f.row], shard=f.shard, identity=names[f.identity].as_py(), distance=f.distance)
        for f in found
    ]


def identity_means(part: Partial) -> Float32Array:
    """(P, M) the mean of the first map over all images of each identity."""
    h, w = part.grids[part.question.maps[0]]
    sums, counts = np.zeros((len(part.identities), h * w)), np.zeros(len(part.identities))
    for span in part.spans():
        found = part.clusters.of_map(0, span.clusters)
        good, identity = part.good(found, span.clusters), part.identity[span.clusters]
        clusters = np.flatnonzero(identity != NOBODY)
        clusters = clusters[np.argsort(identity[clusters], kind="stable")]
        who, starts = np.unique(identity[clusters], return_index=True)
        if len(who):
            sums[who] += np.add.reduceat(found.share[clusters], starts, axis=0, dtype=np.float64)
            counts[who] += np.add.reduceat(good[clusters], starts)
    means = np.empty(sums.shape, np.float32)
    np.divide(sums, np.maximum(counts, 1)[:, None], out=means, casting="same_kind")
    return means


def _places(chosen: ChosenImages, part: Partial) -> Int64Array:
    """(C,) the place in the part's identities of each chosen cluster's identity; NOBODY where it has none."""
    places = pc.fill_null(pc.index_in(chosen.identities, value_set=part.identities), NOBODY).to_numpy()
    found = np.full(len(chosen.identity), NOBODY, np.int64)
    known = chosen.identity != NOBODY
    found[known] = places[chosen.identity[known]]
    return found


def _farthest(
    chosen: ChosenImages, means: Float32Array, place: Int64Array, number: int, span: tuple[str, slice]
) -> list[_FarImage]:
    """The farthest images of one shard, whose positions among the chosen ones are the slice of `span`."""
    shard, positions = span
    rows, places = chosen.rows[positions], place[chosen.cluster[positions]]
    distance = np.empty(len(rows), np.float32)
    for at, maps in read_slices(chosen.run, chosen.question.maps[0], shard, rows):
        distances(maps.reshape(len(maps), -1), places[at], means, distance[at])
    first = np.argsort(-distance, kind="stable")[:number]
    return [_FarImage(float(distance[i]), shard, int(rows[i]), int(places[i])) for i in first if distance[i] >= 0]
