"""The retrieval protocol of person re-identification, exact and in blocks of queries: AP, INP, CMC, nearest images.

Legend: N queries, M gallery images, D feature width, C cameras of the gallery, K nearest that are kept.

Distances of a block come from one float32 matrix product. Rounding could swap neighbours there, so what decides a
result (a hit and whatever lies within the product's error of it) is compared again in float64, and equal distances keep
the gallery's order: the ranks are those of a full stable sort of float64 distances, whatever the size of a block.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from jobs.errors import UserError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
CMC_RANKS = 50
JUNK = -1
_UNIT = 2.0**-24  # unit roundoff of float32
_ROWS = 128  # rows of features that are held in float64 at a time: they stay in the processor's cache


@dataclass(frozen=True)
class Side:
    """The queries or the gallery: features (N, D) float32, pid (N,) and camid (N,) int64."""

    features: NDArray[np.float32]
    pid: Integers
    camid: Integers

    def __len__(self) -> int:
        return len(self.pid)


class Distances(Protocol):
    """Distances of each query to the gallery: quickly for many, exactly for few."""

    @property
    def margin(self) -> float:
        """No value of `rows` is farther from that of `exact` than this."""

    def rows(self, start: int, stop: int) -> NDArray[Any]:
        """(stop - start, M) distances of these queries, in a floating type; the caller may write into them."""

    def exact(self, query: int, positions: Integers) -> Floats:
        """(P,) float64 distances of one query to gallery positions; each depends on the two images alone."""


class EuclideanDistances:
    """Squared Euclidean distances between L2-normalised features; a feature of length 0 stays 0."""

    def __init__(self, queries: NDArray[np.float32], gallery: NDArray[np.float32]) -> None:
        self.queries, self.gallery = queries, gallery
        self._query_scale, self._gallery_scale = inverse_norms(queries), inverse_norms(gallery)
        # A float32 inner product of unit vectors is off by lambda sqrt(D) u at most, but for a chance that falls with
        # exp(-lambda^2 / 2) (Higham and Mary 2019, doi:10.1137/18M1226312). Terms of one sign summed one by one, the
        # worst case, have a standard error of sqrt(D) u / 4, so that lambda = 4 is 16 of it; 8 u for other roundings.
        self._margin = 2 * _UNIT * (4 * math.sqrt(queries.shape[1]) + 8)

    @property
    def margin(self) -> float:
        """Bound of the float32 error."""
        return self._margin

    def rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """(b, M) float32 from one matrix product: |q|^2 + |g|^2 - 2 q.g"""
        scale = self._query_scale[start:stop, None]
        queries = (self.queries[start:stop] * scale).astype(np.float32)
        found = queries @ self.gallery.T
        found *= (-2 * self._gallery_scale).astype(np.float32)
        found += (self._gallery_scale > 0).astype(np.float32)  # the squared length: 1, or 0 of a zero vector
        found += (scale > 0).astype(np.float32)
        return found

    def exact(self, query: int, positions: Integers) -> Floats:
        """(P,) sums of squared differences in float64."""
        wanted = self.queries[query] * self._query_scale[query]
        found = np.empty(len(positions))
        for start in range(0, len(positions), _ROWS):
            part = positions[start : start + _ROWS]
            difference = self.gallery[part] * self._gallery_scale[part, None]
            difference -= wanted
            np.square(difference, out=difference)
            found[start : start + _ROWS] = difference.sum(axis=1)
        return found


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """What the protocol says per query; a query without a match has NaN, 0 hits and first rank 0.

    ap, inp (N,); matches (N,) count; first (N,) rank of the first hit, 1-based; nearest (N, K) gallery positions, -1
    beyond the gallery's end, and distances (N, K); camera_* (N, C) the same numbers with the gallery of one camera,
    whose ids are `cameras` (C,) in rising order.
    """

    ap: Floats
    inp: Floats
    matches: Integers
    first: Integers
    nearest: Integers
    distances: Floats
    cameras: Integers
    camera_ap: Floats
    camera_inp: Floats
    camera_first: Integers


def rank_gallery(queries: Side, gallery: Side, distances: Distances, *, topk: int, block: int) -> Ranking:
    """Ranks the gallery for every query, `block` queries at a time; memory beside the inputs is O(block M + N (K + C)).

    Gallery images of the query's pid and camid are left out of its ranking; junk must not be in the gallery.
    """
    count = len(queries)
    cameras, camera_of = np.unique(gallery.camid, return_inverse=True)
    identities = IdentityIndex(gallery)
    found = Ranking(
        ap=np.full(count, np.nan),
        inp=np.full(count, np.nan),
        matches=np.zeros(count, np.int64),
        first=np.zeros(count, np.int64),
        nearest=np.full((count, topk), -1, np.int64),
        distances=np.full((count, topk), np.nan),
        cameras=cameras,
        camera_ap=np.full((count, len(cameras)), np.nan),
        camera_inp=np.full((count, len(cameras)), np.nan),
        camera_first=np.zeros((count, len(cameras)), np.int64),
    )

    def rank_block(start: int) -> None:  # a function, so that one block is gone before the next one comes
        for query, row in enumerate(distances.rows(start, min(start + block, count)), start):
            hits, left_out = identities.split(int(queries.pid[query]), int(queries.camid[query]))
            row[left_out] = np.inf
            exact = partial(distances.exact, query)
            _keep_nearest(found, query, *nearest(row, topk, exact, distances.margin))
            if len(hits):
                ranks, in_camera = hit_ranks(row, hits, camera_of, exact, distances.margin)
                _keep_ranks(found, query, ranks, in_camera, camera_of[hits])

    for start in range(0, count, block):
        rank_block(start)
    return found


class IdentityIndex:
    """Finds the gallery images of an identity without looking at all."""

    def __init__(self, gallery: Side) -> None:
        self._order = np.argsort(gallery.pid, kind="stable")
        self._pid, self._camid = gallery.pid[self._order], gallery.camid

    def split(self, pid: int, camid: int) -> tuple[Integers, Integers]:
        """Positions of a query's hits, and of the images that its ranking leaves out, each rising."""
        low, high = np.searchsorted(self._pid, [pid, pid + 1])
        same = self._order[low:high]
        elsewhere = self._camid[same] != camid
        return same[elsewhere], same[~elsewhere]


