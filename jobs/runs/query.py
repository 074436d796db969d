"""Chooses rows of a run's metadata: by SQL over its columns, by keys, or at random.

Two steps keep this small on large runs. First a query over only the columns that it names finds which rows are chosen.
Then those rows are read from the files of their own shards.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobs.phrases import counted, first_few
from jobs.progress import told
from jobs.runs.evaluation.query_scores import (
    AP,
    FIRST_HIT_RANK,
    FIRST_RANK,
    ROW,
    SCORES,
    read_scores,
    with_scores,
)
from jobs.runs.metadata_sql import (
    POSITION,
    SAMPLES,
    check_expression,
    condition,
    connect_metadata,
    reading_metadata,
    run_sql,
)

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from jobs.runs.run import Run

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RowSelection:
    """Which rows of a run's metadata are chosen, and in which order.

    `where` and `order_by` are SQL expressions over the metadata's columns, and over `ap` and `first_rank` of queries
    once `promptsg evaluate` has run; both are NULL for rows that were no query. `keys` restricts the selection to
    images of these keys. `sample` rows are drawn uniformly, the same ones for the same `seed`. Then the rows are sorted
    and cut to `limit`. Without `order_by` the order is that of `keys`, else by shard and place in the tar.
    """

    where: str | None = None
    order_by: str | None = None
    limit: int | None = None
    sample: int | None = None
    seed: int = 0
    keys: tuple[str, ...] | None = None


def check_selection(run: Run, selection: RowSelection) -> None:
    """Raises UserError for a condition or an order that is not SQL over the run's columns. Reads no rows."""
    connection = connect_metadata(run, expressions=(selection.where, selection.order_by))
    with reading_metadata(run):
        if selection.where is not None:
            check_expression(connection, SAMPLES, "condition", selection.where, "--where")
        if selection.order_by is not None:
            check_expression(connection, SAMPLES, "order", selection.order_by, "--order-by")


