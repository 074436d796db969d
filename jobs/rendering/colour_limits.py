"""The ends of the colour scales that many maps share (no torch)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from cam.names import column_of
from cam.overlay import Range
from cam.percentiles import percentiles
from jobs.arrays import Float32Array
from jobs.progress import told
from jobs.runs.heads.names import is_head, without_heads
from jobs.runs.run import Run

_BLOCK = 2048  # maps read at a time


@told("looking for the ends of the colour scales")
def colour_limits(run: Run, table: pa.Table, maps: Sequence[str], scale: str) -> dict[str, Range | None]:
    """Map -> the ends of its colour scale over the table's rows, None where each picture has its own.

    `shared` comes from the metadata alone; the table has `columns_for` it. `percentile`, and `shared` of single heads,
    which have no columns, read the maps once.
    """
    if scale == "shared":
        return {name: _read_extremes(run, name, table) if is_head(name) else _extremes(table, column_of(name))
                for name in maps}  # fmt: skip
    if scale == "percentile":
        return {name: percentiles(_values(run, name, table)) for name in maps}
    return dict.fromkeys(maps)


def columns_for(maps: Sequence[str], scale: str) -> list[str]:
    """The metadata's columns that `colour_limits` needs in its table, besides shard and h5_row."""
    if scale != "shared":
        return []
    return [f"{column_of(name)}_{end}" for name in without_heads(maps) for end in ("min", "max")]


def _extremes(table: pa.Table, column: str) -> Range | None:
    """The least and the largest value of a map over the rows that have it; None where no row has it."""
    low, high = pc.min(table[f"{column}_min"]).as_py(), pc.max(table[f"{column}_max"]).as_py()
    return None if low is None else (low, high)


def _read_extremes(run: Run, name: str, table: pa.Table) -> Range | None:
    """The same from the maps themselves."""
    ends = [(float(maps.min()), float(maps.max())) for maps in _values(run, name, table)]
    return (min(low for low, _ in ends), max(high for _, high in ends)) if ends else None


def _values(run: Run, name: str, table: pa.Table) -> Iterator[Float32Array]:
    """Maps of a table's rows, (n, h, w) at a time, by shard."""
    rows = table.select(["shard", "h5_row"]).sort_by([("shard", "ascending"), ("h5_row", "ascending")])
    for batch in rows.to_batches(max_chunksize=_BLOCK):
        yield run.maps_of(name, pa.Table.from_batches([batch]))
