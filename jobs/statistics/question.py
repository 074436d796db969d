"""Which images a question of `promptsg stats` chooses, and which cluster each is in: one identity in one group.

Legend: N images, C clusters, G groups. Columns are read with pyarrow; DuckDB is asked only for what is an expression.
Memory: 28 bytes per image, and 4 more for each column; a text to group by as long as it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from numpy.typing import NDArray

from jobs.errors import UserError
from jobs.runs.query import connect_metadata, sql_error
from jobs.runs.run import Run

if TYPE_CHECKING:
    import duckdb

JUNK = -1  # the pid of junk, distractors (0) and unknown people: one cluster, in no number about identities
NULL_CAM = int(np.iinfo(np.int32).min)  # the camid of an image without one
_SPARSE = 8
_SHARD = "__fragment_index"  # which file of a dataset a row is from, as pyarrow calls it

Ints = NDArray[np.int64]
Codes = NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked of a run: `by` are (name, SQL expression) pairs, `where` a condition, `maps` names.

    `fraction` of the identities is kept whole as a sample for what needs pairs of maps.
    """

    by: tuple[tuple[str, str], ...]
    where: str
    maps: tuple[str, ...]
    seed: int
    fraction: float
    fingerprint: str


class Selection:
    """The chosen images of some shards, in order of (shard, row).

    groups: G rows of group values. group, pid, images (C,): of each cluster, in order of (group, pid). shard_of, rows,
    cluster, camid (N,): of each image, `shard_of` counting in `shards`.
    """

    def __init__(self, run: Run, question: Question, shards: Sequence[str], columns: Sequence[str] = ()) -> None:
        self.run, self.question, self.shards = run, question, tuple(sorted(shards))
        self.shard_of, table, keys = _chosen(run, question, self.shards, columns)
        self._columns = table.select(list(columns))
        self.rows: Codes = table["h5_row"].to_numpy().astype(np.int32)
        self.camid: Codes = pc.fill_null(table["camid"], NULL_CAM).to_numpy()
        pid: Ints = pc.fill_null(table["pid"], JUNK).to_numpy()
        pid = np.where(pid > 0, pid, JUNK)
        self.groups, group = _groups_of(keys)
        pids, person = _distinct(pid)
        both, cluster = _distinct(group * max(1, len(pids)) + person)
        self.cluster: Codes = cluster.astype(np.int32)
        self.group: Ints = both // max(1, len(pids))
        self.pid: Ints = pids[both % max(1, len(pids))]
        self.images: Ints = np.bincount(cluster, minlength=len(both))

    def column(self, name: str) -> NDArray[np.float32] | None:
        """(N,) one of the columns that were asked for, NULL as NaN; None for any other."""
        return self._columns[name].to_numpy() if name in self._columns.column_names else None

    def spans(self) -> list[tuple[str, slice]]:
        """(shard, positions in `rows`, `cluster` and `camid`) of the shards that have a chosen image."""
        ends = np.searchsorted(self.shard_of, np.arange(len(self.shards) + 1, dtype=np.int32)).tolist()
        spans = zip(self.shards, pairwise(ends), strict=True)
        return [(shard, slice(first, last)) for shard, (first, last) in spans if last > first]

    def sampled(self) -> NDArray[np.bool_]:
        """(N,) whether an image is in the sample: all images of an identity are, or none; junk one by one."""
        seed = np.uint64(self.question.seed)
        shards = np.array([_text_hash(name) for name in self.shards], np.uint64)

        def drawn(key: NDArray[np.uint64]) -> NDArray[np.bool_]:
            least = np.uint64(min(self.question.fraction * 2.0**64, 2.0**64 - 2048))
            return _mix(key + _mix(np.array([seed]))) < least

        sampled = drawn(self.pid.astype(np.uint64))[self.cluster]
        junk = np.flatnonzero((self.pid == JUNK)[self.cluster])
        sampled[junk] = drawn(_mix(shards[self.shard_of[junk]] + self.rows[junk].astype(np.uint64)))
        return sampled


def check_expressions(run: Run, by: Sequence[tuple[str, str]], where: str) -> None:
    """Raises UserError unless all are SQL expressions over one row: no statement, file, aggregate or window.

    An unknown column's error names the nearest. Aggregates and windows would differ from block to block.
    """
    asked = [("--by", expression) for _, expression in by if expression not in run.schema.names]
    asked += [("--where", where)] if where.strip() else []
    if not asked:
        return
    import duckdb

    rows = _connection(run).table("run")
    for option, text in asked:
        try:
            # Parsed as one expression and bound, as a condition may hold neither windows nor aggregates; nothing runs.
            expression = duckdb.SQLExpression(text)
            rows.filter(expression if option == "--where" else expression.isnotnull())
        except duckdb.Error as error:
            raise sql_error(error, run.schema.names, option) from error


def count_images(run: Run, where: str) -> int:
    """How many images of the whole run have maps and meet the condition."""
    if not where.strip():
        data = run.metadata()
        said = [_rows_with_maps(fragment.metadata) for fragment in data.get_fragments()]
        known = [rows for rows in said if rows is not None]
        return sum(known) if len(known) == len(said) else int(data.count_rows(filter=ds.field("h5_row").is_valid()))
    table = _asked(_connection(run), f"SELECT count(*) AS n FROM run WHERE ({where}\n)")
    return int(table["n"][0].as_py())


def _rows_with_maps(footer: pq.FileMetaData) -> int | None:
    """From what a Parquet file says of itself, without a look at its rows; None if it does not say it."""
    column = footer.schema.names.index("h5_row")
    said = [footer.row_group(i).column(column).statistics for i in range(footer.num_row_groups)]
    known = all(statistics is not None and statistics.has_null_count for statistics in said)
    return int(footer.num_rows) - sum(statistics.null_count for statistics in said) if known else None


