"""Lists of images that a user gives: keys, one a line, or the queries that `promptsg evaluate` wrote."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.errors import UserError
from jobs.phrases import one_line

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
        keys = tuple(read_keys(path.read_text(encoding="utf-8").splitlines()))
    except UnicodeDecodeError as error:
        raise UserError(f"--queries {path} is neither Parquet nor a list of keys") from error
    if not ranked:
        return QueryList(keys=keys)
    beside = path.with_name(QUERIES)
    if not beside.is_file():
        raise UserError(f"ranked figures need {beside}, which `promptsg evaluate` writes beside its failures.txt")
    return QueryList(table=_read_table(beside, ranked), keys=keys)


def _read_table(path: Path, ranked: bool) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"--queries {path} is not a Parquet file: {one_line(error)}") from error
    if missing := sorted((_NEEDED_RANKED if ranked else _NEEDED) - set(table.column_names)):
        raise UserError(f"--queries {path} has no column {', '.join(missing)}; `promptsg evaluate` writes it")
    return table
