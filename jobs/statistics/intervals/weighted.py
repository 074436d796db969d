"""Correlations of two lists in which each entry counts as often as a bootstrap sample drew it.

Legend: N entries, B bootstrap samples.
"""

from __future__ import annotations

import numpy as np

from jobs.arrays import Float64Array

FEWEST = 3  # two points always lie on a line


def weighted_pearson(x: Float64Array, y: Float64Array, weights: Float64Array) -> Float64Array:
    """(N,), (N,), weights (B, N) -> (B,) Pearson correlations; NaN where a side does not vary or N < 3."""
    if len(x) < FEWEST:
        return np.full(len(weights), np.nan)
    return _pearson_of_rows(x[None], y[None], weights)


def weighted_spearman(x: Float64Array, y: Float64Array, weights: Float64Array) -> Float64Array:
    """`weighted_pearson` of the ranks in each sample; ties share their mean rank."""
    if len(x) < FEWEST:
        return np.full(len(weights), np.nan)
    return _pearson_of_rows(_ranks(x, weights), _ranks(y, weights), weights)


def _pearson_of_rows(x: Float64Array, y: Float64Array, weights: Float64Array) -> Float64Array:
    """(B or 1, N) twice, weights (B, N) -> (B,)"""
    total = weights.sum(axis=1, keepdims=True)
    # What centring leaves of a constant is rounding error, 1e-16 of its size, and not a variation.
    noise = [1e-26 * np.square(v).max() * total[:, 0] for v in (x, y)]
    x = x - (weights * x).sum(axis=1, keepdims=True) / total
    y = y - (weights * y).sum(axis=1, keepdims=True) / total
    xx, yy = ((weights * v * v).sum(axis=1) for v in (x, y))
    with np.errstate(divide="ignore", invalid="ignore"):
        found = (weights * x * y).sum(axis=1) / np.sqrt(xx * yy)
    return np.where((xx > noise[0]) & (yy > noise[1]), np.clip(found, -1, 1), np.nan)


def _ranks(values: Float64Array, weights: Float64Array) -> Float64Array:
    """(N,), (B, N) counts -> (B, N) mean ranks in samples that hold each value so many times."""
    _, group = np.unique(values, return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    size = np.add.reduceat(weights[:, order], starts, axis=1)
    middle = size.cumsum(axis=1) - (size - 1) / 2
    return np.asarray(middle[:, group])
