"""The retrieval protocol of person re-identification, exact and in blocks of queries: AP, INP, ranks, nearest images.

Legend: N queries, M gallery images, D feature width, C cameras of the gallery, K nearest that are kept.

Distances of a block come from one float32 matrix product, whose rounding could swap neighbours. So what decides a
result (a hit and whatever lies within the product's error of it) is compared again in float64, and equal distances keep
the gallery's order. The ranks are those of a full stable sort of float64 distances, whatever the size of a block.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from jobs.arrays import Float32Array, Float64Array, Int64Array
from jobs.identity import NOBODY
from jobs.progress import LongTask
from jobs.retrieval.distances import Distances
from jobs.retrieval.ranks import average_precision, hit_ranks, nearest


@dataclass(frozen=True)
class Side:
    """The queries or the gallery: features (N, D) float32, identity (N,) and camid (N,) int64.

    Images of equal `identity` show the same person; those of NOBODY match no other image.
    """

    features: Float32Array
    identity: Int64Array
    camid: Int64Array

    def __len__(self) -> int:
        return len(self.identity)


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """The results of each query; one without a match has NaN, 0 matches and first rank 0.

    ap, inp (N,); matches (N,) count; first (N,) rank of the first hit, 1-based; nearest (N, K) gallery positions, -1
    beyond the gallery's end, and distances (N, K); camera_* (N, C) the same numbers with the gallery of one camera,
    whose ids are `cameras` (C,) in rising order.
    """

    ap: Float64Array
    inp: Float64Array
    matches: Int64Array
    first: Int64Array
    nearest: Int64Array
    distances: Float64Array
    cameras: Int64Array
    camera_ap: Float64Array
    camera_inp: Float64Array
    camera_first: Int64Array


def rank_gallery(
    queries: Side, gallery: Side, distances: Distances, *, topk: int, block: int, own: Int64Array | None = None
) -> Ranking:
    """Ranks the gallery for every query, `block` queries at a time; memory beside the inputs is O(block M + N (K + C)).

    Gallery images of the query's identity and camera are left out of its ranking. With `own` (N,) they are ranked, and
    only the query's own image is left out: own[n] is its place in the gallery, or -1. Junk must not be in the gallery.
    """
    count = len(queries)
    cameras, camera_of = np.unique(gallery.camid, return_inverse=True)
    identities = IdentityIndex(gallery)
    found = _empty_ranking(count, topk, cameras)

    def rank_block(start: int) -> None:  # a function, so that one block is freed before the next one is made
        for query, row in enumerate(distances.rows(start, min(start + block, count)), start):
            identity, camid = int(queries.identity[query]), int(queries.camid[query])
            if own is None:
                hits, left_out = identities.split(identity, camid)
            else:
                hits, left_out = identities.split_own(identity, int(own[query]))
            row[left_out] = np.inf
            exact = partial(distances.exact, query)
            _keep_nearest(found, query, *nearest(row, topk, exact, distances.margin))
            if len(hits):
                ranks, in_camera = hit_ranks(row, hits, camera_of, exact, distances.margin)
                _keep_ranks(found, query, ranks, in_camera, camera_of[hits])

    with LongTask("ranking the gallery", count, "query", "queries") as task:
        for start in range(0, count, block):
            rank_block(start)
            task.advance(min(block, count - start))
    return found


class IdentityIndex:
    """Finds the gallery images of an identity without looking at all."""

    def __init__(self, gallery: Side) -> None:
        self._order = np.argsort(gallery.identity, kind="stable")
        self._identity, self._camid = gallery.identity[self._order], gallery.camid

    def split(self, identity: int, camid: int) -> tuple[Int64Array, Int64Array]:
        """Positions of a query's hits, and of the images that its ranking leaves out, each rising."""
        same = self._images_of(identity)
        elsewhere = self._camid[same] != camid
        return same[elsewhere], same[~elsewhere]

    def split_own(self, identity: int, own: int) -> tuple[Int64Array, Int64Array]:
        """The same, where the query's own camera counts and only its own image, at `own` or -1, is left out."""
        same = self._images_of(identity)
        return same[same != own], np.array([own] if own >= 0 else [], np.int64)

    def _images_of(self, identity: int) -> Int64Array:
        """Rising positions."""
        if identity == NOBODY:
            return np.zeros(0, np.int64)
        low, high = np.searchsorted(self._identity, [identity, identity + 1])
        return self._order[low:high]


def _empty_ranking(count: int, topk: int, cameras: Int64Array) -> Ranking:
    by_camera = (count, len(cameras))
    return Ranking(
        ap=np.full(count, np.nan),
        inp=np.full(count, np.nan),
        matches=np.zeros(count, np.int64),
        first=np.zeros(count, np.int64),
        nearest=np.full((count, topk), -1, np.int64),
        distances=np.full((count, topk), np.nan),
        cameras=cameras,
        camera_ap=np.full(by_camera, np.nan),
        camera_inp=np.full(by_camera, np.nan),
        camera_first=np.zeros(by_camera, np.int64),
    )


def _keep_nearest(found: Ranking, query: int, positions: Int64Array, distances: Float64Array) -> None:
    found.nearest[query, : len(positions)] = positions
    found.distances[query, : len(positions)] = distances


def _keep_ranks(found: Ranking, query: int, ranks: Int64Array, in_camera: Int64Array, cameras: Int64Array) -> None:
    ranks = np.sort(ranks)
    found.matches[query], found.first[query] = len(ranks), ranks[0]
    found.ap[query], found.inp[query] = average_precision(ranks), len(ranks) / ranks[-1]
    for camera in np.unique(cameras):
        own = np.sort(in_camera[cameras == camera])
        found.camera_first[query, camera] = own[0]
        found.camera_ap[query, camera], found.camera_inp[query, camera] = average_precision(own), len(own) / own[-1]
