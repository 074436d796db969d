"""SQL over a run's metadata: the connection, the check of a user's expression, and the message for an SQL error.

Uses DuckDB over the Parquet files. A user's SQL sees neither files, nor the network, nor Python's variables.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from jobs.errors import UserError
from jobs.phrases import did_you_mean

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from jobs.runs.run import Run

SAMPLES = "samples"
POSITION = "position_in_list"  # an internal column: the place in the list; messages do not show it
_SETTINGS = ("python_enable_replacements = false", "enable_external_access = false", "lock_configuration = true")
_UNKNOWN_COLUMN = re.compile(r'(?:Referenced column|does not have a column named|has no column) "([^"]+)"')
_COLUMNS_SHOWN = 8


def connect_metadata(run: Run) -> duckdb.DuckDBPyConnection:
    """A connection that sees the run's metadata as the table `samples`, and nothing else.

    Raises UserError if no shard of the run is done.
    """
    import duckdb

    if not run.layout.done():
        raise UserError(f"{run.layout.root} has no finished shard; see `promptsg status {run.layout.root}`")
    connection = duckdb.connect(":memory:")
    connection.register(SAMPLES, run.metadata())
    for setting in _SETTINGS:
        connection.execute(f"SET {setting}")
    return connection


def check_expression(
    connection: duckdb.DuckDBPyConnection, source: str, kind: Literal["condition", "order"], text: str, option: str
) -> None:
    """Raises UserError unless the text is an SQL expression over the columns of the table or view `source`.

    It must be an expression by itself: it may neither be a statement nor close our parentheses. `option` is what the
    message calls it. Nothing is computed.
    """
    import duckdb

    if not text.strip():
        raise UserError(f"{option} is empty; give an SQL expression, such as 'pid = 12'")
    rows = connection.view(source)
    try:  # DuckDB parses the text as one expression and nothing else; it runs nothing before rows are fetched
        if kind == "condition":
            rows.filter(text)
        else:
            rows.order(text)
    except duckdb.Error as error:
        raise sql_error(error, rows.columns, option) from error


def condition(where: str | None) -> str:
    """A user's condition as a term of our SQL. The line break ends a comment that the user may have written."""
    return "true" if where is None else f"({where}\n)"


def run_sql(connection: duckdb.DuckDBPyConnection, run: Run, sql: str, option: str = "the selection") -> pa.Table:
    """The rows of a query. Raises UserError with DuckDB's message, which calls the user's SQL `option`."""
    import duckdb

    try:
        return connection.sql(sql).to_arrow_table()
    except duckdb.Error as error:
        raise sql_error(error, run.schema.names, option) from error


def sql_error(error: Exception, columns: Sequence[str], option: str) -> UserError:
    """DuckDB's error in one line. For an unknown column the message names the nearest one of `columns`."""
    text = first_paragraph(error)
    found = _UNKNOWN_COLUMN.search(text)
    if found is None:
        return UserError(f"{option}: {text}")
    known = [name for name in columns if name != POSITION]
    hint = (
        did_you_mean(found[1].lower(), known, cutoff=0.5) or f"; columns are {', '.join(known[:_COLUMNS_SHOWN])}, ..."
    )
    return UserError(f"{option}: there is no column {found[1]!r}{hint} (write texts in single quotes)")


def first_paragraph(error: Exception) -> str:
    """An error's message on one line, without the drawing that DuckDB adds to show the place."""
    text = str(error).split("\n\nLINE ")[0].split("\nLINE ")[0]
    return " ".join(text.split())