def ordered_groups(keys: pa.Table) -> tuple[pa.Table, Ints]:
    """Distinct rows of group values in a fixed order, nulls last, and which of them each given row is."""
    rows = list(zip(*(column.to_pylist() for column in keys.columns), strict=True))
    # NaN is not equal to itself, but its text is.
    first: dict[str, int] = {}
    for index, row in enumerate(rows):
        first.setdefault(repr(row), index)
    order = sorted(
        first.values(), key=lambda i: [(v is None, v != v, 0 if v is None or v != v else v) for v in rows[i]]
    )
    place = {repr(rows[index]): position for position, index in enumerate(order)}
    groups = keys.take(pa.array(order, pa.int64())).combine_chunks()
    return groups, np.array([place[repr(row)] for row in rows], np.int64)


def _chosen(
    run: Run, question: Question, shards: tuple[str, ...], columns: Sequence[str]
) -> tuple[Codes, pa.Table, pa.Table]:
    """Of the chosen images, in order of (shard, h5_row): shards, as positions in `shards`; h5_row, pid, camid and the
    columns; the group keys."""
    names, expressions = [name for name, _ in question.by], [expression for _, expression in question.by]
    plain = ["h5_row", "pid", "camid", *columns]
    if not question.where.strip() and all(expression in run.schema.names for expression in expressions):
        wanted = list(dict.fromkeys([*plain, *expressions]))
        table = run.metadata(shards).to_table(columns=[*wanted, _SHARD])
        # As a filter of the scan this would copy every column, whether or not an image has no maps.
        table = table.filter(ds.field("h5_row").is_valid()) if table["h5_row"].null_count else table
        codes: Codes = table[_SHARD].to_numpy()
    else:
        con = _connection(run)
        con.register("block", run.metadata(shards))
        keys = [f"({expression}\n) AS g{i}" for i, expression in enumerate(expressions)]
        where = f" AND ({question.where}\n)" if question.where.strip() else ""
        table = _asked(con, f"SELECT shard, {', '.join([*plain, *keys])} FROM block WHERE h5_row IS NOT NULL{where}")
        codes = _codes(table["shard"], list(shards))
        expressions = [f"g{i}" for i in range(len(keys))]
    rows, step = table["h5_row"].to_numpy(), np.diff(codes)
    if (step < 0).any() or ((step == 0) & (np.diff(rows) < 0)).any():  # either keeps the order, mostly
        order = np.lexsort((rows, codes))
        table, codes = table.take(order), codes[order]
    return codes, table.select(plain), table.select(expressions).rename_columns(names)


def _connection(run: Run) -> duckdb.DuckDBPyConnection:
    """Sees `samples`, the whole run's metadata, and `run`, its images that have maps; no file and no network."""
    con = connect_metadata(run)
    con.execute("CREATE TEMP VIEW run AS SELECT * FROM samples WHERE h5_row IS NOT NULL")
    return con


def _asked(con: duckdb.DuckDBPyConnection, sql: str) -> pa.Table:
    import duckdb

    try:
        return con.sql(sql).to_arrow_table()
    except duckdb.Error as error:  # bound before, so this is about a value, such as text that is no number
        raise UserError(f"--by or --where: {str(error).splitlines()[0]}") from error


def _codes(column: pa.ChunkedArray, names: list[str]) -> Codes:
    """(N,) the position in `names` of each text."""
    if not len(column):
        return np.zeros(0, np.int32)
    encoded = column.combine_chunks().dictionary_encode()
    position = {name: index for index, name in enumerate(names)}
    return np.array([position[name] for name in encoded.dictionary.to_pylist()], np.int32)[encoded.indices.to_numpy()]


def _groups_of(keys: pa.Table) -> tuple[pa.Table, Ints]:
    """The groups in order, and the group of each of the N rows."""
    count = keys.num_rows
    if not keys.num_columns or not count:
        name = pa.table({"group": pa.array(["all"] if count else [], pa.string())})
        return (name if not keys.num_columns else keys), np.zeros(count, np.int64)
    code: Ints = np.zeros(count, np.int64)
    members: list[Ints] = []  # of each column, which of its values the groups so far have
    values = []
    for field, column in zip(keys.schema, keys.columns, strict=True):
        try:
            encoded = column.combine_chunks().dictionary_encode(null_encoding="encode")
        except pa.ArrowNotImplementedError as error:
            raise UserError(f"--by {field.name} gives {field.type}; group by numbers or texts") from error
        values.append(encoded.dictionary)
        kinds = len(encoded.dictionary)
        both, code = _distinct(code * kinds + encoded.indices.to_numpy())
        members = [*(member[both // kinds] for member in members), both % kinds]
    columns = [dictionary.take(pa.array(member)) for dictionary, member in zip(values, members, strict=True)]
    groups, place = ordered_groups(pa.table(columns, names=keys.column_names))
    return groups, place[code]


def _distinct(values: Ints) -> tuple[Ints, Ints]:
    """The distinct values, rising, and the position among them of each."""
    if not len(values):
        return values, values
    low, high = int(values.min()), int(values.max())
    if high - low > _SPARSE * len(values) + 1024:
        return np.unique(values, return_inverse=True)
    there = np.zeros(high - low + 1, bool)  # no sort
    there[values - low] = True
    return np.flatnonzero(there) + low, (np.cumsum(there) - 1)[values - low]


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele et al. 2014): well-spread 64-bit numbers from any."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _text_hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
