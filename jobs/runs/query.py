"""Choosing rows of a run's metadata by SQL over its columns, by keys, or at random (DuckDB over Parquet; no torch).

Two steps keep it small on large runs: a query over only the columns that it names finds which rows, then those rows are
read from the files of their own shards.
"""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.errors import UserError
from jobs.phrases import first_few

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from jobs.runs.run import Run

logger = logging.getLogger(__name__)
QUERIES = "queries.parquet"
_UNKNOWN_COLUMN = re.compile(r'(?:Referenced column|does not have a column named|has no column) "([^"]+)"')
_POSITION = "position_in_list"


@dataclass(frozen=True, kw_only=True)
class RowSelection:
    """Which rows of a run's metadata are chosen, and in which order.

    `where` and `order_by` are SQL expressions over the metadata's columns. `keys` restricts to images of these keys.
    `sample` rows are drawn uniformly, the same ones for the same `seed`, then sorted and cut to `limit`. Without
    `order_by` the order is that of `keys`, else by shard and place in the tar.
    """

    where: str | None = None
    order_by: str | None = None
    limit: int | None = None
    sample: int | None = None
    seed: int = 0
    keys: tuple[str, ...] | None = None


def select_rows(
    run: Run,
    selection: RowSelection = RowSelection(),
    *,
    joined: pa.Table | None = None,
    columns: Sequence[str] | None = None,
    also: str | None = None,
    option: str = "--where",
) -> pa.Table:
    """The selected rows, failed ones included, with all columns of the metadata or those named.

    `joined` has columns `shard` and `key` and more: only its rows are selected from, in its order without another, and
    its plain columns may be named too. `also` is a further condition, the program's own. Keys that the run does not
    have are warned of. `option` is what an error calls the user's condition.

    Raises UserError on a column that does not exist, naming the nearest, and on any other error in the SQL.
    """
    con = connect_metadata(run)
    source, order = "samples", "shard, tar_index"
    if joined is not None:
        source, order = _join(con, joined), f"{_POSITION}, {order}"
    if selection.keys is not None:
        source, order = _restrict(con, source, selection.keys), f"{_POSITION}, {order}"
    _check_expressions(con, source, {option: selection.where}, {"--order-by": selection.order_by})
    sql = f"SELECT * FROM {source} WHERE {_condition(selection.where)} AND ({also or 'true'})"
    if selection.sample is not None:
        # A draw that depends on the row and the seed alone: as uniform as MD5, and no state to reproduce.
        draw = f"md5(concat_ws('/', {int(selection.seed)}, shard, tar_index))"
        sql = f"SELECT * FROM ({sql}) ORDER BY {draw}, {order} LIMIT {int(selection.sample)}"
    # Shard and place in the tar break ties between the user's own terms.
    sql = f"SELECT shard, tar_index FROM ({sql}) ORDER BY {selection.order_by or order}\n, shard, tar_index"
    if selection.limit is not None:
        sql += f" LIMIT {int(selection.limit)}"
    return _read_rows(run, _run_sql(con, run, sql), columns)


def count_by_status(run: Run, where: str | None = None) -> dict[str, int]:
    """Status -> how many rows of it meet a condition; counted in DuckDB, since many millions may. Raises as above."""
    con = connect_metadata(run)
    _check_expressions(con, "samples", {"--where": where}, {})
    sql = f"SELECT status, count(*) AS rows FROM samples WHERE {_condition(where)} GROUP BY status ORDER BY status"
    found = _run_sql(con, run, sql)
    return dict(zip(found["status"].to_pylist(), found["rows"].to_pylist(), strict=True))


def _condition(where: str | None) -> str:
    """A user's condition as a term: its line break ends a comment that the user wrote."""
    return "true" if where is None else f"({where}\n)"


def read_keys(lines: Iterable[str]) -> list[str]:
    """One key a line; empty lines are passed over and each key counts once."""
    return list(dict.fromkeys(line.strip() for line in lines if line.strip()))