@told("choosing the images")
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

    Those named may be `ap` and `first_rank` too. `joined` is a table with the columns `shard` and `key`: only its rows
    are selected from, by default in its order. The expressions may also use its other columns, but not nested ones.
    `also` is a further condition, written by the program. `option` is what an error calls the user's condition. Warns
    of keys that the run does not have.

    Raises UserError for a column that does not exist, naming the nearest, and for any other error in the SQL.
    """
    return run.reading_again(lambda: _select(run, selection, joined, columns, also, option))


def _select(
    run: Run,
    selection: RowSelection,
    joined: pa.Table | None,
    columns: Sequence[str] | None,
    also: str | None,
    option: str,
) -> pa.Table:
    # Scores that are in the table are those of its own evaluation.
    has_scores = joined is not None and AP in joined.column_names
    expressions = () if has_scores else (selection.where, selection.order_by)
    connection = connect_metadata(run, expressions=expressions)
    source, order = SAMPLES, "shard, tar_index"
    with reading_metadata(run):
        if joined is not None:
            source, order = _join(connection, joined), f"{POSITION}, {order}"
        if selection.keys is not None:
            source, order = _restrict(connection, source, selection.keys), f"{POSITION}, {order}"
        if selection.where is not None:
            check_expression(connection, source, "condition", selection.where, option)
        if selection.order_by is not None:
            check_expression(connection, source, "order", selection.order_by, "--order-by")
    places = run_sql(connection, run, _selection_sql(selection, source, order, also))
    return _rows_at(run, places, columns)


def _rows_at(run: Run, places: pa.Table, columns: Sequence[str] | None) -> pa.Table:
    """As `rows_at`; the columns may be those of queries too."""
    from jobs.runs.rows.lookup import rows_at

    if columns is None or not (wanted := [name for name in columns if name in SCORES]):
        return rows_at(run, places, columns)
    of_run = [name for name in columns if name not in SCORES]
    rows = rows_at(run, places, list(dict.fromkeys([*of_run, *ROW])))
    return with_scores(rows, read_scores(run), wanted).select(list(columns))


def warn_of_incomplete_maps(run: Run) -> None:
    """Warns where maps were not added to all done shards yet: they and their columns are left out."""
    for one in run.added:
        if not one.is_complete:
            logger.warning(
                "%s: maps are left out, since not all done shards have them: %s", run.layout.root, one.describe()
            )


def warn_of_unfinished(run: Run) -> None:
    """Warns where a run has shards that are not done: what is drawn or computed is without their images.

    Warns as well of maps that not all done shards have.
    """
    warn_of_incomplete_maps(run)
    done, begun = run.layout.done_and_begun()
    names = [shard.name for shard in run.manifest.recorded_shards]
    missing = [name for name in names if name not in done and name not in begun]
    if left := len(missing) + len(begun):
        parts = [f"their images are left out: {first_few(missing)}"] if missing else []
        parts += [f"of {first_few(sorted(begun))} only the first images are used"] if begun else []
        of_all = f"{left} of {counted(len(names), 'shard is', 'shards are')}"
        logger.warning("%s: %s not done, and %s", run.layout.root, of_all, "; ".join(parts))


def count_by_status(run: Run, where: str | None = None) -> dict[str, int]:
    """Status -> how many rows that meet a condition have it. DuckDB counts, since there may be many millions.

    Raises as `select_rows` does.
    """
    found = run.reading_again(lambda: _rows_by_status(run, where))
    return dict(zip(found["status"].to_pylist(), found["rows"].to_pylist(), strict=True))


def _rows_by_status(run: Run, where: str | None) -> pa.Table:
    connection = connect_metadata(run, expressions=[where])
    if where is not None:
        with reading_metadata(run):
            check_expression(connection, SAMPLES, "condition", where, "--where")
    sql = f"SELECT status, count(*) AS rows FROM {SAMPLES} WHERE {condition(where)} GROUP BY status ORDER BY status"
    return run_sql(connection, run, sql)


def keys_in_several_shards(run: Run, keys: Iterable[str]) -> set[str]:
    """Those of the keys that more than one row of the run has.

    Only files that may have one of them are read: where shards are packed by name, those are few.
    """
    wanted = sorted(set(keys))
    return run.reading_again(lambda: _in_several_shards(run, wanted))


def _in_several_shards(run: Run, wanted: Sequence[str]) -> set[str]:
    import pyarrow as pa

    published = run.published()
    footers = zip(published, run.footers.all_of(published), strict=True)
    shards = [shard for shard, footer in footers if footer.may_hold(wanted)]
    if not shards:
        return set()
    connection = connect_metadata(run, shards)
    connection.register("wanted", pa.table({"key": pa.array(wanted, pa.string())}))
    sql = f"SELECT key FROM {SAMPLES} WHERE key IN (SELECT key FROM wanted) GROUP BY key HAVING count(*) > 1"
    return set(run_sql(connection, run, sql)["key"].to_pylist())


def _selection_sql(selection: RowSelection, source: str, order: str, also: str | None) -> str:
    """The query that gives shard and tar_index of the selected rows; `order` is the order without `order_by`."""
    sql = f"SELECT * FROM {source} WHERE {condition(selection.where)} AND ({also or 'true'})"
    if selection.sample is not None:
        # The draw depends only on the row and the seed. It is as uniform as MD5 and needs no state to be reproduced.
        draw = f"md5(concat_ws('/', {int(selection.seed)}, shard, tar_index))"
        sql = f"SELECT * FROM ({sql}) ORDER BY {draw}, {order} LIMIT {int(selection.sample)}"
    # Shard and place in the tar decide between rows that the user's own terms leave equal.
    sql = f"SELECT shard, tar_index FROM ({sql}) ORDER BY {selection.order_by or order}\n, shard, tar_index"
    return sql if selection.limit is None else f"{sql} LIMIT {int(selection.limit)}"


def _join(connection: duckdb.DuckDBPyConnection, joined: pa.Table) -> str:
    """A view of the samples that are in a table, with the table's own columns and the position in it."""
    import pyarrow as pa

    plain = [field.name for field in joined.schema if not pa.types.is_nested(field.type)]
    ours = {name for name, *_ in connection.execute(f"DESCRIBE {SAMPLES}").fetchall()}
    more = ["shard", "key", *(name for name in plain if name not in ours)]
    if FIRST_HIT_RANK in more and FIRST_RANK not in [*more, *ours]:
        joined = joined.append_column(FIRST_RANK, joined[FIRST_HIT_RANK])
        more.append(FIRST_RANK)
    numbered = joined.select(more).append_column(POSITION, pa.array(range(joined.num_rows), pa.int64()))
    connection.register("joined", numbered)
    connection.execute(f"CREATE TEMP VIEW joined_samples AS SELECT * FROM {SAMPLES} JOIN joined USING (shard, key)")
    return "joined_samples"


def _restrict(connection: duckdb.DuckDBPyConnection, source: str, keys: Sequence[str]) -> str:
    """A view of the rows of some keys, with the position of the key. Warns of keys that are not there."""
    import pyarrow as pa

    wanted = {"key": pa.array(keys, pa.string()), "wanted_position": pa.array(range(len(keys)), pa.int64())}
    connection.register("wanted", pa.table(wanted))
    missing = connection.execute(
        f"SELECT key FROM wanted WHERE key NOT IN (SELECT key FROM {source}) ORDER BY wanted_position"
    ).fetchall()
    if missing:
        of_all = f"{len(missing)} of {counted(len(keys), 'key is', 'keys are')}"
        logger.warning("%s not in the run: %s", of_all, first_few(key for (key,) in missing))
    own_columns = f"{source}.*" if source == SAMPLES else f"{source}.* EXCLUDE ({POSITION})"
    connection.execute(
        f"CREATE TEMP VIEW chosen_samples AS SELECT {own_columns}, wanted_position AS {POSITION} "
        f"FROM {source} JOIN wanted USING (key)"
    )
    return "chosen_samples"
