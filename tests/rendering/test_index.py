"""Numbered pictures, a folder for each style, and the index of `render`: its list, its pages, and it in a browser."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from jobs.commands.evaluate import command as evaluate_command
from jobs.commands.render import command
from jobs.errors import UserError
from jobs.leftovers import lock
from jobs.rendering.index.folder import LOCK
from jobs.rendering.index.listed import (
    LIST,
    ListedPicture,
    merged,
    numbered_otherwise,
    read_list,
    refuse_another_order,
    write_list,
)
from jobs.rendering.index.pages import write_index
from jobs.rendering.names import numbered
from jobs.rendering.requests import RECORD
from jobs.runs.query import RowSelection, select_rows
from jobs.runs.run import open_run
from tests.rendering.test_render import render
from tests.runs.test_query import MAPS, make_run
from tests.support.shard_files import market_shard, sample_members, textured_image, write_tar

HARMFUL = "<b onclick='x'>&amp;%41 \"#1\"</b>"


@pytest.fixture(scope="module")
def mined(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 12 queries, 20 gallery images and an image with a name that is markup."""
    folder = tmp_path_factory.mktemp("index")
    market_shard(folder / "tars/query-0.tar", 12)
    market_shard(folder / "tars/gallery-0.tar", 20, first=100)
    write_tar(folder / "tars/odd.tar", sample_members(HARMFUL, textured_image(5), pid=8, camid=5))
    make_run(folder / "RUN", folder / "tars")
    return folder / "RUN"


def pictures(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))


