"""Do failed queries look at the background? Localisation beside what `promptsg evaluate` found.

Legend: Q queries, K maps.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from jobs.arrays import BoolArray, Float64Array, Int64Array
from jobs.errors import UserError
from jobs.progress import told
from jobs.reading import reading
from jobs.runs.evaluation.query_scores import check_state, queries_file
from jobs.runs.run import Run, positions_by_shard
from jobs.statistics.intervals.resamples import EDGES, resample_counts
from jobs.statistics.intervals.weighted import FEWEST, weighted_pearson, weighted_spearman
from jobs.statistics.localisation.config import LocaliseConfig
from jobs.statistics.localisation.sums import MEASURES
from jobs.statistics.report.with_interval import WithInterval

logger = logging.getLogger(__name__)
_COLUMNS = ["shard", "key", "h5_row", "ap", "rank1_correct"]
_AGAIN = "run `promptsg evaluate` again"
_ARRAYS = 4  # of float64, per query and resample, that a correlation holds at once


@dataclass(frozen=True, kw_only=True)
class QueriesLook:
    """One measure of one map, on the queries whose first match is right and on those where it is wrong.

    difference: of the mean, wrong minus right. pearson, spearman: correlation of average precision with the measure.
    """

    map: str
    measure: str
    right: WithInterval
    wrong: WithInterval
    difference: WithInterval
    pearson: WithInterval
    spearman: WithInterval
    queries_right: int
    queries_wrong: int
    identities: int


@dataclass
class RankedQueries:
    """Queries that have a match: ap (Q,) and right (Q,), whether the first match shows the person.

    values (Q, K, MEASURES) and identity (Q,) are filled in block by block; NaN without a mask.
    """

    path: Path
    keys: Sequence[str]
    rows: Int64Array
    by_shard: dict[str, Int64Array]
    ap: Float64Array
    right: BoolArray
    values: Float64Array
    identity: Int64Array

    def take(
        self, shard: str, rows: Int64Array, keys: Sequence[str], identity: Int64Array, values: Float64Array
    ) -> None:
        """Keeps what a block has of queries: h5 rows (n,), keys, identity (n,), values (n, K, MEASURES).

        Raises UserError where a query has another key: then the queries are of another run.
        """
        places = self.by_shard.get(shard)
        if places is None:
            return
        at = np.searchsorted(rows, self.rows[places])
        there = (at < len(rows)) & (rows[np.minimum(at, len(rows) - 1)] == self.rows[places])
        for place, n in zip(places[there].tolist(), at[there].tolist(), strict=True):
            if self.keys[place] != keys[n]:
                raise UserError(f"{self.path} is of another run: it has {self.keys[place]!r} for {keys[n]!r}; {_AGAIN}")
            self.values[place], self.identity[place] = values[n], identity[n]


def ranked_queries(run: Run, config: LocaliseConfig, maps: int) -> RankedQueries | None:
    """The queries of the configuration; None where none are given and `promptsg evaluate` has not run.

    None as well, with a warning, where none are given and the run has changed since then. Raises UserError for a file
    that is not there, is not one that `promptsg evaluate` wrote, or is older than the run.
    """
    path = config.queries or queries_file(run)
    if config.queries is not None or config.evaluation is not None:
        check_state(run, path)
    elif not _is_current(run, path):
        return None
    with reading(path, "queries of `promptsg evaluate`", _AGAIN):
        table = pq.ParquetFile(path).read(columns=_COLUMNS)
        table = table.select(_COLUMNS).filter(table["ap"].is_valid())
    return RankedQueries(
        path=path,
        keys=table["key"].to_pylist(),
        rows=table["h5_row"].to_numpy(),
        by_shard=positions_by_shard(table["shard"]),
        ap=table["ap"].to_numpy(),
        right=table["rank1_correct"].to_numpy().astype(bool),
        values=np.full((len(table), maps, len(MEASURES)), np.nan),
        identity=np.full(len(table), -1, np.int64),
    )


def _is_current(run: Run, path: Path) -> bool:
    """Whether the run was evaluated as it is now; warns where it has changed since."""
    if not path.is_file():
        return False
    try:
        check_state(run, path)
    except UserError as error:
        logger.warning("failed queries are not looked at: %s", error)
        return False
    return True


@told("comparing queries")
def compare_queries(queries: RankedQueries, maps: Sequence[str], resamples: int, seed: int) -> tuple[QueriesLook, ...]:
    """For each map and measure: right against wrong queries, and the correlation with AP."""
    found = []
    for k, name in enumerate(maps):
        for v, measure in enumerate(MEASURES):
            values = queries.values[:, k, v]
            known = np.isfinite(values)
            if known.any():
                who = np.unique(queries.identity[known], return_inverse=True)[1]
                drawn = QueryValues(x=queries.ap[known], y=values[known], right=queries.right[known], who=who)
                found.append(_look(drawn, name, measure, resamples, seed))
    return tuple(found)


@dataclass(frozen=True, kw_only=True)
class QueryValues:
    """Queries with a value: x (Q,) average precision, y (Q,) the value, right (Q,), who (Q,) identities from 0."""

    x: Float64Array
    y: Float64Array
    right: BoolArray
    who: Int64Array

    def numbers(self, weights: Float64Array) -> Float64Array:
        """weights (B, Q) -> (B, 5): mean of the right, of the wrong, wrong minus right, Pearson, Spearman."""
        with np.errstate(divide="ignore", invalid="ignore"):
            right, wrong = (
                weights[:, part] @ self.y[part] / weights[:, part].sum(axis=1) for part in (self.right, ~self.right)
            )
        both = weighted_pearson(self.x, self.y, weights), weighted_spearman(self.x, self.y, weights)
        return np.stack([right, wrong, wrong - right, *both], axis=1)


def _look(queries: QueryValues, name: str, measure: str, resamples: int, seed: int) -> QueriesLook:
    identities = int(queries.who.max()) + 1
    numbers = queries.numbers(np.ones((1, len(queries.x))))[0]
    low = high = np.full(numbers.shape, np.nan)
    if identities >= 2 and len(queries.x) >= FEWEST:
        blocks = resample_counts(identities, resamples, seed, width=len(queries.x) * _ARRAYS)
        every = np.concatenate([queries.numbers(counts[:, queries.who].astype(np.float64)) for counts in blocks])
        with warnings.catch_warnings():  # of a column that is not defined in any sample
            warnings.simplefilter("ignore", RuntimeWarning)
            low, high = np.nanpercentile(every, EDGES, axis=0)
        few = [len(np.unique(queries.who[some])) < 2 for some in (queries.right, ~queries.right)]
        low[:3][[few[0], few[1], any(few)]] = np.nan  # one person tells nothing of the spread
    right, wrong, difference, pearson, spearman = map(WithInterval.of, numbers, low, high)
    return QueriesLook(
        map=name,
        measure=measure,
        right=right,
        wrong=wrong,
        difference=difference,
        pearson=pearson,
        spearman=spearman,
        queries_right=int(queries.right.sum()),
        queries_wrong=int((~queries.right).sum()),
        identities=identities,
    )
