"""Rows of a run's metadata: those at places, those of keys, or all of a shard, read from the shards' own files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.errors import UserError
from jobs.runs.footer import read_rows
from jobs.runs.run import Run, positions_by_shard


def rows_at(run: Run, places: pa.Table, columns: Sequence[str] | None = None) -> pa.Table:
    """The metadata rows at places (`shard`, `tar_index`), in their order; all columns or those named.

    Raises UserError if a shard is not done.
    """
    tar_index = places["tar_index"].to_numpy()
    by_shard = positions_by_shard(places["shard"])
    if not by_shard:
        return _no_rows(run, columns)
    # The rows of a shard's file are in tar order, so that tar_index is the row's number.
    parts = [shard_rows(run, shard, columns).take(pa.array(tar_index[here])) for shard, here in by_shard.items()]
    in_order = np.argsort(np.concatenate(list(by_shard.values())))
    return pa.concat_tables(parts).take(pa.array(in_order))


def rows_by_key(run: Run, wanted: Iterable[tuple[str, str]], columns: Sequence[str] | None = None) -> pa.Table:
    """The rows with maps of (shard, key) pairs, by shard and place in the tar. Reads only the files of those shards.

    Raises UserError if a shard is not done.
    """
    keys: dict[str, set[str]] = {}
    for shard, key in wanted:
        keys.setdefault(shard, set()).add(key)
    parts = []
    for shard in sorted(keys):
        rows = shard_rows(run, shard, columns)
        chosen = pc.and_(pc.is_in(rows["key"], pa.array(sorted(keys[shard]))), pc.is_valid(rows["h5_row"]))
        parts.append(rows.filter(chosen))
    return pa.concat_tables(parts) if parts else _no_rows(run, columns)


def shard_rows(run: Run, shard: str, columns: Sequence[str] | None) -> pa.Table:
    """All rows of one shard, in tar order; all columns or those named, in the order of the file.

    For a single shard it takes a third of the time of `Run.read_metadata`, which builds a dataset.
    Raises UserError if the shard is not done, or if its file is damaged or not its own.
    """
    return run.reading_again(lambda: _shard_rows_now(run, shard, columns))


def _shard_rows_now(run: Run, shard: str, columns: Sequence[str] | None) -> pa.Table:
    run.require_files(shard)
    run.footers.of(shard)  # refuses a file that is not the shard's
    path = run.layout.shard_metadata(shard)
    of_run = run.schema.names
    # Maps may have been added to the shard since the run was opened: their columns are not among those of the run.
    names = of_run if columns is None else list(columns)
    rows = read_rows(path, names)
    if run.manifest.additions and (missing := sorted(set(names) & set(of_run) - set(rows.column_names))):
        raise UserError(f"{path} has no {missing[0]}: the shard was mined again, and its added maps are gone")
    return rows.select([name for name in names if name in rows.column_names])


def _no_rows(run: Run, columns: Sequence[str] | None) -> pa.Table:
    table = run.schema.empty_table()
    return table if columns is None else table.select(list(columns))
