"""Correlations row by row, and ranks (numpy only).

Legend: N rows of M values.
"""

from __future__ import annotations

import numpy as np

from jobs.arrays import Float64Array


def pearson(a: Float64Array, b: Float64Array) -> Float64Array:
    """(N, M), (N, M) -> (N,) correlation row by row; NaN where a row is constant."""
    x, y = _centred(a), _centred(b)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((x * y).sum(axis=1) / np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1)))


def mean_ranks(values: Float64Array) -> Float64Array:
    """(N, M) -> (N, M) ranks from 1 within each row; equal values share the mean of their ranks."""
    order = np.argsort(values, axis=1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=1)
    place = np.broadcast_to(np.arange(values.shape[1]), values.shape)
    starts = np.ones(values.shape, bool)
    starts[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    ends = np.ones(values.shape, bool)
    ends[:, :-1] = starts[:, 1:]
    first = np.maximum.accumulate(np.where(starts, place, 0), axis=1)
    last = np.minimum.accumulate(np.where(ends, place, values.shape[1])[:, ::-1], axis=1)[:, ::-1]
    ranks = np.empty(values.shape)
    np.put_along_axis(ranks, order, (first + last) / 2 + 1, axis=1)
    return ranks


def _centred(values: Float64Array) -> Float64Array:
    """Each row without its mean; zeros for a constant row, whose deviations would be rounding errors."""
    centred: Float64Array = values - values.mean(axis=1, keepdims=True)
    centred[np.ptp(values, axis=1) == 0] = 0
    return centred