class Page(HTMLParser):
    """What a page refers to, and the texts of its pictures."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def images(self) -> list[str]:
        return [unquote(given["src"] or "") for tag, given in self.tags if tag == "img" and "src" in given]


def test_pictures_have_numbers_where_an_order_was_requested(mined: Path, tmp_path: Path) -> None:
    order = ("--order-by", "mim_attention_max DESC", "--where", "shard <> 'odd'")
    render(mined, *order, "--limit", 3, "--map", MAPS[0], "--map", MAPS[1], "--output", tmp_path / "o")
    selection = RowSelection(where=order[3], order_by=order[1], limit=3)
    keys = select_rows(open_run(mined), selection)["key"].to_pylist()
    suffixes = ("gradcampp_mim", "mim_attention")  # both pictures of an image have its number
    assert pictures(tmp_path / "o") == [f"000{n}_{key}__{s}.png" for n, key in enumerate(keys, 1) for s in suffixes]
    (tmp_path / "keys.txt").write_text(f"{keys[2]}\n{keys[0]}\n")
    render(mined, "--keys", tmp_path / "keys.txt", "--style", "panel", "--output", tmp_path / "k")
    assert pictures(tmp_path / "k") == [f"0001_{keys[2]}__panel.png", f"0002_{keys[0]}__panel.png"]
    render(mined, "--where", "pid = 2", "--order-by", "key", "--style", "identity", "--output", tmp_path / "i")
    assert pictures(tmp_path / "i") == ["0001_pid_0002__identity.png"]
    render(mined, *order, "--limit", 2, "--name-template", "{style}/{number}-{key}", "--output", tmp_path / "t")
    assert pictures(tmp_path / "t") == [f"overlay/0001-{keys[0]}.png", f"overlay/0002-{keys[1]}.png"]
    render(mined, "--where", "pid = 2", "--sample", 2, "--output", tmp_path / "s")
    assert not any(re.match(r"\d{4}_\d{4}_", name) for name in pictures(tmp_path / "s"))  # no order was requested
    assert [numbered(7, 12), numbered(7, 10_000), numbered(12_345, 12_345)] == ["0007", "00007", "12345"]


def test_a_longer_list_in_the_same_order_adds_and_another_order_is_refused(mined: Path, tmp_path: Path) -> None:
    out, first = ("--output", tmp_path), ("--order-by", "mim_attention_max")
    render(mined, *first, "--limit", 3, *out)
    done = render(mined, *first, "--limit", 5, *out)
    assert "2 pictures written" in done.output and "3 existed and were kept" in done.output
    kept = pictures(tmp_path)
    other = ("--order-by", "mim_attention_max DESC", "--limit", 3)
    with pytest.raises(UserError, match=r"5 pictures, numbered in another order, such as 0001_.*: --overwrite removes"):
        render(mined, *other, *out)
    render(mined, "--limit", 2, *out)  # without an order there are no numbers to contradict
    render(mined, *other, *out, "--style", "panel")
    assert set(kept) < set(pictures(tmp_path))
    (tmp_path / "0004_mine.png").write_bytes(b"of somebody else")
    render(mined, *other, *out, "--overwrite")
    left = pictures(tmp_path)
    assert not set(kept) & set(left) and "0004_mine.png" in left
    assert len(left) == 1 + 3 + 3 + 2  # mine, the new order, its panels, and those without numbers


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_nothing_changes_where_the_shards_are_gone(mined: Path, tmp_path: Path) -> None:
    out, gone = ("--output", tmp_path / "out"), ("--shards-root", tmp_path / "gone", "--overwrite")
    render(mined, "--order-by", "key", "--limit", 5, *out)
    before = contents(tmp_path / "out")
    assert len(before) == 5 + 4  # the pictures, the index, the list, the requests and the lock
    for order in ("key DESC", "key"):
        with pytest.raises(UserError, match="does not exist"):
            render(mined, "--order-by", order, "--limit", 3, *out, *gone)
        assert contents(tmp_path / "out") == before
    with pytest.raises(UserError, match="does not exist"):
        render(mined, "--output", tmp_path / "new", *gone)
    assert not (tmp_path / "new").exists()


def test_overwriting_removes_only_its_own_pictures_and_says_how_many(
    mined: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out, other = tmp_path / "out", tmp_path / "elsewhere"
    order = ("--where", "shard <> 'odd'", "--order-by", "key", "--limit", 2)
    render(mined, *order, "--output", out)
    other.mkdir()
    (out / "linked").symlink_to(other)
    files = ["linked/0007_thesis.png", "0008_thesis.tex", "thesis.png", "0099_other.png"]
    for file in files:
        (out / file).write_bytes(b"of somebody else")
    unsafe = [one for n, file in enumerate(files, 7) for one in listed(1, file=file, number=n, map=MAPS[0])]
    write_list(out, [*read_list(out), *unsafe])
    desc = (*order[:3], "key DESC", *order[4:], "--output", out)
    dry = render(mined, *desc, "--overwrite", "--dry-run").output
    assert "would be removed: 2 earlier pictures whose numbers contradict these" in dry and len(read_list(out)) == 6
    done = render(mined, *desc, "--overwrite")
    assert "removed: 2 earlier pictures whose numbers contradict these" in done.output.splitlines()
    assert "4 files in the list of pictures of" in caplog.text and "they stay, and leave the list" in caplog.text
    assert all((out / file).read_bytes() == b"of somebody else" for file in files)
    assert len(pictures(out)) == 2 + 2 and len(read_list(out)) == 2  # of the new order, of somebody else
    assert "removed" not in render(mined, *desc, "--overwrite").output


def test_a_dry_run_is_refused_where_drawing_would_be(mined: Path, tmp_path: Path) -> None:
    out, first = ("--output", tmp_path), ("--order-by", "key", "--limit", 2)
    render(mined, *first, *out)
    with pytest.raises(UserError, match="2 pictures, numbered in another order"):
        render(mined, "--order-by", "key DESC", "--limit", 2, *out, "--dry-run")
    with pytest.raises(UserError, match="drawn for another selection or look"):
        render(mined, *first, *out, "--colormap", "viridis", "--dry-run")
    lines = render(mined, *first, *out, "--dry-run").output.splitlines()
    assert lines[0].endswith("of which 2 exist already") and len(lines) == 3


def test_two_maps_may_have_two_orders_in_a_folder(mined: Path, tmp_path: Path) -> None:
    out = ("--output", tmp_path, "--limit", 2)
    render(mined, "--map", MAPS[0], "--order-by", "key", *out)
    render(mined, "--map", MAPS[1], "--order-by", "key DESC", *out)
    assert len(pictures(tmp_path)) == 4 and {one.map for one in read_list(tmp_path)} == set(MAPS[:2])
    with pytest.raises(UserError, match="2 pictures, numbered in another order"):
        render(mined, "--map", MAPS[1], "--order-by", "key", *out)


def test_the_list_is_read_and_written_under_a_lock(
    mined: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = []

    def watched(folder: Path, pictures: list[ListedPicture]) -> None:
        with (folder / LOCK).open("rb") as file:
            free.append(lock(file.fileno(), wait=False))
        write_list(folder, pictures)

    monkeypatch.setattr("jobs.rendering.index.folder.write_list", watched)
    render(mined, "--limit", 1, "--output", tmp_path)
    assert free == [False, False]


def test_the_default_folder_has_one_for_each_style(mined: Path, tmp_path: Path) -> None:
    run = tmp_path / "RUN"
    shutil.copytree(mined, run)
    for style in ("overlay", "panel"):
        output = render(run, "--style", style, "--limit", 2, "--where", "shard <> 'odd'").output
    keys = select_rows(open_run(run), RowSelection(where="shard <> 'odd'", limit=2))["key"].to_pylist()
    found = [f"overlay/{key}__mim_attention.png" for key in keys] + [f"panel/{key}__panel.png" for key in keys]
    assert pictures(run / "pictures") == sorted(found)
    assert output.splitlines()[-1] == f"to look through: {run / 'pictures/index.html'}"
    assert Page(run / "pictures/index.html").images == found[2:] + found[:2]  # the last request first


def test_captions_say_who_where_how_well_and_the_range(mined: Path, tmp_path: Path) -> None:
    run = tmp_path / "RUN"
    shutil.copytree(mined, run)
    words = [str(run), "--bootstrap", "5", "--gallery-where", "split = 'query'"]
    assert not CliRunner().invoke(evaluate_command, words).exception
    render(run, "--order-by", "ap, key", "--limit", 2, "--map", MAPS[1], "--output", tmp_path / "out")
    rows = select_rows(open_run(run), RowSelection(order_by="ap, key", limit=2)).to_pylist()
    scores = {row["key"]: row for row in pq.read_table(run / "evaluation/queries.parquet").to_pylist()}
    listed = read_list(tmp_path / "out")
    for number, (one, row) in enumerate(zip(listed, rows, strict=True), 1):
        score = scores[row["key"]]
        assert (one.number, one.shard, one.key) == (number, row["shard"], row["key"])
        assert one.caption == (
            row["key"],
            f"pid {row['pid']} · cam {row['camid']} (c{row['camid'] + 1})",
            f"AP {score['ap']:.3f} · first match at rank {score['first_hit_rank']}",
            f"{MAPS[1]}: {row['gradcampp_mim_min']:.3g} to {row['gradcampp_mim_max']:.3g}",
        )
        assert one.request == "overlay · order by ap, key · limit 2"
    texts = "".join(Page(tmp_path / "out/index.html").texts)
    assert f"1. {rows[0]['key']}" in texts and all(line in texts for line in listed[1].caption)
    render(run, "--where", "split = 'gallery'", "--limit", 1, "--output", tmp_path / "plain")
    (one,) = read_list(tmp_path / "plain")
    value = select_rows(open_run(run), RowSelection(where="split = 'gallery'", limit=1))["mim_attention_max"][0].as_py()
    assert one.caption[2:] == (f"mim_attention: peak {value * 32:.3g}x uniform",)  # no query, so no AP


def test_texts_of_the_data_are_text_and_links_stay_links(mined: Path, tmp_path: Path) -> None:
    render(mined, "--where", "shard = 'odd'", "--output", tmp_path)
    page, (file,) = Page(tmp_path / "index.html"), pictures(tmp_path)
    assert page.images == [file] and HARMFUL in "".join(page.texts)
    assert [tag for tag, _ in page.tags].count("b") == 1 and not any("onclick" in given for _, given in page.tags)


def listed(count: int, style: str = "overlay", request: str = "all", **more: Any) -> list[ListedPicture]:
    return [
        ListedPicture(
            **{"file": f"{style}/{n}.png", "style": style, "number": None, "shard": "s", "key": str(n),
               "caption": (str(n), "pid 1"), "request": request} | more
        )
        for n in range(count)
    ]  # fmt: skip


def test_many_pictures_are_on_pages_of_bounded_size(tmp_path: Path) -> None:
    assert write_index(tmp_path, "RUN", listed(1234)) == tmp_path / "index.html"
    names = ["index.html", "index-2.html", "index-3.html"]
    pages = [Page(tmp_path / name) for name in names]
    assert [len(page.images) for page in pages] == [500, 500, 234]
    assert [image for page in pages for image in page.images] == [f"overlay/{n}.png" for n in range(1234)]
    shown = [given for page in pages for tag, given in page.tags if tag == "img" and "src" in given]
    assert all(given["loading"] == "lazy" for given in shown)  # a browser loads what comes into view
    links = [given["href"] for tag, given in pages[1].tags if tag == "a" and str(given.get("href")).startswith("index")]
    assert links == 2 * ["index.html", "index.html", "index-3.html", "index-3.html"]
    assert max((tmp_path / name).stat().st_size for name in names) < 300_000
    for page in pages:  # nothing but the pictures is loaded
        assert not [given for tag, given in page.tags if tag in ("script", "iframe") and "src" in given]
        assert {given["href"] for tag, given in page.tags if tag == "link"} == {"data:,"}
    write_index(tmp_path, "RUN", listed(100, "panel"))  # large pictures count more
    assert sorted(path.name for path in tmp_path.glob("*.html")) == ["index-2.html", "index.html"]
    assert len(Page(tmp_path / "index.html").images) == 62


def test_a_page_of_somebody_else_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "index.html").write_text("<h1>Mine</h1>")
    assert write_index(tmp_path, "RUN", listed(3)) is None
    assert (tmp_path / "index.html").read_text() == "<h1>Mine</h1>"
    assert "index.html was not written by `promptsg render` and stays" in caplog.text
    (tmp_path / "index.html").write_bytes(b"")  # a crash left it
    (tmp_path / "index-2.html").write_text("mine too")
    assert write_index(tmp_path, "RUN", listed(501)) is None and (tmp_path / "index-2.html").read_text() == "mine too"
    assert write_index(tmp_path, "RUN", listed(3)) == tmp_path / "index.html"
    assert (tmp_path / "index-2.html").exists()


def test_the_list_keeps_what_exists_and_refuses_what_is_outside(tmp_path: Path) -> None:
    for n in (0, 2):
        (tmp_path / f"{n}.png").write_bytes(b"x")
    write_list(tmp_path, [one for n in range(3) for one in listed(1, file=f"{n}.png", number=n)])
    assert [one.file for one in read_list(tmp_path)] == ["0.png", "2.png"]
    assert [one.file for one in merged(listed(1, file="2.png"), read_list(tmp_path))] == ["2.png", "0.png"]
    for outside in ("../x.png", "/etc/passwd", "a/../../x.png", ""):
        write_list(tmp_path, listed(1, file=outside))
        with pytest.raises(UserError, match=r"cannot read .* as the list of pictures: .* is not below the folder"):
            read_list(tmp_path)
    write_list(tmp_path, listed(1, file="0.png", map="rollout"))
    pq.write_table(pq.read_table(tmp_path / LIST).drop_columns("map"), tmp_path / LIST)  # of an earlier version
    assert [one.map for one in read_list(tmp_path)] == [None]
    pq.write_table(pa.table({"file": ["a"]}), tmp_path / LIST)
    with pytest.raises(UserError, match="as the list of pictures"):
        read_list(tmp_path)


def test_each_folder_is_read_once_however_many_pictures_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "overlay").mkdir()
    (tmp_path / "overlay/7.png").touch()
    (tmp_path / "overlay/8.png").mkdir()  # no file
    write_list(tmp_path, [*listed(100), *listed(100, "gone")])
    read: list[Path] = []
    scandir = os.scandir
    monkeypatch.setattr("os.scandir", lambda folder: read.append(folder) or scandir(folder))
    monkeypatch.setattr(Path, "is_file", lambda _: pytest.fail("a file was asked for"))
    assert [one.file for one in read_list(tmp_path)] == ["overlay/7.png"]
    assert sorted(read) == [tmp_path / "gone", tmp_path / "overlay"]


def test_the_hidden_files_are_documented() -> None:
    root = Path(__file__).parents[2]
    text = (root / "jobs/runs/FORMAT.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in (LIST, LOCK, RECORD))
    assert f"`{LIST}`" in (root / "jobs/commands/GUIDE.md").read_text(encoding="utf-8")


def test_orders_agree_where_their_numbers_are_of_the_same_images() -> None:
    def order(*keys: str, style: str = "overlay", ending: str = "png") -> list[ListedPicture]:
        return [
            one
            for n, key in enumerate(keys, 1)
            for one in listed(1, style, file=f"{n:04d}_{key}.{ending}", number=n, key=key)
        ]

    assert numbered_otherwise(order("a", "b"), order("a", "b", "c")) == []
    assert numbered_otherwise(order("a", "b", "c"), order("a", ending="jpg")) == []
    assert numbered_otherwise(order("b", "a"), order("a", "b", style="panel")) == []
    assert [one.file for one in numbered_otherwise(order("b", "a"), order("a", "b", "c"))] == [
        "0001_a.png", "0002_b.png", "0003_c.png",
    ]  # fmt: skip
    long = [replace(one, file=f"0{one.file}") for one in order("a", "b", "c")]  # as beside more than 9,999 others
    assert [one.file for one in numbered_otherwise(order("a", "b"), long)] == ["00001_a.png", "00002_b.png"]
    with pytest.raises(UserError, match=r"2 pictures, numbered with another number of digits, such as 00001_a\.png"):
        refuse_another_order(Path(), long[:2], order("a", "b"))
    assert numbered_otherwise(listed(2), order("a")) == [] and numbered_otherwise(order("a"), listed(2)) == []


@pytest.mark.browser
def test_keys_move_open_and_turn_the_pages(driver: Any, tmp_path: Path) -> None:
    from PIL import Image
    from selenium.webdriver.common.keys import Keys

    (tmp_path / "overlay").mkdir()
    for n in range(510):
        Image.fromarray(np.full((8, 4, 3), n % 256, np.uint8)).save(tmp_path / f"overlay/{n}.png")
    write_index(tmp_path, "RUN", listed(510))
    driver.get((tmp_path / "index.html").as_uri())

    def press(key: str) -> None:
        driver.switch_to.active_element.send_keys(key)

    def js(code: str) -> Any:
        return driver.execute_script(f"return {code}")

    focused = "document.activeElement.querySelector('b')?.textContent"
    wide = js("getComputedStyle(document.querySelector('.grid')).gridTemplateColumns.split(' ').length")
    assert 4 <= wide <= 9
    for key, place in ((Keys.ARROW_RIGHT, 1), (Keys.ARROW_RIGHT, 2), (Keys.ARROW_DOWN, 2 + wide), (Keys.ARROW_UP, 2),
                       (Keys.ARROW_LEFT, 1), (Keys.END, 499), (Keys.HOME, 0)):  # fmt: skip
        press(key)
        assert js(focused) == str(place)
    press(Keys.ENTER)
    assert js("document.getElementById('viewer').open")
    shown = "document.getElementById('viewer-image').getAttribute('src').split('/').pop()"
    assert js(shown) == "0.png" and js("document.getElementById('viewer-text').textContent") == "0 · pid 1"
    press(Keys.ARROW_RIGHT)
    press(Keys.ARROW_RIGHT)
    press(Keys.ARROW_LEFT)
    press(Keys.ARROW_LEFT)  # back at the first, whose button for the previous one is disabled
    press(Keys.ARROW_RIGHT)
    assert js(shown) == "1.png"
    press(Keys.ESCAPE)
    assert not js("document.getElementById('viewer').open") and js(focused) == "1"
    loaded = js("[...document.querySelectorAll('.grid img')].filter((one) => one.complete && one.naturalWidth).length")
    assert 0 < loaded < 500  # not those that never came into view
    press("n")
    assert driver.current_url.endswith("/index-2.html") and js("document.querySelectorAll('.grid img').length") == 10
    press("p")
    assert driver.current_url.endswith("/index.html")
    assert [line for line in driver.get_log("browser") if line["level"] == "SEVERE"] == []


def test_the_command_says_where_the_index_is(mined: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(command, [str(mined), "--limit", "1", "--output", str(tmp_path)])
    assert done.output.splitlines() == [
        f"1 picture written to {tmp_path}",
        f"to look through: {tmp_path / 'index.html'}",
    ]
