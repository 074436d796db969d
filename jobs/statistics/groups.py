"""Groups of images: distinct values of the columns to group by, in a fixed order.

Legend: N images, G groups.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from jobs.arrays import Int64Array
from jobs.errors import UserError

_SPARSE = 8  # values in the range to one given, from which on sorting is better than a table of the range


def find_groups(keys: pa.Table) -> tuple[pa.Table, Int64Array]:
    """The groups (G rows) in order, and the group of each of the N rows of values to group by.

    Without a column there is one group, `all`. Raises UserError on a column of neither numbers nor texts.
    """
    count = keys.num_rows
    if not count:
        return (keys if keys.num_columns else _one_group([])), np.zeros(0, np.int64)
    if not keys.num_columns:
        return _one_group(["all"]), np.zeros(count, np.int64)
    code: Int64Array = np.zeros(count, np.int64)
    members: list[Int64Array] = []  # of each column, which of its values the groups so far have
    values = []
    for field, column in zip(keys.schema, keys.columns, strict=True):
        try:
            encoded = column.combine_chunks().dictionary_encode(null_encoding="encode")
        except pa.ArrowNotImplementedError as error:
            raise UserError(f"--by {field.name} gives {field.type}; group by numbers or texts") from error
        values.append(encoded.dictionary)
        kinds = len(encoded.dictionary)
        both, code = distinct(code * kinds + encoded.indices.to_numpy())
        members = [*(member[both // kinds] for member in members), both % kinds]
    columns = [dictionary.take(pa.array(member)) for dictionary, member in zip(values, members, strict=True)]
    groups, place = ordered_groups(pa.table(columns, names=keys.column_names))
    return groups, place[code]


def ordered_groups(keys: pa.Table) -> tuple[pa.Table, Int64Array]:
    """Distinct rows of group values in a fixed order, nulls last, and which of them each given row is."""
    rows = list(zip(*(column.to_pylist() for column in keys.columns), strict=True))
    # NaN is not equal to itself, but its text is.
    texts = [repr(row) for row in rows]
    first: dict[str, int] = {}
    for index, text in enumerate(texts):
        first.setdefault(text, index)
    order = sorted(first.values(), key=lambda index: [_sort_key(value) for value in rows[index]])
    place = {texts[index]: position for position, index in enumerate(order)}
    groups = keys.take(pa.array(order, pa.int64())).combine_chunks()
    return groups, np.array([place[text] for text in texts], np.int64)


def distinct(values: Int64Array) -> tuple[Int64Array, Int64Array]:
    """The distinct values, rising, and the position among them of each."""
    if not len(values):
        return values, values
    low, high = int(values.min()), int(values.max())
    if high - low > _SPARSE * len(values) + 1024:
        return np.unique(values, return_inverse=True)
    there = np.zeros(high - low + 1, bool)  # no sort
    there[values - low] = True
    return np.flatnonzero(there) + low, (np.cumsum(there) - 1)[values - low]


def _sort_key(value: object) -> tuple[bool, bool, object]:
    """Numbers and texts by value, then NaN, then null."""
    last = value is None or value != value
    return value is None, value != value, 0 if last else value


def _one_group(rows: list[str]) -> pa.Table:
    return pa.table({"group": pa.array(rows, pa.string())})
