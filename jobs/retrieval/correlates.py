"""Why retrieval fails: how a query's average precision goes with where the model looked, and the queries to look at.

Legend: N queries, I identities, B bootstrap samples, h x w patches of a map.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cam.names import column_of
from jobs.retrieval.protocol import Floats, Integers
from jobs.runs.run import Run
from jobs.statistics.resamples import EDGES, redraws

# name -> SQL over the columns of a map, with its column's prefix put for {m}. What lies at the top and the bottom of a
# person's box is mostly background; so is what pulls the centre of mass to a side.
MEASURES = {
    "entropy": "{m}_entropy",
    "area50": "{m}_area50",
    "off_centre": "abs({m}_com_x - 0.5)",
    "border": "{m}_stripe_0 + {m}_stripe_5",
    "mass": "{m}_mass",
}
CONSISTENCY = "consistency"
_FLAT = 1e-5  # relative range below which a stored float32 measure says nothing: an attention map's mass is 1 +- 1e-7
_FEWEST = 3  # two points always lie on a line
_ROWS = 4096  # maps read at a time
_ARRAYS = 4  # of float64, per query and resample, that a correlation holds at once


@dataclass(frozen=True, kw_only=True)
class Correlation:
    """One line of why.csv; a coefficient is None where one of the two does not vary, or fewer than 3 queries have it.

    The intervals hold 95 % of the bootstrap samples over identities, and are None with one identity.
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


def measure_columns(maps: Sequence[str]) -> dict[tuple[str, str], str]:
    """(map, measure) -> SQL expression over the metadata."""
    return {(name, measure): sql.format(m=column_of(name)) for name in maps for measure, sql in MEASURES.items()}


def measures_of(run: Run, queries: pa.Table, gallery: pa.Table) -> dict[tuple[str, str], Floats]:
    """(map, measure) -> (N,) float64 of the queries, NaN where unknown; the last of each map is its consistency."""
    columns = {name: f"m{i}" for i, name in enumerate(measure_columns(run.maps))}
    found = {}
    for name in run.maps:
        for measure in MEASURES:
            column = queries[columns[name, measure]]
            found[name, measure] = column.to_numpy(zero_copy_only=False).astype(np.float64)
        found[name, CONSISTENCY] = consistency(run, name, queries, gallery)
    return found


def correlate_all(
    ap: Floats, pid: Integers, measures: Mapping[tuple[str, str], Floats], *, samples: int, seed: int
) -> list[Correlation]:
    """The correlation of AP (N,) with each measure (N,); NaN in either leaves that query out."""
    found = []
    for (name, measure), values in measures.items():
        known = np.isfinite(ap) & np.isfinite(values)
        if known.any() and np.ptp(values[known]) <= _FLAT * np.abs(values[known]).max():
            values = np.where(known, 0.0, np.nan)  # a constant has no correlation
        x, y, identity = ap[known], values[known], np.unique(pid[known], return_inverse=True)[1]
        count = int(identity.max(initial=-1)) + 1
        one = np.ones((1, len(x)))
        pearson, spearman = (_number(f(x, y, one)[0]) for f in (weighted_pearson, weighted_spearman))
        intervals: list[tuple[float | None, float | None]] = [(None, None), (None, None)]
        if count > 1 and len(x) >= _FEWEST:
            drawn = redraws(count, samples, seed, width=len(identity) * _ARRAYS)
            weights = (block[:, identity].astype(np.float64) for block in drawn)
            both = [(weighted_pearson(x, y, w), weighted_spearman(x, y, w)) for w in weights]
            intervals = [_interval(np.concatenate(values)) for values in zip(*both, strict=True)]
        (p_low, p_high), (s_low, s_high) = intervals
        found.append(
            Correlation(
                map=name,
                measure=measure,
                queries=len(x),
                identities=count,
                pearson=pearson,
                pearson_low=p_low,
                pearson_high=p_high,
                spearman=spearman,
                spearman_low=s_low,
                spearman_high=s_high,
            )
        )
    return found


def consistency(run: Run, name: str, queries: pa.Table, gallery: pa.Table) -> Floats:
    """(N,) Pearson correlation of each query's map with the mean map of its matching gallery images.

    The tables need shard, h5_row, pid and camid, no null in them. Matching images have the query's pid and another
    camid. Maps are taken as distributions (mass 1) before the mean, so that a large gradient has no larger say. NaN
    where nothing matches, a map has no mass, or one is flat. Each map is read once; what is held is one mean map per
    identity and camera.
    """
    pairs, group_of = np.unique(_identity_camera(gallery), axis=0, return_inverse=True)
    group_of = group_of.reshape(-1)
    sums: Floats | None = None
    counts = np.zeros(len(pairs))
    for positions, maps in _read_in_blocks(run, name, gallery):
        if sums is None:
            sums = np.zeros((len(pairs), maps.shape[1]))
        shares = _shares(maps)
        good = ~np.isnan(shares[:, 0])
        np.add.at(sums, group_of[positions[good]], shares[good])
        np.add.at(counts, group_of[positions[good]], 1)
    found = np.full(len(queries), np.nan)
    wanted = _identity_camera(queries)
    for positions, maps in _read_in_blocks(run, name, queries):
        for position, share in zip(positions.tolist(), _shares(maps), strict=True):
            pid, camid = wanted[position]
            low, high = np.searchsorted(pairs[:, 0], [pid, pid + 1])
            matching = np.flatnonzero(pairs[low:high, 1] != camid) + low
            if sums is not None and counts[matching].sum() > 0:
                mean = sums[matching].sum(axis=0) / counts[matching].sum()
                found[position] = weighted_pearson(share, mean, np.ones((1, len(mean))))[0]
    return found


def weighted_pearson(x: Floats, y: Floats, weights: Floats) -> Floats:
    """(N,), (N,), weights (B, N) -> (B,) Pearson correlations; NaN where a side does not vary or N < 3."""
    if len(x) < _FEWEST:
        return np.full(len(weights), np.nan)
    return _pearson_of_rows(x[None], y[None], weights)


def weighted_spearman(x: Floats, y: Floats, weights: Floats) -> Floats:
    """As `weighted_pearson` of the ranks, which are taken anew in each sample; ties share their mean rank."""
    if len(x) < _FEWEST:
        return np.full(len(weights), np.nan)
    return _pearson_of_rows(_ranks(x, weights), _ranks(y, weights), weights)


def worst_first(keys: Sequence[str], ap: Floats, wrong: NDArray[np.bool_]) -> list[str]:
    """Keys of the queries whose first image is wrong, the lowest average precision first."""
    order = np.argsort(ap, kind="stable")
    return [keys[i] for i in order[wrong[order]].tolist()]


def _pearson_of_rows(x: Floats, y: Floats, weights: Floats) -> Floats:
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


def _ranks(values: Floats, weights: Floats) -> Floats:
    """(N,), (B, N) counts -> (B, N) mean ranks in samples that hold each value so many times."""
    _, group = np.unique(values, return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    size = np.add.reduceat(weights[:, order], starts, axis=1)
    middle = size.cumsum(axis=1) - (size - 1) / 2
    return np.asarray(middle[:, group])


def _interval(values: Floats) -> tuple[float | None, float | None]:
    """The middle 95 %; a sample in which one side does not vary has no correlation and is left out."""
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return None, None
    low, high = np.percentile(values, EDGES)
    return float(low), float(high)


def _number(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)


def _identity_camera(table: pa.Table) -> Integers:
    return np.stack([table["pid"].to_numpy(), table["camid"].to_numpy()], axis=1).astype(np.int64)


def _shares(maps: Floats) -> Floats:
    """(b, h*w) -> the same with every row's sum 1, or NaN."""
    mass = maps.sum(axis=1, keepdims=True)
    return np.divide(maps, mass, out=np.full_like(maps, np.nan), where=mass > 0)


def _read_in_blocks(run: Run, name: str, table: pa.Table) -> Iterator[tuple[Integers, Floats]]:
    """(positions in the table, maps (b, h*w) float64), shard after shard in the order of the h5 rows."""
    shards = table["shard"].to_numpy(zero_copy_only=False)
    rows = table["h5_row"].to_numpy()
    for shard in dict.fromkeys(shards.tolist()):
        positions = np.flatnonzero(shards == shard)
        positions = positions[np.argsort(rows[positions], kind="stable")]
        for start in range(0, len(positions), _ROWS):
            part = positions[start : start + _ROWS]
            yield part, run.maps_of(name, table.take(part)).reshape(len(part), -1).astype(np.float64)
