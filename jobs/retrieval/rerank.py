"""Re-ranking by k-reciprocal encoding (Zhong et al. 2017, arXiv:1701.08398), sparse and in blocks.

Legend: N queries, M gallery images, A = N + M images together, queries first; K = k1 + 1 nearest of an image, itself
among them. The neighbours of all images, their encodings V (sparse rows) and one block of distances are all that is
held: no A x A and no N x M matrix.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from jobs.arrays import BoolArray, Float32Array, Float64Array, Int32Array, Int64Array
from jobs.errors import UserError
from jobs.progress import LongTask, told, tracked
from jobs.retrieval.distances import EuclideanDistances
from jobs.retrieval.ranks import nearest

_BLOCK = 256  # images whose neighbourhoods are compared at a time: 256 (k1+1)^2 (k1/2+1) bytes, 1.3 MB for k1 = 20


@dataclass(frozen=True, kw_only=True)
class RerankConfig:
    """Settings of the re-ranking; the defaults are the paper's.

    k1: neighbours that count as reciprocal. k2: neighbours whose encodings are averaged. weight: of the plain distance.
    """

    k1: int = 20
    k2: int = 6
    weight: float = 0.3

    @property
    def half(self) -> int:
        """Neighbours of a neighbour, itself among them: half of k1 (rounded half to even) and one."""
        return int(np.around(self.k1 / 2)) + 1

    def memory(self, images: int) -> int:
        """Bytes that the neighbours and encodings of so many images can take at most, features not counted."""
        longest = min(images, (self.k1 + 1) * (self.half + 1))
        averaged = min(images, longest * self.k2)
        # Encodings are 12 bytes an entry; while the averaged ones are sorted by column they exist twice.
        return images * (max(self.k1 + 1, self.k2) * 4 + longest * 12 + averaged * 24 + 16)


@dataclass(frozen=True)
class SparseRows:
    """Rows of (position, weight) pairs end to end; row i is `start[i]:start[i + 1]`, its positions rise."""

    start: Int64Array
    positions: Int32Array
    weights: Float64Array

    def row(self, index: int) -> tuple[Int32Array, Float64Array]:
        """Positions and weights of one row."""
        part = slice(int(self.start[index]), int(self.start[index + 1]))
        return self.positions[part], self.weights[part]

    def gather(self, rows: NDArray[np.integer]) -> tuple[Int64Array, Int64Array]:
        """(index into `rows`, index into `positions`) of every pair of these rows, row after row."""
        lengths = self.start[rows + 1] - self.start[rows]
        which = np.repeat(np.arange(len(rows)), lengths)
        return which, np.arange(len(which)) + (self.start[rows] - (lengths.cumsum() - lengths))[which]


class RerankedDistances:
    """(1 - weight) * Jaccard distance of the encodings + weight * squared distance / the query's largest one."""

    def __init__(self, features: Float32Array, queries: int, config: RerankConfig, block: int) -> None:
        """`features` (A, D), those of the queries first. Takes about A^2 D multiplications."""
        if config.k1 < 1 or config.k2 < 1 or not 0 <= config.weight <= 1:
            raise UserError(f"re-ranking needs k1, k2 >= 1 and a lambda from 0 to 1, not {config}")
        self._config, self._size = config, len(features) - queries
        self._plain = EuclideanDistances(features[:queries], features[queries:])
        neighbours, self._scale = find_neighbours(features, config, block)
        encoding = encode(neighbours, EuclideanDistances(features, features), self._scale, config)
        averaged = average(encoding, neighbours, config.k2)
        self._scale = self._scale[:queries]
        self._rows, self._columns = split_encoding(averaged, queries)

    @property
    def margin(self) -> float:
        """The error of the float32 part, and 2^-50 for the float64 sum."""
        return self._config.weight * self._plain.margin / float(self._scale.min(initial=np.inf)) + 2.0**-50

    def rows(self, start: int, stop: int) -> Float64Array:
        """(b, M) float64, the plain distance's part from float32."""
        found = self._plain.rows(start, stop) * (self._config.weight / self._scale[start:stop, None])
        for query, row in enumerate(found, start):
            row += (1 - self._config.weight) * self._jaccard(query)
        return found

    def exact(self, query: int, positions: Int64Array) -> Float64Array:
        """(P,) float64."""
        jaccard: Float64Array = self._jaccard(query)[positions]
        if self._config.weight == 0:  # nearly all images tie at 1 then, and their features would be read for nothing
            return jaccard
        plain = self._plain.exact(query, positions) / self._scale[query]
        return np.asarray(jaccard * (1 - self._config.weight) + plain * self._config.weight)

    def _jaccard(self, query: int) -> Float64Array:
        """(M,) distances, equation 10 of the paper: 1 - sum of minima / sum of maxima, each encoding summing to 1."""
        columns, weights = self._rows.row(query)
        which, at = self._columns.gather(columns)
        smaller = np.minimum(weights[which], self._columns.weights[at])
        common = np.bincount(self._columns.positions[at], smaller, minlength=self._size)
        return np.asarray(1 - common / (2 - common))


