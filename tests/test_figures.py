"""The folder of a report's figures holds this report's, and files of others stay."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib
import pytest
from matplotlib.figure import Figure
from PIL import Image

from jobs.figures import write_figures


def test_figures_of_an_earlier_report_are_removed_and_files_of_others_stay(tmp_path: Path) -> None:
    folder, names = tmp_path / "figures", ("stripes_*", "scores")
    write_figures(folder, {"stripes_a": Figure((2, 1)), "stripes_b": Figure((2, 1)), "scores": Figure((2, 1))}, names)
    for name in ("mine.png", "scores_of_mine.png", "stripes_c.txt"):
        (folder / name).write_bytes(b"mine")
    pictures = write_figures(folder, {"stripes_b": Figure((1, 1))}, names)
    assert sorted(path.name for path in folder.iterdir()) == [
        "mine.png", "scores_of_mine.png", "stripes_b.png", "stripes_c.txt",
    ]  # fmt: skip
    assert (folder / "stripes_b.png").read_bytes() == pictures["stripes_b"]
    with Image.open(io.BytesIO(pictures["stripes_b"])) as image:
        assert image.size == (130, 130)


def test_the_backend_of_a_notebook_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(matplotlib.rcParams, "backend", "svg")
    assert write_figures(tmp_path, {"one": Figure((1, 1))}, ["one"])["one"].startswith(b"\x89PNG")
    assert matplotlib.rcParams["backend"] == "svg"
