"""SQL expressions over one image each: checked before anything is read, and counted (DuckDB; no torch).

The user's expressions see `samples`, the whole run's metadata, and `run`, its images that have maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from jobs.runs.metadata_sql import condition, connect_metadata, reading_metadata, run_sql, sql_error
from jobs.runs.run import Run

if TYPE_CHECKING:
    import duckdb

OPTIONS = "--by or --where"  # what an error about a value calls the user's SQL


def check_expressions(run: Run, by: Sequence[str], where: str) -> None:
    """Raises UserError unless all are SQL expressions over one row: no statement, file, aggregate or window.

    An unknown column's error names the nearest. Aggregates and windows would differ from block to block.
    """
    texts = [("--by", expression) for expression in by if expression not in run.schema.names]
    texts += [("--where", where)] if where.strip() else []
    if not texts:
        return
    import duckdb

    rows = connect_images(run, [text for _, text in texts]).table("run")
    for option, text in texts:
        try:
            # Parsed as one expression and bound, as a condition may hold neither windows nor aggregates; nothing runs.
            expression = duckdb.SQLExpression(text)
            rows.filter(expression if option == "--where" else expression.isnotnull())
        except duckdb.Error as error:
            raise sql_error(error, run.schema.names, option) from error


def count_images(run: Run, where: str) -> int:
    """How many images of the whole run have maps and meet the condition."""
    chosen = condition(where if where.strip() else None)
    sql = f"SELECT count(*) AS n FROM run WHERE {chosen}"
    table = run.reading_again(lambda: run_sql(connect_images(run, [where]), run, sql, OPTIONS))
    return int(table["n"][0].as_py())


def connect_images(run: Run, expressions: Sequence[str]) -> duckdb.DuckDBPyConnection:
    """A connection that sees `samples` and `run`, and neither files nor network.

    Both have the scores of queries where one of the user's expressions names them.
    """
    con = connect_metadata(run, expressions=expressions)
    with reading_metadata(run):
        con.execute("CREATE TEMP VIEW run AS SELECT * FROM samples WHERE h5_row IS NOT NULL")
    return con
