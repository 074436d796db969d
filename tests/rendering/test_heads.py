"""Pictures and pages of single heads: pixels by hand from what h5py reads, names, captions and colour limits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image

from cam.measures import MEASURES, measure_maps
from cam.overlay import overlay_heatmap
from jobs.commands.gallery import command as gallery_command
from jobs.commands.render import command as render_command
from jobs.rendering.colour_limits import colour_limits, columns_for
from jobs.rendering.drawing.entry import Entry
from jobs.rendering.drawing.picture import draw_panel
from jobs.rendering.drawing.style import PictureStyle
from jobs.rendering.image_files import decode
from jobs.runs.query import RowSelection, select_rows
from jobs.runs.run import Run
from promptsg_core.images import read_header
from tests.rendering.test_render import image_of, names
from tests.support.made_heads import COUNT, heads_in, run_with_heads


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("heads")


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    return run_with_heads(folder)


def invoke(command: object, run: Run, *options: object) -> Result:
    words = [str(run.layout.root), *map(str, options)]
    return CliRunner().invoke(command, words, catch_exceptions=False)  # type: ignore[arg-type]


def pixels(path: Path) -> NDArray[np.uint8]:
    return np.asarray(Image.open(path).convert("RGB"))


def test_an_overlay_shows_the_head_that_h5py_reads_and_its_name_says_so(run: Run, folder: Path, tmp_path: Path) -> None:
    result = invoke(render_command, run, "--map", "mim_attention#3", "--where", "pid = 2", "--output", tmp_path)
    assert "5 pictures written" in result.output
    rows = select_rows(run, RowSelection(where="pid = 2")).to_pylist()
    assert names(tmp_path) == sorted(f"{row['key']}__mim_attention_head3.png" for row in rows)
    for row in rows:
        data, head = image_of(folder, row), heads_in(run, row["shard"])[row["h5_row"], 3]
        wanted = overlay_heatmap(decode(data, read_header(data)), head, alpha=0.8, fade=True)
        np.testing.assert_array_equal(pixels(tmp_path / f"{row['key']}__mim_attention_head3.png"), wanted)


def test_all_heads_of_an_image_stand_side_by_side(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[list[str]] = []
    module = "jobs.rendering.drawing.picture"
    monkeypatch.setattr(f"{module}.captioned", lambda picture, lines, **_: shown.append(list(lines)) or picture)
    row = select_rows(run, RowSelection(limit=1)).to_pylist()[0]
    heads = heads_in(run, row["shard"])[row["h5_row"]]
    chosen = run.choose_maps(["mim_attention#all"])
    maps = dict(zip(chosen, heads, strict=True))
    draw_panel(
        Entry(row=row, image=np.zeros((32, 16, 3), np.uint8), maps=maps), PictureStyle(kind="panel", maps=chosen)
    )
    assert shown[1:] == [
        [f"mim_attention head {n}", f"peak {head.max() * 32:.3g}x uniform"] for n, head in enumerate(heads)
    ]
    result = invoke(render_command, run, "--map", "mim_attention#all", "--style", "sheet", "--limit", 2,
                    "--output", tmp_path)  # fmt: skip
    assert "1 picture written" in result.output
    assert pixels(tmp_path / "sheet_0001.png").shape[1] > COUNT * 124


@pytest.mark.parametrize("scale", ["shared", "percentile"])
def test_shared_colours_come_from_the_maps_themselves(run: Run, scale: str) -> None:
    maps = ("mim_attention#0", "mim_attention")
    assert columns_for(maps, "shared") == ["mim_attention_min", "mim_attention_max"]
    table = select_rows(run)
    every = np.concatenate([heads_in(run, shard)[:, 0] for shard in run.published()])
    ends = (every.min(), every.max()) if scale == "shared" else tuple(np.percentile(every, (1, 99)))
    np.testing.assert_allclose(colour_limits(run, table, maps, scale)[maps[0]], ends, rtol=1e-3)


def test_the_gallery_has_the_measures_of_heads(run: Run, tmp_path: Path) -> None:
    options = ("--map", "mim_attention#2", "--map", "mim_attention", "--output", tmp_path / "g", "--limit", 7)
    invoke(gallery_command, run, *options)
    text = (tmp_path / "g/data.js").read_text()
    data = json.loads(text.removeprefix("window.GALLERY = ").removesuffix(";\n"))
    assert [(one["name"], one["column"]) for one in data["maps"]] == [
        ("mim_attention head 2", "mim_attention_head2"), ("mim_attention", "mim_attention"),
    ]  # fmt: skip
    assert data["measures"] == list(MEASURES)
    rows = select_rows(run, RowSelection(limit=7)).to_pylist()
    heads = np.stack([heads_in(run, row["shard"])[row["h5_row"], 2] for row in rows])
    for measure, values in measure_maps(heads).items():
        np.testing.assert_allclose(data["rows"][f"mim_attention_head2_{measure}"], values, rtol=1e-5)
    assert (tmp_path / "g/thumbs/0000/000006.mim_attention_head2.jpg").is_file()


def test_two_runs_are_compared_head_by_head(run: Run, folder: Path, tmp_path: Path) -> None:
    other = run_with_heads(folder, "OTHER")
    options = ("--map", "mim_attention#1", "--other", other.layout.root, "--limit", 3)
    invoke(gallery_command, run, *options, "--output", tmp_path / "g")
    data = json.loads((tmp_path / "g/data.js").read_text().removeprefix("window.GALLERY = ").removesuffix(";\n"))
    assert data["maps"][0]["b"]["name"] == "mim_attention head 1"
    rows = data["rows"]
    assert rows["mim_attention_head1__b_entropy"] == rows["mim_attention_head1_entropy"] != [None] * 3
    result = invoke(render_command, run, *options, "--style", "diff", "--output", tmp_path / "d")
    assert "3 pictures written" in result.output
