"""The ends of the colour scales that many maps share (no torch)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from cam.names import column_of
from cam.overlay import Range
from cam.percentiles import percentiles
from jobs.arrays import Float32Array
from jobs.runs.run import Run

_BLOCK = 2048  # maps read at a time


def colour_limits(run: Run, table: pa.Table, maps: Sequence[str], scale: str) -> dict[str, Range | None]:
    """Map -> the ends of its colour scale over the table's rows, None where each picture has its own.

    `shared` comes from the metadata alone; the table has `columns_for` it. `percentile` reads the maps once.
    """
    if scale == "shared":
        return {name: _extremes(table, column_of(name)) for name in maps}
    if scale == "percentile":
        return {name: percentiles(_values(run, name, table)) for name in maps}
    return dict.fromkeys(maps)


def columns_for(maps: Sequence[str], scale: str) -> list[str]:
    """The metadata's columns that `colour_limits` needs in its table, besides shard and h5_row."""
    if scale != "shared":
        return []
    return [f"{column_of(name)}_{end}" for name in maps for end in ("min", "max")]


def _extremes(table: pa.Table, column: str) -> Range | None:
    """The least and the largest value of a map over the rows that have it; None where no row has it."""
    low, high = pc.min(table[f"{column}_min"]).as_py(), pc.max(table[f"{column}_max"]).as_py()
    return None if low is None else (low, high)


def _values(run: Run, name: str, table: pa.Table) -> Iterator[Float32Array]:
    """Maps of a table's rows, (n, h, w) at a time, by shard."""
    rows = table.select(["shard", "h5_row"]).sort_by([("shard", "ascending"), ("h5_row", "ascending")])
    for batch in rows.to_batches(max_chunksize=_BLOCK):
        yield run.maps_of(name, pa.Table.from_batches([batch]))