def read_queries(path: Path, *, ranked: bool) -> tuple[pa.Table | None, list[str] | None]:
    """What `promptsg evaluate` wrote: (its table or None, keys or None) from queries.parquet or a list of keys.

    With `ranked` the table is wanted in any case: beside a list of keys, queries.parquet is read too.
    Raises UserError where a file is missing or none of ours.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    keys = None
    if not path.is_file():
        raise UserError(f"--queries {path} is not a file; give queries.parquet or failures.txt of `promptsg evaluate`")
    if path.suffix != ".parquet":
        try:
            keys = read_keys(path.read_text(encoding="utf-8").splitlines())
        except UnicodeDecodeError as error:
            raise UserError(f"--queries {path} is neither Parquet nor a list of keys") from error
        if not ranked:
            return None, keys
        path = path.with_name(QUERIES)
        if not path.is_file():
            raise UserError(f"ranked figures need {path}, which `promptsg evaluate` writes beside its failures.txt")
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"--queries {path} is not a Parquet file: {_one_line(error)}") from error
    needed = {"shard", "key"} | ({"topk_keys", "topk_shards", "topk_distances", "topk_correct"} if ranked else set())
    if missing := sorted(needed - set(table.column_names)):
        raise UserError(f"--queries {path} has no column {', '.join(missing)}; `promptsg evaluate` writes it")
    return table, keys


def rows_by_key(run: Run, wanted: Iterable[tuple[str, str]], columns: Sequence[str] | None = None) -> pa.Table:
    """The rows that have maps for (shard, key) pairs, by shard and place in the tar; reads only those shards' files."""
    import pyarrow as pa
    import pyarrow.compute as pc

    by_shard: dict[str, set[str]] = {}
    for shard, key in wanted:
        by_shard.setdefault(shard, set()).add(key)
    parts = []
    for shard in sorted(by_shard):
        rows = _shard_rows(run, shard, columns)
        chosen = pc.and_(pc.is_in(rows["key"], pa.array(sorted(by_shard[shard]))), pc.is_valid(rows["h5_row"]))
        parts.append(rows.filter(chosen))
    return pa.concat_tables(parts) if parts else _empty(run, columns)


def keys_in_several_shards(run: Run, keys: Iterable[str]) -> set[str]:
    """Those of the keys that more than one row of the run has."""
    import pyarrow as pa

    con = connect_metadata(run)
    con.register("wanted", pa.table({"key": pa.array(sorted(set(keys)), pa.string())}))
    sql = "SELECT key FROM samples WHERE key IN (SELECT key FROM wanted) GROUP BY key HAVING count(*) > 1"
    return {key for (key,) in con.execute(sql).fetchall()}


def connect_metadata(run: Run) -> duckdb.DuckDBPyConnection:
    """A connection that sees the run's metadata as `samples`, and neither files, network nor Python's variables."""
    import duckdb

    if not run.layout.done():
        raise UserError(f"{run.layout.root} has no finished shard; see `promptsg status {run.layout.root}`")
    con = duckdb.connect(":memory:")
    con.register("samples", run.metadata())
    for setting in (
        "python_enable_replacements = false",
        "enable_external_access = false",
        "lock_configuration = true",
    ):
        con.execute(f"SET {setting}")
    return con


def _join(con: duckdb.DuckDBPyConnection, joined: pa.Table) -> str:
    import pyarrow as pa

    plain = [f.name for f in joined.schema if not pa.types.is_nested(f.type)]
    ours = {name for name, *_ in con.execute("DESCRIBE samples").fetchall()}
    more = ["shard", "key", *(name for name in plain if name not in ours)]
    numbered = joined.select(more).append_column(_POSITION, pa.array(range(joined.num_rows), pa.int64()))
    con.register("joined", numbered)
    con.execute("CREATE TEMP VIEW joined_samples AS SELECT * FROM samples JOIN joined USING (shard, key)")
    return "joined_samples"


