"""What a query's average precision correlates with: where the model looked, and how consistently.

Legend: N queries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from cam.names import column_of
from jobs.arrays import BoolArray, Float32Array, Float64Array, Int64Array
from jobs.progress import told
from jobs.retrieval.consistency import match_consistency
from jobs.retrieval.selection import SideRows
from jobs.runs.run import Run
from jobs.statistics.intervals.resamples import EDGES, resample_counts
from jobs.statistics.intervals.weighted import FEWEST, weighted_pearson, weighted_spearman
from jobs.tables import none_if_nan

CONSISTENCY = "consistency"
# What `_measures_of_map` reads of each map.
_COLUMNS = ("entropy", "area50", "com_x", "stripe_0", "stripe_5", "mass")
_FLAT = 1e-5  # relative range below which a stored float32 measure says nothing: an attention map's mass is 1 +- 1e-7
_ARRAYS = 4  # of float64, per query and resample, that a correlation holds at once

Interval = tuple[float | None, float | None]


@dataclass(frozen=True, kw_only=True)
class Correlation:
    """One line of why.csv: how AP correlates with one measure of one map.

    A coefficient is None where one of the two does not vary, or fewer than 3 queries have it. The intervals hold 95 %
    of the bootstrap samples over identities, and are None with one identity.
    """

    map: str
    measure: str
    queries: int
    identities: int
    pearson: float | None
    pearson_low: float | None
    pearson_high: float | None
    spearman: float | None
    spearman_low: float | None
    spearman_high: float | None


def measure_columns(maps: Sequence[str]) -> list[str]:
    """The metadata columns that `measures_of` needs of the queries."""
    return [f"{column_of(name)}_{measure}" for name in maps for measure in _COLUMNS]


@told("comparing the maps of queries and matches")
def measures_of(
    run: Run, queries: SideRows, gallery: SideRows, own: Int64Array | None = None
) -> dict[tuple[str, str], Float64Array]:
    """(map, measure) -> (N,) float64 of the queries, NaN where unknown; the last of each map is its consistency.

    `own` as in `rank_gallery`.
    """
    found = {}
    for name in run.maps:
        for measure, values in _measures_of_map(queries.table, name).items():
            found[name, measure] = values.astype(np.float64)
        found[name, CONSISTENCY] = match_consistency(run, name, queries, gallery, own)
    return found


def _measures_of_map(rows: pa.Table, name: str) -> dict[str, Float32Array]:
    """measure -> (N,). Most of what lies at the top and the bottom of a person's box is background, as at its sides."""
    column = {measure: rows[f"{column_of(name)}_{measure}"].to_numpy() for measure in _COLUMNS}
    return {
        "entropy": column["entropy"],
        "area50": column["area50"],
        "off_centre": np.abs(column["com_x"] - np.float32(0.5)),
        "border": column["stripe_0"] + column["stripe_5"],
        "mass": column["mass"],
    }


@told("correlating AP with where the model looks")
def correlate_all(
    ap: Float64Array,
    identity: Int64Array,
    measures: Mapping[tuple[str, str], Float64Array],
    *,
    samples: int,
    seed: int,
) -> list[Correlation]:
    """The correlation of AP (N,) with each measure (N,); NaN in either leaves that query out.

    identity (N,): queries of one person are drawn together in the bootstrap samples.
    """
    found = []
    for (name, measure), values in measures.items():
        known = np.isfinite(ap) & np.isfinite(values)
        if known.any() and np.ptp(values[known]) <= _FLAT * np.abs(values[known]).max():
            values = np.where(known, 0.0, np.nan)  # a constant has no correlation
        x, y, who = ap[known], values[known], np.unique(identity[known], return_inverse=True)[1]
        one = np.ones((1, len(x)))
        (p_low, p_high), (s_low, s_high) = _intervals(x, y, who, samples, seed)
        found.append(
            Correlation(
                map=name,
                measure=measure,
                queries=len(x),
                identities=int(who.max(initial=-1)) + 1,
                pearson=none_if_nan(weighted_pearson(x, y, one)[0]),
                pearson_low=p_low,
                pearson_high=p_high,
                spearman=none_if_nan(weighted_spearman(x, y, one)[0]),
                spearman_low=s_low,
                spearman_high=s_high,
            )
        )
    return found


def worst_first(keys: Sequence[str], ap: Float64Array, wrong: BoolArray) -> list[str]:
    """Keys of the queries whose first image is wrong, the lowest average precision first."""
    order = np.argsort(ap, kind="stable")
    return [keys[i] for i in order[wrong[order]].tolist()]


def _intervals(
    x: Float64Array, y: Float64Array, identity: Int64Array, samples: int, seed: int
) -> tuple[Interval, Interval]:
    """Of Pearson's and of Spearman's coefficient; identity (N,) counts from 0."""
    count = int(identity.max(initial=-1)) + 1
    if count < 2 or len(x) < FEWEST:
        return (None, None), (None, None)
    pearson, spearman = [], []
    for counts in resample_counts(count, samples, seed, width=len(identity) * _ARRAYS):
        weights = counts[:, identity].astype(np.float64)
        pearson.append(weighted_pearson(x, y, weights))
        spearman.append(weighted_spearman(x, y, weights))
    return _interval(np.concatenate(pearson)), _interval(np.concatenate(spearman))


def _interval(values: Float64Array) -> Interval:
    """The middle 95 %; a sample in which one side does not vary has no correlation and is left out."""
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return None, None
    low, high = np.percentile(values, EDGES)
    return float(low), float(high)
