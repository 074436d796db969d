"""Distances between features: quickly for a block of queries, exactly where a result depends on it.

Legend: N queries, M gallery images, D feature width, b queries of a block, P positions in the gallery.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np

from jobs.arrays import Float32Array, Float64Array, FloatArray, Int64Array
from jobs.errors import UserError

_UNIT = 2.0**-24  # unit roundoff of float32
_ROWS = 128  # rows of features that are held in float64 at a time: they stay in the processor's cache


class Distances(Protocol):
    """Distances of each query to the gallery: quickly for many, exactly for few."""

    @property
    def margin(self) -> float:
        """No value of `rows` is farther from that of `exact` than this."""

    def rows(self, start: int, stop: int) -> FloatArray:
        """(stop - start, M) distances of these queries, in a floating type; the caller may write into them."""

    def exact(self, query: int, positions: Int64Array) -> Float64Array:
        """(P,) float64 distances of one query to gallery positions; each depends on the two images alone."""


class EuclideanDistances:
    """Squared Euclidean distances between L2-normalised features; a feature of length 0 stays 0."""

    def __init__(self, queries: Float32Array, gallery: Float32Array) -> None:
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

    def rows(self, start: int, stop: int) -> Float32Array:
        """(b, M) float32 from one matrix product: |q|^2 + |g|^2 - 2 q.g"""
        scale = self._query_scale[start:stop, None]
        queries = (self.queries[start:stop] * scale).astype(np.float32)
        found: Float32Array = queries @ self.gallery.T
        found *= (-2 * self._gallery_scale).astype(np.float32)
        found += (self._gallery_scale > 0).astype(np.float32)  # the squared length: 1, or 0 of a zero vector
        found += (scale > 0).astype(np.float32)
        return found

    def exact(self, query: int, positions: Int64Array) -> Float64Array:
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


def inverse_norms(features: Float32Array) -> Float64Array:
    """(N, D) -> (N,) 1 / length in float64, 0 for a vector of length 0. Raises UserError on NaN and infinity."""
    norms = np.empty(len(features))
    for start in range(0, len(features), _ROWS):
        part = features[start : start + _ROWS].astype(np.float64)
        norms[start : start + _ROWS] = np.sqrt(np.square(part).sum(axis=1))
    if not np.isfinite(norms).all():
        raise UserError(f"{int((~np.isfinite(norms)).sum())} features are not finite; mine their shards again")
    return np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)
