"""CSV files that a spreadsheet may open and their way back; tables for JSON and for columns."""

from __future__ import annotations

import csv
import io
from datetime import date

import numpy as np
import pyarrow as pa
import pytest

from jobs.tables import csv_bytes, csv_rows, csv_text, float32_column, json_rows

# A text, and the cell that is written.
CELLS = [
    ("=1+1", "'=1+1"),
    ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
    ("-2+3", "'-2+3"),
    ("@SUM(A1)", "'@SUM(A1)"),
    ("\t=1", "'\t=1"),
    ("\r=1", "'\r=1"),
    ("\n=1", "'\n=1"),
    ("'=1", "''=1"),  # an apostrophe of the text's own can be told from the mark
    ("'", "''"),
    ("-inf", "'-inf"),
    ("-1.5e-07", "-1.5e-07"),
    ("+3", "+3"),
    ("-0002", "-0002"),
    ("0002=x", "0002=x"),
    ('a,b "c"\nd', 'a,b "c"\nd'),
    ("", ""),
    ("mim_attention", "mim_attention"),
]


@pytest.mark.parametrize(("text", "cell"), CELLS)
def test_formulas_are_texts_and_come_back(text: str, cell: str) -> None:
    for content in (csv_text([text or "x", "n"], [[text, -1.5]]), _of_table(text)):
        header, row = list(csv.reader(io.StringIO(content, newline="")))
        assert (header[0], row) == (cell or "x", [cell, "-1.5"])
        assert csv_rows(io.StringIO(content, newline="")) == [{text or "x": text, "n": "-1.5"}]


def _of_table(text: str) -> str:
    return csv_bytes(pa.table({text or "x": [text], "n": [-1.5]})).decode()


def test_numbers_stay_numbers_and_nothing_is_an_empty_cell() -> None:
    assert csv_text(["a", "b"], [[-1, None], [-0.25, "-0.25"]]) == "a,b\n-1,\n-0.25,-0.25\n"
    table = pa.table({"a": pa.array([-3, None]), "t": pa.array([None, "=x"], pa.string())})
    assert csv_rows(io.StringIO(csv_bytes(table).decode())) == [{"a": "-3", "t": ""}, {"a": "", "t": "=x"}]


def test_rows_for_json_keep_numbers_and_say_dates() -> None:
    table = pa.table({"day": [date(2024, 5, 1), None], "share": [0.5, 1.5], "on": [True, None]})
    assert json_rows(table) == [
        {"day": "2024-05-01", "share": 0.5, "on": True},
        {"day": None, "share": 1.5, "on": None},
    ]


def test_a_column_of_numbers_has_null_for_nan() -> None:
    column = float32_column(np.array([1.5, np.nan, -np.inf]))
    assert column.type == pa.float32() and column.to_pylist() == [1.5, None, -np.inf]