def find_neighbours(features: Float32Array, config: RerankConfig, block: int) -> tuple[Int32Array, Float64Array]:
    """(A, D) -> (A, K) positions of the nearest, nearest first; (A,) squared distance to the farthest."""
    distances = EuclideanDistances(features, features)
    count = len(features)
    kept = min(max(config.k1 + 1, config.half, config.k2), count)
    neighbours, farthest = np.empty((count, kept), np.int32), np.empty(count)

    def search_block(start: int) -> None:  # a function, so that one block is freed before the next one is made
        for image, row in enumerate(distances.rows(start, min(start + block, count)), start):
            exact = partial(distances.exact, image)
            neighbours[image] = nearest(row, kept, exact, distances.margin)[0]
            far = np.flatnonzero(row >= row.max() - 2 * distances.margin)
            farthest[image] = exact(far).max()

    with LongTask("re-ranking: finding the nearest images", count, "image") as task:
        for start in range(0, count, block):
            search_block(start)
            task.advance(min(block, count - start))
    # Where all images are one and the same, every distance is 0 on any scale.
    return neighbours, np.where(farthest > 0, farthest, 1.0)


def encode(
    neighbours: Int32Array, distances: EuclideanDistances, scale: Float64Array, config: RerankConfig
) -> SparseRows:
    """V before averaging: exp(-distance) over the expanded k-reciprocal neighbours, made to sum to 1."""
    full, half = neighbours[:, : config.k1 + 1], neighbours[:, : config.half]
    halves = np.concatenate([_reciprocal(half, part) for part in _blocks(len(full))])
    lengths, positions, weights = [], [], []
    for part in tracked(list(_blocks(len(full))), f"re-ranking: comparing neighbourhoods of {_BLOCK} images", "block"):
        members = _expanded(full[part], _reciprocal(full, part), half, halves)
        for image, row in zip(range(part.start, part.stop), members, strict=True):
            expanded = np.unique(row[row >= 0])
            value = np.exp(-distances.exact(image, expanded) / scale[image])
            lengths.append(len(expanded))
            positions.append(expanded.astype(np.int32))
            weights.append(value / value.sum())
    return SparseRows(np.append(0, np.cumsum(lengths)), np.concatenate(positions), np.concatenate(weights))


def average(encoding: SparseRows, neighbours: Int32Array, count: int) -> SparseRows:
    """Local query expansion: each row becomes the mean of those of its `count` nearest, itself among them."""
    if count == 1:
        return encoding
    lengths, positions, weights = [], [], []
    for nearest_rows in tracked(neighbours[:, :count], "re-ranking: averaging", "image"):
        _, at = encoding.gather(nearest_rows)
        found, inverse = np.unique(encoding.positions[at], return_inverse=True)
        lengths.append(len(found))
        positions.append(found)
        weights.append(np.bincount(inverse, encoding.weights[at]) / len(nearest_rows))
    return SparseRows(np.append(0, np.cumsum(lengths)), np.concatenate(positions), np.concatenate(weights))


@told("re-ranking: sorting")
def split_encoding(encoding: SparseRows, queries: int) -> tuple[SparseRows, SparseRows]:
    """The queries' rows, and the gallery's part by column: for each of the A images who in the gallery refers to it."""
    cut, images = int(encoding.start[queries]), len(encoding.start) - 1
    rows = SparseRows(encoding.start[: queries + 1], encoding.positions[:cut], encoding.weights[:cut])
    column = encoding.positions[cut:]
    owner = np.repeat(np.arange(images - queries, dtype=np.int32), np.diff(encoding.start[queries:]))
    order = np.argsort(column, kind="stable")
    start = np.append(0, np.bincount(column, minlength=images).cumsum())
    return rows, SparseRows(start, owner[order], encoding.weights[cut:][order])


def _reciprocal(neighbours: Int32Array, part: slice) -> BoolArray:
    """(A, K) -> (b, K) whether each neighbour of these images has them among its own K."""
    images = np.arange(part.start, part.stop)
    return np.asarray((neighbours[neighbours[part]] == images[:, None, None]).any(axis=2))


def _expanded(full: Int32Array, reciprocal: BoolArray, half: Int32Array, halves: BoolArray) -> Int32Array:
    """(b, K + K * half) members of each image's expanded set, with repetitions; -1 is none (equation 5 of the paper).

    A reciprocal neighbour's own half-size reciprocal set joins where more than two thirds of it are members already.
    """
    mine = np.where(reciprocal, full, -1)
    theirs = np.where(halves[full] & reciprocal[:, :, None], half[full], -2)
    shared = (theirs[:, :, :, None] == mine[:, None, None, :]).any(axis=3).sum(axis=2)
    size = (theirs >= 0).sum(axis=2)
    joins = shared > 2 / 3 * size
    theirs = np.where(joins[:, :, None] & (theirs >= 0), theirs, -1)
    return np.concatenate([mine, theirs.reshape(len(full), -1)], axis=1)


def _blocks(count: int) -> list[slice]:
    return [slice(start, min(start + _BLOCK, count)) for start in range(0, count, _BLOCK)]
