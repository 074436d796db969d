"""SQL over a run's metadata: the connection, the check of a user's expression, and the message for an SQL error.

Uses DuckDB over the Parquet files, which it reads itself: it keeps no footers, of which those of 10,000 files take
gigabytes. A user's SQL sees neither other files, nor the network, nor Python's variables. What it may take is bounded:
`repeat('x', 1000000000)` or a join of the samples with themselves ends with one line.

Where the expressions name `ap` or `first_rank`, the samples have these columns of `promptsg evaluate` too.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from jobs.errors import UserError
from jobs.memory import limited_growth, machine_memory
from jobs.phrases import did_you_mean
from jobs.runs.evaluation.query_scores import ROW, SCORES, names_scores, read_scores

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from jobs.runs.run import Run

SAMPLES = "samples"
_QUERY_SCORES = "query_scores"
POSITION = "position_in_list"  # an internal column: the place in the list; messages do not show it
# Without a folder for it DuckDB does not move a join of everything with everything to the disk, which would fill it.
_SETTINGS = (
    "temp_directory = ''",
    "python_enable_replacements = false",
    "enable_external_access = false",
    "lock_configuration = true",
)
_UNKNOWN_COLUMN = re.compile(r'(?:Referenced column|does not have a column named|has no column) "([^"]+)"')
# A head's name in SQL: as its maps are named, or as its columns would be.
_OF_HEAD = re.compile(r'_attention_head\d+_|syntax error at or near "#"')
_NO_COLUMNS_OF_HEADS = (
    "single heads have no columns in the metadata; `promptsg stats --map mim_attention#3` computes their measures, and "
    "the page of `promptsg gallery --map mim_attention#3` sorts by them"
)
_COLUMNS_SHOWN = 8
_MEMORY, _SECONDS = 2 << 30, 300.0  # what a query may take on a small run
_BYTES_A_SECOND = 5_000_000  # of Parquet files; a large run may take longer by so much
_AGAIN = 0.2  # seconds after which an interrupt is repeated: DuckDB forgets one that comes while it plans a query
_NOT_TRACKED = 256 << 20  # bytes beside those that DuckDB counts


@dataclass(frozen=True, kw_only=True)
class SqlLimits:
    """The bytes of memory and the seconds that one query may take."""

    memory: int
    seconds: float

    @classmethod
    def of_files(cls, size: int) -> SqlLimits:
        """Those for metadata of `size` bytes: a selection of everything must fit, on a machine that can hold it."""
        memory, there = _MEMORY + size, machine_memory()
        return cls(
            memory=memory if there is None else min(memory, there * 3 // 4),
            seconds=_SECONDS + size / _BYTES_A_SECOND,
        )


def connect_metadata(
    run: Run, shards: Sequence[str] | None = None, *, expressions: Iterable[str | None] = ()
) -> duckdb.DuckDBPyConnection:
    """A connection that sees the metadata of the run, or of some shards, as the table `samples`, and nothing else.

    The samples have the columns `ap` and `first_rank` where one of the user's expressions names them. Raises UserError
    if no shard of the run is done, if there are no such scores of it, or naming a file that is damaged.
    """
    wanted, texts = None if shards is None else list(shards), list(expressions)
    return run.reading_again(lambda: _connect(run, wanted, texts))


def _connect(run: Run, shards: Sequence[str] | None, expressions: Sequence[str | None]) -> duckdb.DuckDBPyConnection:
    import duckdb

    files = run.metadata_files(shards)
    if not files:
        raise UserError(f"{run.layout.root} has no finished shard; see `promptsg status {run.layout.root}`")
    memory = SqlLimits.of_files(run.metadata_size()).memory
    connection = duckdb.connect(":memory:", config={"memory_limit": f"{memory >> 20}MiB"})
    connection.execute("SET enable_progress_bar = false")
    connection.execute("SET enable_external_file_cache = false")  # each file is read once, and keeping it costs a third
    connection.execute(f"SET allowed_paths = {_literals(files)}")
    scored = names_scores(expressions)
    if scored:
        connection.register(_QUERY_SCORES, read_scores(run))
    create_samples(connection, SAMPLES, run, files, scored=scored)
    for setting in _SETTINGS:
        connection.execute(f"SET {setting}")
    return connection


@contextlib.contextmanager
def reading_metadata(run: Run) -> Iterator[None]:
    """Around what DuckDB does with a run's metadata: raises UserError, naming it, for a file that cannot be read."""
    import duckdb

    try:
        yield
    except duckdb.IOException as error:
        run.refuse_damaged()
        raise UserError(f"cannot read the metadata of {run.layout.root}: {first_paragraph(error)}") from error


def create_samples(
    connection: duckdb.DuckDBPyConnection, name: str, run: Run, files: Iterable[str], *, scored: bool = False
) -> None:
    """A view of the rows of some of the run's files, with the columns of its metadata.

    With `scored` it has `ap` and `first_rank` too, if the connection was made for expressions that name them. Raises
    UserError naming a file that lacks a column.
    """
    import duckdb

    columns = ", ".join(f'"{column}"' for column in run.schema.names)
    # Where maps were added, the files may differ in their last columns.
    differing = ", union_by_name = true" if run.manifest.additions else ""
    source = f"read_parquet({_literals(files)}, hive_partitioning = false{differing})"
    if scored:
        columns = f"{columns}, {', '.join(SCORES)}"
        source = f"{source} LEFT JOIN {_QUERY_SCORES} USING ({', '.join(ROW)})"
    try:
        connection.execute(f"CREATE TEMP VIEW {name} AS SELECT {columns} FROM {source}")
    except duckdb.Error as error:
        run.refuse_damaged()
        raise UserError(f"cannot read the metadata of {run.layout.root}: {first_paragraph(error)}") from error


def _literals(texts: Iterable[str]) -> str:
    """A list of texts in SQL."""
    quoted = (text.replace("'", "''") for text in texts)
    return "[" + ", ".join(f"'{text}'" for text in quoted) + "]"


@contextlib.contextmanager
def bounded(connection: duckdb.DuckDBPyConnection, limits: SqlLimits, option: str) -> Iterator[None]:
    """Ends what the connection does inside when it takes too long or too much memory.

    Raises UserError then, which calls the user's SQL `option`. DuckDB's own limit does not count the texts that an
    expression makes, so that the process is limited too.
    """
    import duckdb

    done = threading.Event()
    watch = threading.Thread(target=_interrupt_late, args=(connection, limits.seconds, done), daemon=True)
    watch.start()
    try:
        with limited_growth(limits.memory + _NOT_TRACKED):
            yield
    except duckdb.InterruptException as error:
        raise UserError(
            f"{option} took more than {limits.seconds:.0f} seconds and was stopped; give a simpler expression"
        ) from error
    except (duckdb.OutOfMemoryException, MemoryError) as error:
        raise UserError(
            f"{option} needs more than {limits.memory / 1e9:.1f} GB of memory and was stopped; give a simpler "
            "expression, or select fewer images"
        ) from error
    finally:
        done.set()
        watch.join()


def _interrupt_late(connection: duckdb.DuckDBPyConnection, seconds: float, done: threading.Event) -> None:
    """Interrupts a connection that is not done in time."""
    wait = seconds
    while not done.wait(wait):
        connection.interrupt()
        wait = _AGAIN


def check_expression(
    connection: duckdb.DuckDBPyConnection, source: str, kind: Literal["condition", "order"], text: str, option: str
) -> None:
    """Raises UserError unless the text is an SQL expression over the columns of the table or view `source`.

    It must be an expression by itself: it may neither be a statement nor close our parentheses. `option` is what the
    message calls it. Nothing is computed.
    """
    import duckdb

    refuse_blank(text, option)
    rows = connection.view(source)
    try:  # DuckDB parses the text as one expression and nothing else; it runs nothing before rows are fetched
        if kind == "condition":
            rows.filter(text)
        else:
            rows.order(text)
    except duckdb.Error as error:
        raise sql_error(error, rows.columns, option) from error


def refuse_blank(text: str, option: str) -> None:
    """Raises UserError for an expression without content: a variable that a script forgot to set must not mean all."""
    if not text.strip():
        raise UserError(f"{option} is empty; give an SQL expression, such as 'pid = 12'")


def condition(where: str | None) -> str:
    """A user's condition as a term of our SQL. The line break ends a comment that the user may have written."""
    return "true" if where is None else f"({where}\n)"


def run_sql(connection: duckdb.DuckDBPyConnection, run: Run, sql: str, option: str = "the selection") -> pa.Table:
    """The rows of a query. Raises UserError with DuckDB's message, which calls the user's SQL `option`."""
    import duckdb

    try:
        with bounded(connection, SqlLimits.of_files(run.metadata_size()), option):
            return connection.sql(sql).to_arrow_table()
    except duckdb.Error as error:
        if _may_be_damage(error):
            run.refuse_damaged()
        raise sql_error(error, run.schema.names, option) from error


def _may_be_damage(error: Exception) -> bool:
    """Whether an error may come from a file; then all are looked at, which takes time."""
    import duckdb

    of_the_query = (duckdb.ProgrammingError, duckdb.DataError, duckdb.NotSupportedError)
    return not isinstance(error, of_the_query) or isinstance(error, duckdb.InvalidInputException)


def sql_error(error: Exception, columns: Sequence[str], option: str) -> UserError:
    """DuckDB's error in one line. For an unknown column the message names the nearest one of `columns`."""
    text = first_paragraph(error)
    found = _UNKNOWN_COLUMN.search(text)
    if _OF_HEAD.search(found[1] if found else text):
        return UserError(f"{option}: {_NO_COLUMNS_OF_HEADS}")
    if found is None:
        return UserError(f"{option}: {text}")
    known = [*(name for name in columns if name != POSITION), *SCORES]
    hint = (
        did_you_mean(found[1].lower(), known, cutoff=0.5) or f"; columns are {', '.join(known[:_COLUMNS_SHOWN])}, ..."
    )
    return UserError(f"{option}: there is no column {found[1]!r}{hint} (write texts in single quotes)")


def first_paragraph(error: Exception) -> str:
    """An error's message on one line, without the drawing that DuckDB adds to show the place."""
    text = str(error).split("\n\nLINE ")[0].split("\nLINE ")[0]
    return " ".join(text.split())
