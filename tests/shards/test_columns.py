"""Samples as columns: the way there and back, selections, and what is said of rows."""

from __future__ import annotations

import pickle
from dataclasses import fields

import pytest

from jobs.shards.columns import NAMES, SampleColumns
from jobs.shards.samples import IMAGE_CORRUPT, NO_LABEL, OK, Sample

SAMPLES = [
    Sample(key="a", tar_index=0, pid=3, camid=1, caption="a red coat", image_offset=512, width=4, height=9),
    Sample(key="b", tar_index=1, status=IMAGE_CORRUPT, error="made up"),
    Sample(key="c", tar_index=2, pid=0, role="distractor", split="gallery"),
]


def test_the_columns_are_the_fields_of_a_sample() -> None:
    assert list(NAMES) == [field.name for field in fields(Sample)]
    columns = SampleColumns.of(SAMPLES)
    assert len(columns) == 3 and list(columns) == SAMPLES
    assert columns.identity == ["0003", None, None] and columns.role == ["person", None, "distractor"]
    assert pickle.loads(pickle.dumps(columns)) == columns
    assert len(SampleColumns.of([])) == 0 and list(SampleColumns.of([])) == []


@pytest.mark.parametrize("rows", [[0, 1, 2], [2, 0], [1], []])
def test_a_selection_is_a_copy(rows: list[int]) -> None:
    columns = SampleColumns.of(SAMPLES)
    some = columns.select(rows)
    assert list(some) == [SAMPLES[row] for row in rows]
    for row in range(len(some)):
        some.mark(row, NO_LABEL, "no class")
        some.key[row] = "changed"
    assert list(columns) == SAMPLES
    columns.mark_as(rows, some)
    assert [row for row, status in enumerate(columns.status) if status == NO_LABEL] == sorted(rows)
    assert [columns.error[row] for row in rows] == ["no class"] * len(rows) and columns.key == ["a", "b", "c"]


def test_rows_with_a_status() -> None:
    assert SampleColumns.of(SAMPLES).rows_with({OK}) == [0, 2]
    assert SampleColumns.of(SAMPLES).rows_with({OK, IMAGE_CORRUPT}) == [0, 1, 2]
