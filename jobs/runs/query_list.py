"""Lists of images that a user gives: keys, one a line, or the queries that `promptsg evaluate` wrote."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.errors import UserError
from jobs.phrases import shown
from jobs.reading import reading
from jobs.tables import csv_rows
from jobs.text_files import read_text

if TYPE_CHECKING:
    import pyarrow as pa

QUERIES = "queries.parquet"
_NEEDED = {"shard", "key"}
_NEEDED_RANKED = _NEEDED | {"topk_keys", "topk_shards", "topk_distances", "topk_correct"}


@dataclass(frozen=True, kw_only=True)
class QueryList:
    """Queries to select.

    `table` is the content of queries.parquet, None where it was not read. `keys` is a list of keys in its order, None
    where all queries of the table are meant.
    """

    table: pa.Table | None = None
    keys: tuple[str, ...] | None = None

    def keys_among(self, keys: Sequence[str] | None) -> tuple[str, ...] | None:
        """Those of `keys` that the list allows, in their order; the listed keys if `keys` is None. None means all."""
        if keys is None:
            return self.keys
        allowed = set(keys if self.keys is None else self.keys)
        return tuple(key for key in keys if key in allowed)


def read_keys(lines: Iterable[str]) -> list[str]:
    """One key a line. Empty lines are skipped, and each key counts once."""
    return list(dict.fromkeys(line.strip() for line in lines if line.strip()))


def read_csv_keys(lines: Iterable[str], name: str) -> list[str]:
    """The keys in the column `key` of a CSV file, each once. Raises UserError naming the file if it has none."""
    rows = csv_rows(lines)
    if rows and "key" not in rows[0]:
        raise UserError(f"--keys {name} has no column key; it has {', '.join(map(shown, rows[0]))}")
    return list(dict.fromkeys(row["key"] for row in rows if row["key"]))


def read_queries(path: Path, *, ranked: bool) -> QueryList:
    """The queries in queries.parquet, or those in a list of keys.

    With `ranked` the table is always needed: for a list of keys, the queries.parquet beside it is read too. Raises
    UserError if a file is missing or is not one that `promptsg evaluate` wrote.
    """
    if not path.is_file():
        raise UserError(f"--queries {path} is not a file; give queries.parquet or failures.txt of `promptsg evaluate`")
    if path.suffix == ".parquet":
        return QueryList(table=_read_table(path, ranked))
    try:
        keys = tuple(read_keys(read_text(path).splitlines()))
    except UserError as error:
        raise UserError(f"--queries {path} is neither Parquet nor a list of keys ({error})") from error
    if not ranked:
        return QueryList(keys=keys)
    beside = path.with_name(QUERIES)
    if not beside.is_file():
        raise UserError(f"ranked figures need {beside}, which `promptsg evaluate` writes beside its failures.txt")
    return QueryList(table=_read_table(beside, ranked), keys=keys)


def _read_table(path: Path, ranked: bool) -> pa.Table:
    import pyarrow.parquet as pq

    with reading(path, "queries of --queries", "run `promptsg evaluate` again"):
        table = pq.ParquetFile(path).read()
    if missing := sorted((_NEEDED_RANKED if ranked else _NEEDED) - set(table.column_names)):
        raise UserError(f"--queries {path} has no column {', '.join(missing)}; `promptsg evaluate` writes it")
    return table
