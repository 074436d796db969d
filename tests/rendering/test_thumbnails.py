"""The outliers in the report of `promptsg stats`: their pictures, and the commands that draw them, run as printed."""

from __future__ import annotations

import base64
import gzip
import html
import io
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image

from cam.overlay import overlay_heatmap
from jobs.cli import main
from jobs.rendering.image_files import decode, sized
from jobs.rendering.thumbnails import MOST, OutlierThumbnails
from jobs.runs.run import open_run
from jobs.shards.access import ShardAccess
from jobs.statistics.stats import StatsConfig, stats
from promptsg_core.images import read_header
from tests.rendering.test_render import image_of
from tests.runs.test_query import make_run
from tests.support.shard_files import market_shard

MAP = "mim_attention"


@pytest.fixture(autouse=True)
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """The figures take most of a report's time, and are tested elsewhere."""
    monkeypatch.setattr("jobs.statistics.report.files.draw_figures", lambda _: {})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder, whose name a shell must quote, with tars/ and RUN over them: 25 images of 6 persons."""
    folder = tmp_path / "it's here"
    market_shard(folder / "tars/query-0.tar", 15)
    market_shard(folder / "tars/gallery-0.tar", 10, first=100)
    make_run(folder / "RUN", folder / "tars")
    return folder


def report_of(folder: Path, *options: object) -> tuple[str, str]:
    """What the command prints, and its page."""
    words = ["stats", folder / "RUN", "--map", MAP, "--resamples", 10, "--outliers", 8, *options]
    result = CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output, (folder / "RUN/stats/report.html").read_text()


def cards_of(page: str) -> dict[str, tuple[NDArray[np.uint8], list[str]]]:
    """Key -> the pixels of its picture, and the lines below it."""
    found = {}
    for data, caption in re.findall(r"image/jpeg;base64,([^\"]+)\"><figcaption>(.*?)</figcaption>", page):
        lines = html.unescape(caption).split("<br>")
        found[lines[0]] = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")), lines
    return found


def commands_of(page: str) -> list[list[str]]:
    return [shlex.split(html.unescape(text)) for text in re.findall("<pre class=command>(.*?)</pre>", page)]


def test_each_outlier_is_shown_beside_its_map(folder: Path) -> None:
    output, page = report_of(folder)
    keys = (folder / "RUN/stats/outliers.txt").read_text().split()
    cards = cards_of(page)
    assert len(keys) == 8 and list(cards) == keys and "No pictures" not in output + page
    assert "http" not in re.sub(r"base64,[^\"]+", "", page)  # the page needs nothing else
    run = open_run(folder / "RUN")
    rows = {row["key"]: row for path in run.layout.metadata.iterdir() for row in pq.read_table(path).to_pylist()}
    for key, (pixels, lines) in cards.items():
        row, data = rows[key], image_of(folder, rows[key])
        (values,) = run.maps_of(MAP, [row])
        image = sized(decode(data, read_header(data)), (128, 64))
        assert pixels.shape == (128, 130, 3)
        for half, wanted in (
            (pixels[:, :64], image),
            (pixels[:, 66:], overlay_heatmap(image, values, alpha=0.8, fade=True)),
        ):
            assert np.abs(half.astype(int) - wanted).mean() < 6  # it is a JPEG
        assert lines[1] == f"identity {row['pid']:04d}, {row['shard']}"
        assert re.fullmatch(r"distance 0\.\d{3}", lines[2])
        assert lines[3] == f"peak {values.max() * 32:.3g}x uniform"


def test_the_printed_commands_run_in_any_folder_and_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    words = ["stats", "RUN", "--map", MAP, "--resamples", "10", "--outliers", "5", "--shards-root", "tars"]
    assert CliRunner().invoke(main, words, catch_exceptions=False).exit_code == 0
    render, gallery = commands_of((folder / "RUN/stats/report.html").read_text())
    assert render[:3] == ["promptsg", "render", str(folder / "RUN")] and gallery[1] == "gallery"
    for command in (render, gallery):
        assert command[command.index("--shards-root") + 1] == str(folder / "tars")
    monkeypatch.chdir("/")
    for command in (render, gallery, render, gallery):
        result = CliRunner().invoke(main, command[1:], catch_exceptions=False)
        assert result.exit_code == 0 and re.search("^5 (pictures|images) ", result.output, re.M), result.output
    assert (folder / "RUN/stats/outliers-gallery/index.html").is_file()
    keys = (folder / "RUN/stats/outliers.txt").read_text().split()
    drawn = [path.name for path in (folder / "RUN/stats/outliers").rglob("*.png")]
    assert len(drawn) == 5 and all(any(key in name for name in drawn) for key in keys)


def test_outliers_in_a_shard_that_cannot_be_read_are_listed_and_the_others_shown(folder: Path) -> None:
    (folder / "tars/gallery-0.tar").unlink()
    output, page = report_of(folder, "--outliers", 25)
    cards = cards_of(page)
    assert len(cards) == 15 and {lines[1].split(", ")[1] for _, lines in cards.values()} == {"query-0"}
    listed = re.findall(r"<td>([^<]*)</td><td>gallery-0</td><td>00\d\d</td><td>0\.\d{3}</td>", page)
    assert len(listed) == 10
    told = "No pictures of the outliers in 1 shard (gallery-0): the shard gallery-0 does not exist"
    assert told in output and told in html.unescape(page)
    assert "--shards-root" in output
    shutil.rmtree(folder / "tars")
    output, page = report_of(folder)
    assert "No pictures of the outliers in 2 shards" in output and not cards_of(page) and "<th>distance</th>" in page


def test_outliers_in_compressed_shards_are_listed_and_nothing_is_unpacked(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tar = folder / "tars/gallery-0.tar"
    (folder / "packed").mkdir()
    (folder / "packed/gallery-0.tar.gz").write_bytes(gzip.compress(tar.read_bytes()))
    shutil.copy(folder / "tars/query-0.tar", folder / "packed")
    shutil.rmtree(folder / "RUN")
    make_run(folder / "RUN", folder / "packed")
    monkeypatch.setattr("jobs.shards.locate.unpack", lambda *_: pytest.fail("a shard was unpacked"))
    output, page = report_of(folder, "--outliers", 25)
    assert len(cards_of(page)) == 15 and "compressed, behind" not in caplog.text
    told = (
        "No pictures of the outliers in 1 shard (gallery-0): the shard gallery-0 is compressed, behind a pipe, or on a "
        "server without byte ranges, and only `promptsg render` and `promptsg gallery` read such a shard from start to"
    )
    assert told in output and told in html.unescape(page)
    monkeypatch.undo()
    render, _ = commands_of(page)
    assert "25 pictures written" in CliRunner().invoke(main, render[1:], catch_exceptions=False).output


def test_statistics_alone_list_outliers_and_draw_none(folder: Path, tmp_path: Path) -> None:
    result = stats(StatsConfig(run=folder / "RUN", maps=(MAP,), output=tmp_path / "out", outliers=3, resamples=10))
    page = (tmp_path / "out/report.html").read_text()
    assert result.drawn is None and not cards_of(page) and len(commands_of(page)) == 2
    assert page.count("<td>query-0</td>") + page.count("<td>gallery-0</td>") == 3


def test_a_report_shows_so_many_pictures_and_lists_the_rest(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MOST == 100
    monkeypatch.setattr("jobs.rendering.thumbnails.MOST", 2)
    _, page = report_of(folder)
    assert len(cards_of(page)) == 2 and len(re.findall(r"<td>0\.\d{3}</td>", page)) == 6


def test_the_words_that_open_the_same_shards() -> None:
    assert ShardAccess().words == () == OutlierThumbnails().words
    access = ShardAccess(shards_root="s3://here", allow_remote=True, allow_pipes=True)
    assert access.words == ("--shards-root", "s3://here", "--allow-remote", "--allow-pipes")
    assert ShardAccess(shards_root=Path("/a b")).words == ("--shards-root", "/a b")


@pytest.mark.browser
def test_a_browser_shows_the_pictures_and_one_click_selects_a_command(driver: Any, folder: Path) -> None:
    _, page = report_of(folder)
    driver.get((folder / "RUN/stats/report.html").as_uri())
    shown = driver.execute_script("return [...document.querySelectorAll('.cards img')].map((i) => i.naturalWidth)")
    assert shown == [130] * 8
    block = driver.find_elements("css selector", "pre.command")[0]
    block.click()
    assert shlex.split(driver.execute_script("return String(getSelection())")) == commands_of(page)[0]
    assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []
