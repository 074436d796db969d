"""Where B looks elsewhere, does it retrieve better? The change of average precision beside that of the maps (no torch).

Legend: Q queries that have a match in both runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from cam.names import column_of
from jobs.arrays import BoolArray, Float64Array, Int64Array
from jobs.comparison.measures import MEASURES, MOVED
from jobs.comparison.query_scores import BothScores
from jobs.comparison.sums import QueryChange
from jobs.progress import told
from jobs.retrieval.correlates import Correlation, correlate_all
from jobs.statistics.intervals.resamples import mean_over_identities
from jobs.statistics.report.with_interval import WithInterval
from jobs.tables import float32_column

CORRELATED = ("moved", "pearson", "spearman", "top20", "com_shift", "area50_shift")
_PARTS = 4


@dataclass(frozen=True, kw_only=True)
class PartOfQueries:
    """A quarter of the queries, by how much their first map moved, from `least` to `most`; the change of their AP."""

    least: float
    most: float
    queries: int
    ap_change: WithInterval


@dataclass(frozen=True, kw_only=True)
class RetrievalChange:
    """Average precision of both runs and what its change correlates with; means over queries.

    settings, source_a, source_b: what was ranked, and where the numbers are from. queries: in both runs. only_a,
    only_b: queries with a match in one run only. without_pair: of `queries`, those that were not compared, since they
    were not chosen or a run has no map of them; they have no part in the means, `correlations` and `parts`. won, lost:
    keys of the queries whose AP rose or fell, the largest change first. rank1_won, rank1_lost: how many first images
    became right or wrong.
    table: a row per query, shard, key, ap_a, ap_b, ap_change, first_hit_rank_a, first_hit_rank_b, and of each map the
    measures (Q,), null where they were not compared.
    """

    settings: str
    source_a: str
    source_b: str
    queries: int
    only_a: int
    only_b: int
    without_pair: int
    map_a: WithInterval
    map_b: WithInterval
    change: WithInterval
    won: tuple[str, ...]
    lost: tuple[str, ...]
    rank1_won: int
    rank1_lost: int
    correlations: tuple[Correlation, ...]
    parts: tuple[PartOfQueries, ...]
    table: pa.Table


@told("resampling queries")
def retrieval_change(
    scores: BothScores,
    compared: Mapping[tuple[str, str], QueryChange],
    maps: tuple[str, ...],
    *,
    resamples: int,
    seed: int,
) -> RetrievalChange:
    """The change of AP over the joined queries. The first of `maps` orders the quarters.

    Intervals are over the identities of the compared queries.
    """
    joined = scores.joined
    ids = list(zip(joined["shard"].to_pylist(), joined["key"].to_pylist(), strict=True))
    known = np.array([one in compared for one in ids], bool)
    ap_a, ap_b = (joined[name].to_numpy() for name in ("ap_a", "ap_b"))
    change = ap_b - ap_a
    values = _values(ids, compared, maps)
    identity = np.array([compared[one].identity for one in ids if one in compared], np.int64)
    correlations = correlate_all(
        change[known],
        identity,
        {(name, m): found[known, MEASURES.index(m)] for name, found in values.items() for m in CORRELATED},
        samples=resamples,
        seed=seed,
    )
    means = _estimates(np.stack([ap_a, ap_b, change], axis=1)[known], identity, resamples, seed)
    first_a, first_b = (joined[name].to_numpy() == 1 for name in ("first_hit_rank_a", "first_hit_rank_b"))
    return RetrievalChange(
        settings=scores.settings,
        source_a=scores.a.source,
        source_b=scores.b.source,
        queries=len(joined),
        only_a=len(scores.a.table) - len(joined),
        only_b=len(scores.b.table) - len(joined),
        without_pair=int((~known).sum()),
        map_a=means[0],
        map_b=means[1],
        change=means[2],
        won=_sorted_keys(joined, -change, change > 0),
        lost=_sorted_keys(joined, change, change < 0),
        rank1_won=int((first_b & ~first_a).sum()),
        rank1_lost=int((first_a & ~first_b).sum()),
        correlations=tuple(correlations),
        parts=_parts(values[maps[0]][known, MOVED], change[known], identity, resamples, seed),
        table=_table(joined, change, values),
    )


def _values(
    ids: list[tuple[str, str]], compared: Mapping[tuple[str, str], QueryChange], maps: tuple[str, ...]
) -> dict[str, Float64Array]:
    """Map -> (Q, V) measures; NaN for a query that was not compared."""
    nothing = np.full(len(MEASURES), np.nan)
    return {
        name: np.array([compared[one].values[name] if one in compared else nothing for one in ids]).reshape(
            len(ids), len(MEASURES)
        )
        for name in maps
    }


def _estimates(values: Float64Array, identity: Int64Array, resamples: int, seed: int) -> list[WithInterval]:
    """(n, V) -> V means."""
    if not len(values):
        return [WithInterval(value=None)] * values.shape[1]
    found = mean_over_identities(values, identity, resamples=resamples, seed=seed)
    return [WithInterval.of(*estimate) for estimate in zip(*found, strict=True)]


def _parts(
    moved: Float64Array, change: Float64Array, identity: Int64Array, resamples: int, seed: int
) -> tuple[PartOfQueries, ...]:
    """Quarters of equal size (but for one query) in the order of `moved`; none with fewer queries than quarters."""
    known = np.flatnonzero(np.isfinite(moved))
    if len(known) < _PARTS:
        return ()
    order = known[np.argsort(moved[known], kind="stable")]
    found = []
    for rows in np.array_split(order, _PARTS):
        (estimate,) = _estimates(change[rows, None], identity[rows], resamples, seed)
        least, most = float(moved[rows[0]]), float(moved[rows[-1]])
        found.append(PartOfQueries(least=least, most=most, queries=len(rows), ap_change=estimate))
    return tuple(found)


def _sorted_keys(joined: pa.Table, by: Float64Array, chosen: BoolArray) -> tuple[str, ...]:
    order = np.argsort(by, kind="stable")
    return tuple(joined["key"].take(pa.array(order[chosen[order]])).to_pylist())


def _table(joined: pa.Table, change: Float64Array, values: Mapping[str, Float64Array]) -> pa.Table:
    columns = {name: joined[name] for name in ("shard", "key", "ap_a", "ap_b")}
    columns["ap_change"] = pa.array(change)
    columns |= {name: joined[name] for name in ("first_hit_rank_a", "first_hit_rank_b")}
    for name, found in values.items():
        for v, measure in enumerate(MEASURES):
            columns[f"{column_of(name)}_{measure}"] = float32_column(found[:, v])
    return pa.table(columns)


def queries_by_shard(joined: pa.Table) -> dict[str, list[str]]:
    """Shard -> keys of the joined queries."""
    found: dict[str, list[str]] = {}
    for shard, key in zip(joined["shard"].to_pylist(), joined["key"].to_pylist(), strict=True):
        found.setdefault(shard, []).append(key)
    return found
