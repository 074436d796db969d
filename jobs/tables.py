"""Numbers and tables on their way into files: NaN becomes null, and a file appears whole or not at all.

A text in a CSV file that a spreadsheet would take for a formula gets an apostrophe in front, which `csv_rows` removes.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.atomic import StagedFile

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

# What a spreadsheet takes for the start of a formula, and the mark itself, so that a mark can be told from the text.
_FORMULA = re.compile(r"[=+\-@\t\r\n']")
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?")
_MARK = "'"


def none_if_nan(value: float) -> float | None:
    """A number for JSON or a column: NaN becomes None."""
    return None if math.isnan(value) else float(value)


def json_rows(table: pa.Table) -> list[dict[str, object]]:
    """Rows for JSON: numbers, texts, booleans and None as they are, other values, such as dates, as texts."""
    return [{name: _for_json(value) for name, value in row.items()} for row in table.to_pylist()]


def float32_column(values: NDArray[np.floating]) -> pa.Array:
    """(N,) numbers as a column of float32; NaN is null."""
    import pyarrow as pa

    return pa.array(values.astype("float32"), pa.float32(), from_pandas=True)


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A CSV file with one line for each row. None is an empty cell. Numbers stay as they are, as texts too."""
    return "".join([_csv_line(header), *map(_csv_line, rows)])


def csv_bytes(table: pa.Table) -> bytes:
    """A table as a CSV file. Nulls are empty cells."""
    import pyarrow as pa
    import pyarrow.csv

    columns = [_marked(column) if pa.types.is_string(column.type) else column for column in table.columns]
    out = io.BytesIO()
    pyarrow.csv.write_csv(pa.table(columns, names=[_as_text(name) for name in table.column_names]), out)
    return out.getvalue()


def csv_rows(lines: Iterable[str]) -> list[dict[str, str]]:
    """The rows of a CSV file with a header, without the marks of `csv_text`."""
    reader = csv.DictReader(lines)
    return [{_without_mark(name): _without_mark(cell or "") for name, cell in row.items() if name} for row in reader]


def _for_json(value: object) -> object:
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _csv_line(cells: Sequence[object]) -> str:
    out = io.StringIO()
    # With "\n" alone, csv would leave a carriage return without quotes, and readers would begin a line there.
    csv.writer(out, lineterminator="\r\n").writerow(
        [_as_text(cell) if isinstance(cell, str) else cell for cell in cells]
    )
    return out.getvalue().removesuffix("\r\n") + "\n"


def _as_text(cell: str) -> str:
    return _MARK + cell if _FORMULA.match(cell) and not _NUMBER.fullmatch(cell) else cell


def _marked(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of texts as `_as_text` writes them."""
    import pyarrow.compute as pc

    is_formula = pc.match_substring_regex(texts, f"^{_FORMULA.pattern}")
    is_number = pc.match_substring_regex(texts, f"^{_NUMBER.pattern}$")
    marked = pc.binary_join_element_wise(_MARK, texts, "")
    return pc.if_else(pc.and_not(is_formula, is_number), marked, texts)


def _without_mark(cell: str) -> str:
    return cell[1:] if cell.startswith(_MARK) and _FORMULA.match(cell, 1) else cell


def write_parquet(final: Path, table: pa.Table) -> None:
    """Writes a Parquet file under its final name, whole or not at all."""
    import pyarrow.parquet as pq

    with StagedFile(final) as staged:
        pq.write_table(table, staged.file, compression="zstd")
        staged.sync()
        staged.publish()
