"""The names of a mask's labels."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs.errors import UserError
from jobs.statistics.localisation.labels import read_label_names
from tests.statistics.localisation.made_masks import (
    Made,
    shares,
)


@pytest.mark.parametrize(
    ("name", "text", "part"),
    [
        ("n.txt", "background\nhead\nUpper clothes\nhead\n", "head upper_clothes head"),
        ("n.json", '["background", "background", "person", "shoes"]', "background person shoes"),
        ("n.json", '{"3": "feet", "0": "background"}', "label_1 label_2 feet"),
        ("n.csv", "label,name\n2,bag\n", "label_1 bag label_3"),
    ],
)
def test_names_of_labels(tmp_path: Path, name: str, text: str, part: str) -> None:
    (tmp_path / name).write_text(text)
    names = read_label_names(tmp_path / name)
    assert [names.part_of(label) for label in (1, 2, 3)] == part.split()
    assert names.part_of(0) == "background"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("n.txt", "head\nbody\n", "calls label 0 'head'"),
        ("n.json", "{", "cannot read"),
        ("n.json", '{"a": "head"}', "is not a label with a name"),
        ("n.json", "3", "names no part"),
        ("n.csv", "label,name\n300,head\n", "from 0 to 255"),
        ("n.csv", "number,name\n1,head\n", "is not a label with a name"),
        ("n.txt", "background\n", "names no part"),
    ],
)
def test_files_that_name_no_labels(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=said):
        read_label_names(tmp_path / name)


def test_background_and_person_among_the_names(made: Made, tmp_path: Path) -> None:
    """Label 1 is no part of the person then; label 2 is, and has no part of its own."""
    (tmp_path / "n.json").write_text('["background", "background", "person", "legs"]')
    findings = made.find(labels=tmp_path / "n.json", output=tmp_path / "out")
    rows = {row["key"]: row for row in pq.read_table(tmp_path / "out" / "localise.parquet").to_pylist()}
    assert {one.part for one in findings.parts} == {"legs"}
    for key, mask in made.masks.items():
        if (mask >= 2).any():
            assert rows[key]["person_area"] == pytest.approx(shares(mask >= 2).mean(), rel=1e-6)
        else:
            assert rows[key]["mask"] == "empty"