def nearest(
    row: NDArray[Any], count: int, exact: Callable[[Integers], Floats], margin: float
) -> tuple[Integers, Floats]:
    """Positions and float64 distances of the `count` nearest of (M,), nearest first; infinite ones never come."""
    bound = np.partition(row, count - 1)[count - 1] if count < len(row) else np.inf
    candidates = np.flatnonzero((row <= bound + 2 * margin) & (row < np.inf))
    distances = exact(candidates)
    order = np.argsort(distances, kind="stable")[:count]
    return candidates[order], distances[order]


def hit_ranks(
    row: NDArray[Any], hits: Integers, groups: Integers, exact: Callable[[Integers], Floats], margin: float
) -> tuple[Integers, Integers]:
    """(M,) distances, (H,) positions -> (H,) 1-based ranks of the hits among all, and among their own group.

    Windows of twice the margin around the hits cut the axis of distances: what lies between two windows is counted,
    and only what shares a window with a hit is compared exactly. `groups` (M,) numbers the gallery's cameras from 0.
    """
    edges = _windows(row[hits], margin)
    near = np.flatnonzero(row <= edges[-1])
    slot = np.searchsorted(edges, row[near])
    group = groups[near]
    # Odd slots are windows, even slots the space before the window that follows.
    inside = slot % 2 == 1
    slots, width = len(edges) + 1, int(group.max()) + 1
    outside = np.bincount(group[~inside] * slots + slot[~inside], minlength=width * slots)
    before = outside.reshape(width, slots).cumsum(axis=1)
    near, slot, group = near[inside], slot[inside], group[inside]
    crowded = np.bincount(slot, minlength=slots)[slot] > 1
    distances = np.zeros(len(near))
    distances[crowded] = exact(near[crowded])
    order = np.lexsort((distances, slot))  # stable, and `near` rises: ties keep the gallery's order
    near, slot, group = near[order], slot[order], group[order]
    position = np.arange(1, len(near) + 1)
    overall = before.sum(axis=0)[slot] + position
    by_group = np.argsort(group, kind="stable")
    sizes = np.bincount(group, minlength=width)
    in_group = np.empty_like(position)
    in_group[by_group] = position - (sizes.cumsum() - sizes)[group[by_group]]
    in_group += before[group, slot]
    at = np.argsort(near)
    wanted = at[np.searchsorted(near, hits, sorter=at)]
    return overall[wanted], in_group[wanted]


