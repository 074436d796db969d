"""The ends of the colour scales that many maps share (no torch)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from cam.overlay import Range
    from jobs.runs.run import Run

_BLOCK = 2048  # maps read at a time
_LEVEL_BITS = 12  # of a float32's 32 that are dropped where percentiles are counted: 11 bits of mantissa stay


def colour_limits(run: Run, table: pa.Table, maps: Sequence[str], scale: str) -> dict[str, Range | None]:
    """Map -> the ends of its colour scale over the table's rows, None where each picture has its own.

    `shared` comes from the metadata alone. `percentile` reads the maps once and counts values by the leading bits of
    their float32: right to 0.05 %, in the same little memory however many maps there are.
    """
    import pyarrow.compute as pc

    from cam.names import column_of

    found: dict[str, Range | None] = dict.fromkeys(maps)
    for name in maps:
        if scale == "shared":
            low, high = (pc.min_max(table[f"{column_of(name)}_{end}"])[end].as_py() for end in ("min", "max"))
            found[name] = None if low is None else (low, high)
        elif scale == "percentile":
            found[name] = percentiles(_values(run, name, table))
    return found


def columns_for(maps: Sequence[str], scale: str) -> list[str]:
    """The metadata's columns that `colour_limits` needs in its table, besides shard and h5_row."""
    from cam.names import column_of

    if scale != "shared":
        return []
    return [f"{column_of(name)}_{end}" for name in maps for end in ("min", "max")]


def percentiles(blocks: Iterable[NDArray[np.float32]], shares: tuple[float, float] = (0.01, 0.99)) -> Range | None:
    """Two order statistics of all finite values in arrays of any shape, `shares` from 0 to 1; None without values.

    What is counted are values with the lower 12 bits of their float32 cut off, so each is right to 0.05 %.
    """
    import numpy as np

    counts = np.zeros(1 << (32 - _LEVEL_BITS), np.int64)
    for block in blocks:
        bits = (block[np.isfinite(block)] + np.float32(0)).view(np.uint32)  # + 0 makes -0 a 0
        # Flipped so that the order of the bits is the order of the numbers.
        rising = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))
        counts += np.bincount(rising >> _LEVEL_BITS, minlength=len(counts))
    total = np.cumsum(counts)
    if not total[-1]:
        return None
    levels = np.searchsorted(total, np.array(shares) * (total[-1] - 1), side="right").astype(np.uint32) << _LEVEL_BITS
    bits = np.where(levels >> 31, levels & np.uint32((1 << 31) - 1), ~levels).astype(np.uint32)
    low, high = bits.view(np.float32).tolist()
    return low, high


def _values(run: Run, name: str, table: pa.Table) -> Iterator[NDArray[np.float32]]:
    """Maps of a table's rows, block by block, without order."""
    rows = table.select(["shard", "h5_row"]).sort_by([("shard", "ascending"), ("h5_row", "ascending")])
    for batch in rows.to_batches(max_chunksize=_BLOCK):
        yield run.maps_of(name, batch.to_pylist())
