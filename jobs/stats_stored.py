"""Sums per cluster, and histograms per group, of the numbers that mining has stored with each map (no torch).

Legend: N images, C clusters, G groups, K maps.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cam.names import column_of
from jobs.stats_selection import Selection

STORED = ("mass", "entropy", "com_x", "com_y", "area50")
DISTRIBUTIONS = ("entropy", "area50", "com_x", "com_y")  # shown as histograms; entropy as a share of its maximum ln M
BINS = 512

Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]


def stored_columns(maps: Sequence[str], schema: pa.Schema) -> list[str]:
    """The columns of the metadata that a pass reads; runs of the first version have no area90."""
    columns = [f"{column_of(name)}_{measure}" for name in maps for measure in STORED]
    return columns + [area90_column(name) for name in maps if area90_column(name) in schema.names]


def area90_column(name: str) -> str:
    """The column of a map's area90."""
    return f"{column_of(name)}_area90"


def stored_sums(selection: Selection) -> tuple[Doubles, Doubles]:
    """Sums and counts of the finite values in each cluster, both (C, K, STORED) float64."""
    shape = (len(selection.pid), len(selection.question.maps), len(STORED))
    sums, counts = np.zeros(shape), np.zeros(shape)
    for k, name in enumerate(selection.question.maps):
        for m, measure in enumerate(STORED):
            values = selection.column(f"{column_of(name)}_{measure}")
            finite = np.isfinite(values)
            sums[:, k, m] = np.bincount(selection.cluster, np.where(finite, values, 0), shape[0])
            counts[:, k, m] = selection.images - np.bincount(selection.cluster[~finite], minlength=shape[0])
    return sums, counts


def histograms(selection: Selection, patches: Sequence[int]) -> Ints:
    """(G, K, DISTRIBUTIONS, BINS) counts over equal bins from 0 to 1; `patches` (K,) are the maps' sizes."""
    groups = selection.groups.num_rows
    found = np.zeros((groups, len(patches), len(DISTRIBUTIONS), BINS), np.int64)
    group = selection.group[selection.cluster]
    for k, name in enumerate(selection.question.maps):
        for d, measure in enumerate(DISTRIBUTIONS):
            values = selection.column(f"{column_of(name)}_{measure}").astype(np.float64)
            if measure == "entropy":
                values /= np.log(max(2, patches[k]))
            finite = np.isfinite(values)
            bins = np.clip(values[finite] * BINS, 0, BINS - 1).astype(np.int64)
            cells = np.bincount(group[finite] * BINS + bins, minlength=groups * BINS)
            found[:, k, d] = cells.reshape(-1, BINS)
    return found