def _restrict(con: duckdb.DuckDBPyConnection, source: str, keys: Sequence[str]) -> str:
    """A view of the rows of some keys, numbered as they were given; warns of those that are not there."""
    import pyarrow as pa

    wanted = {"key": pa.array(keys, pa.string()), "wanted_position": pa.array(range(len(keys)), pa.int64())}
    con.register("wanted", pa.table(wanted))
    missing = con.execute(
        f"SELECT key FROM wanted WHERE key NOT IN (SELECT key FROM {source}) ORDER BY wanted_position"
    ).fetchall()
    if missing:
        shown = first_few(key for (key,) in missing)
        logger.warning("%d of %d keys are not in the run: %s", len(missing), len(keys), shown)
    dropped = f" EXCLUDE ({_POSITION})" if source != "samples" else ""
    con.execute(
        f"CREATE TEMP VIEW chosen_samples AS SELECT {source}.*{dropped}, wanted_position AS {_POSITION} "
        f"FROM {source} JOIN wanted USING (key)"
    )
    return "chosen_samples"


def _check_expressions(
    con: duckdb.DuckDBPyConnection,
    source: str,
    conditions: Mapping[str, str | None],
    orders: Mapping[str, str | None],
) -> None:
    """Raises UserError unless all are SQL expressions by themselves: no statement, no closing of our parentheses."""
    import duckdb

    for option, text in [*conditions.items(), *orders.items()]:
        if text is None:
            continue
        if not text.strip():
            raise UserError(f"{option} is empty; give an SQL expression, such as 'pid = 12'")
        rows = con.view(source)
        try:
            # Parsed as one expression and nothing else, and bound; nothing runs before rows are fetched.
            (rows.filter if option in conditions else rows.order)(text)
        except duckdb.Error as error:
            raise sql_error(error, rows.columns, option) from error


def _run_sql(con: duckdb.DuckDBPyConnection, run: Run, sql: str) -> pa.Table:
    import duckdb

    try:
        return con.sql(sql).to_arrow_table()
    except duckdb.Error as error:
        raise sql_error(error, run.schema.names, "the selection") from error


def sql_error(error: Exception, columns: Sequence[str], option: str) -> UserError:
    """DuckDB's complaint as one line; an unknown column is answered with the nearest right ones."""
    text = _one_line(error)
    found = _UNKNOWN_COLUMN.search(text)
    if found is None:
        return UserError(f"{option}: {text}")
    known = [name for name in columns if name != _POSITION]
    near = difflib.get_close_matches(found[1].lower(), known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"columns are {', '.join(known[:8])}, ..."
    return UserError(f"{option}: there is no column {found[1]!r}; {hint} (texts stand in single quotes)")


def _one_line(error: Exception) -> str:
    """An error's first paragraph without the caret drawing that DuckDB adds."""
    text = str(error).split("\n\nLINE ")[0].split("\nLINE ")[0]
    return " ".join(text.split())


def _read_rows(run: Run, found: pa.Table, columns: Sequence[str] | None) -> pa.Table:
    """The metadata rows for a table of (shard, tar_index), in its order."""
    import numpy as np
    import pyarrow as pa

    if not found.num_rows:
        return _empty(run, columns)
    shards = pa.chunked_array(found["shard"]).combine_chunks().dictionary_encode()
    codes, tar_index = shards.indices.to_numpy(), found["tar_index"].to_numpy()
    order = np.argsort(codes, kind="stable")
    ends = np.cumsum(np.bincount(codes, minlength=len(shards.dictionary)))
    parts = []
    for shard, positions in zip(shards.dictionary.to_pylist(), np.split(order, ends[:-1]), strict=True):
        rows = _shard_rows(run, shard, columns)
        parts.append(rows.take(pa.array(tar_index[positions])))  # a row per sample, in tar order
    back = np.empty(len(order), np.int64)
    back[order] = np.arange(len(order))
    return pa.concat_tables(parts).take(pa.array(back))


def _shard_rows(run: Run, shard: str, columns: Sequence[str] | None) -> pa.Table:
    import pyarrow.parquet as pq

    path = run.layout.shard_metadata(shard)
    if not path.is_file():
        raise UserError(f"the shard {shard!r} is not done in {run.layout.root}")
    return pq.ParquetFile(path).read(columns=list(columns) if columns is not None else None)


def _empty(run: Run, columns: Sequence[str] | None) -> Any:
    table = run.schema.empty_table()
    return table if columns is None else table.select(list(columns))
