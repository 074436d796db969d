"""Numbers and tables on their way into files: NaN becomes null, and a Parquet file appears whole or not at all."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.arrays import FloatArray
from jobs.atomic import StagedFile

if TYPE_CHECKING:
    import pyarrow as pa


def none_if_nan(value: float) -> float | None:
    """A number for JSON or a column: NaN becomes None."""
    return None if math.isnan(value) else float(value)


def nullable(values: FloatArray) -> list[float | None]:
    """(N,) numbers for a column: NaN becomes None."""
    return [None if math.isnan(value) else value for value in values.tolist()]


def write_parquet(final: Path, table: pa.Table) -> None:
    """Writes a Parquet file under its final name, whole or not at all."""
    import pyarrow.parquet as pq

    with StagedFile(final) as staged:
        pq.write_table(table, staged.file, compression="zstd")
        staged.sync()
        staged.publish()