def average_precision(ranks: Integers) -> float:
    """Mean of the precisions at the hits, whose 1-based ranks rise."""
    return float((np.arange(1, len(ranks) + 1) / ranks).mean())


def summarise(ap: Floats, inp: Floats, first: Integers) -> dict[str, Any]:
    """mAP, mINP and CMC at 1 to 50 over the queries that have a match; null where none has."""
    valid = first > 0
    count = int(valid.sum())
    if count == 0:
        return {"queries": 0, "mAP": None, "mINP": None, "cmc": [None] * CMC_RANKS}
    counts = np.bincount(np.minimum(first[valid], CMC_RANKS + 1), minlength=CMC_RANKS + 2)
    cmc = counts[1 : CMC_RANKS + 1].cumsum() / count
    return {"queries": count, "mAP": float(ap[valid].mean()), "mINP": float(inp[valid].mean()), "cmc": cmc.tolist()}


def inverse_norms(features: NDArray[np.float32]) -> Floats:
    """(N, D) -> (N,) 1 / length in float64, 0 for a vector of length 0. Raises UserError on NaN and infinity."""
    norms = np.empty(len(features))
    for start in range(0, len(features), _ROWS):
        part = features[start : start + _ROWS].astype(np.float64)
        norms[start : start + _ROWS] = np.sqrt(np.square(part).sum(axis=1))
    if not np.isfinite(norms).all():
        raise UserError(f"{int((~np.isfinite(norms)).sum())} features are not finite; mine their shards again")
    return np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)


def _windows(distances: NDArray[Any], margin: float) -> NDArray[Any]:
    """(H,) -> (2W,) rising: low and high ends of the windows (low, high] around the distances, merged if they touch."""
    centres = np.sort(distances)
    # One step lower, so that the distance itself is inside also without a margin.
    low, high = np.nextafter(centres - 2 * margin, -np.inf, dtype=centres.dtype), centres + 2 * margin
    apart = low[1:] > high[:-1]
    edges = np.stack([low[np.append(True, apart)], high[np.append(apart, True)]], axis=1)
    return edges.astype(centres.dtype).ravel()


def _keep_nearest(found: Ranking, query: int, positions: Integers, distances: Floats) -> None:
    found.nearest[query, : len(positions)] = positions
    found.distances[query, : len(positions)] = distances


def _keep_ranks(found: Ranking, query: int, ranks: Integers, in_camera: Integers, cameras: Integers) -> None:
    ranks = np.sort(ranks)
    found.matches[query], found.first[query] = len(ranks), ranks[0]
    found.ap[query], found.inp[query] = average_precision(ranks), len(ranks) / ranks[-1]
    for camera in np.unique(cameras):
        own = np.sort(in_camera[cameras == camera])
        found.camera_first[query, camera] = own[0]
        found.camera_ap[query, camera], found.camera_inp[query, camera] = average_precision(own), len(own) / own[-1]
