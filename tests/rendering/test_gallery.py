"""`promptsg gallery`: the folder's files against values computed here, and the page in a real browser."""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from cam.overlay import heatmap, overlay_heatmap
from jobs.commands.gallery import command
from jobs.errors import UserError
from jobs.rendering.gallery import GalleryConfig, GalleryReport
from jobs.rendering.gallery import gallery as write_gallery
from jobs.rendering.looks import Looks
from jobs.rendering.page.pictures import PART, picture_name, thumbnail
from jobs.retrieval.evaluate import EvaluateConfig, evaluate
from jobs.runs.layout import RunLayout
from jobs.runs.manifest import ResolvedSettings, RunRequest, create_manifest
from jobs.runs.metadata_rows import Results
from jobs.runs.query import RowSelection
from jobs.runs.run import Run, open_run
from jobs.runs.shard_output import ShardOutput
from jobs.shards.columns import SampleColumns
from jobs.shards.samples import IMAGE_CORRUPT, NO_LABEL, Sample
from tests.support.made_runs import as_first_version
from tests.support.shard_files import image_bytes, number_of, write_tar

GRID = (8, 4)
MAPS = ("mim_attention", "gradcam++/mim")
NASTY = "<img src=x onerror='window.hacked=1'></script><script>window.hacked=1</script>&amp;\"\u2028"


def peak(number: int) -> np.ndarray:
    """A map whose one high patch lies where the number says."""
    map = np.zeros(GRID, np.float32)
    map[number % GRID[0], number // GRID[0] % GRID[1]] = 1 + number
    return map


def mined(folder: Path, count: int, per_shard: int, keys: dict[int, str] | None = None, shift: int = 0) -> Run:
    """A run over tars of one-coloured images: image n has colour n % 512, pid n // 5, camera n % 3 and `peak(n)`.

    With a shift its first map is that of a later image.
    """
    maps = np.stack([peak(number + shift) for number in range(count)])
    noise = np.random.default_rng(1).random((count, *GRID), np.float32)
    names = [f"{split}-{i:06d}" for i, split in enumerate(("gallery", "train") * count)][: -(-count // per_shard)]
    pictures = {number: image_bytes(number) for number in range(min(count, 512))}
    shards = []
    for i, name in enumerate(names):
        numbers = range(i * per_shard, min(count, (i + 1) * per_shard))
        tar = write_tar(folder / f"{name}.tar", [(f"{n:06d}.jpg", pictures[n % 512]) for n in numbers])
        shards.append({"name": name, "url": str(tar), "size": tar.stat().st_size})
    layout = RunLayout(folder / "RUN <i>")
    manifest = create_manifest(
        layout, RunRequest.model_validate({"asked": {"maps": list(MAPS)}, "shards": shards}), ResolvedSettings()
    )
    for shard in shards:
        with tarfile.open(shard["url"]) as tar:
            found = [(int(m.name[:6]), m.offset_data, m.size) for m in tar.getmembers()]
        samples = [
            Sample(
                key=(keys or {}).get(n, f"{n:06d}"), tar_index=j, pid=n // 5, camid=n % 3, width=16, height=32,
                split=shard["name"].partition("-")[0], image_offset=offset, image_size=size,
            )
            for j, (n, offset, size) in enumerate(found)
        ]  # fmt: skip
        output = ShardOutput(layout, manifest, shard["name"], 0.5)
        spoil(samples, found[0][0], noise)
        good = [n for (n, _, _), sample in zip(found, samples, strict=True) if sample.status != IMAGE_CORRUPT]
        output.add(SampleColumns.of(samples), results(maps[good], noise[good], good))
        assert output.commit()[0]
    return open_run(layout.root)


def spoil(samples: list[Sample], first: int, noise: np.ndarray) -> None:
    """Images 3 and 4 did not decode, and image 7 had no label and so no map of the target."""
    for number, sample in enumerate(samples, first):
        if number in (3, 4):
            sample.fail(IMAGE_CORRUPT, "broken")
        if number == 7:
            sample.status = NO_LABEL
            noise[7] = np.nan


def results(first: np.ndarray, second: np.ndarray, numbers: list[int]) -> Results:
    count = len(numbers)
    score = np.cos(np.array(numbers, np.float32))
    return Results(
        maps=dict(zip(MAPS, (first, second), strict=True)),
        features=np.ones((count, 2), np.float32),
        score=score,
        predicted=np.zeros(count, np.int64),
        probability=np.full(count, 0.5, np.float32),
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """230 rows in three shards, three of which cannot be shown with all maps; one key is an attack."""
    return mined(tmp_path_factory.mktemp("small"), 230, 90, keys={11: NASTY, 12: "../../../outside"})


def write(run: Run, output: Path, selection: RowSelection | None = None, **changes: Any) -> GalleryReport:
    """A gallery of pictures 64 pixels high in the colours of `bone`."""
    settings = {"looks": Looks(colormap="bone"), "thumb_height": 64, "workers": 1, **changes}
    selection = selection or RowSelection(limit=2000)
    return write_gallery(GalleryConfig(run=run.layout.root, output=output, selection=selection, **settings))


def page_of(folder: Path) -> dict[str, Any]:
    text = (folder / "data.js").read_text()
    return json.loads(text.removeprefix("window.GALLERY = ").removesuffix(";\n"))


def number_in(page: dict[str, Any], row: int) -> int:
    """The image's number, by its place in its shard's HDF5 and tar: numbers follow shards and rows."""
    return round(float(page["rows"]["mim_attention_max"][row])) - 1


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def picture(folder: Path, row: int, column: str) -> np.ndarray:
    return np.asarray(Image.open(folder / "thumbs" / picture_name(row, column)))


def gallery(run: Run, output: Path, *words: str) -> Result:
    return CliRunner().invoke(command, [str(run.layout.root), "--output", str(output), *words])


@pytest.fixture(scope="module")
def written(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written") / "out"
    report = write(run, folder, RowSelection(where="camid <> 1", order_by="score DESC"))
    wanted = [n for n in range(230) if n % 3 != 1]
    assert report.left_out == {IMAGE_CORRUPT: 1} and report.matching == len(wanted) and report.cut == 0
    assert report.images == len(wanted) - 1
    return folder


def test_rows_are_the_selected_ones_in_their_order_with_their_own_numbers(written: Path) -> None:
    page = page_of(written)
    numbers = sorted((n for n in range(230) if n % 3 != 1 and n != 3), key=lambda n: -np.cos(np.float32(n)))
    assert [number_in(page, row) for row in range(page["images"])] == numbers
    rows = page["rows"]
    assert rows["pid"] == [n // 5 for n in numbers] and rows["camid"] == [n % 3 for n in numbers]
    assert rows["score"] == pytest.approx(np.cos(np.array(numbers)), abs=1e-5)
    # One patch holds all mass: the centre of mass is that patch's centre.
    assert rows["mim_attention_com_y"] == pytest.approx([(n % 8 + 0.5) / 8 for n in numbers])
    assert page["where"] == "camid <> 1" and page["left_out"] == {IMAGE_CORRUPT: 1}


def test_each_picture_is_the_image_and_the_map_of_its_row(written: Path) -> None:
    page = page_of(written)
    for row in range(page["images"]):
        number = number_in(page, row)
        original = picture(written, row, "original")
        assert original.shape == (64, 32, 3) and number_of(original.transpose(2, 0, 1)) == number
        drawn = picture(written, row, "mim_attention").astype(int).sum(axis=2)
        y, x = np.unravel_index(cv2.blur(drawn.astype(np.float32), (5, 5)).argmax(), drawn.shape)
        assert (y // 8, x // 8) == (number % 8, number // 8 % 4)  # each patch is 8 x 8 pixels


def test_an_overlay_is_the_blend_of_image_and_coloured_map(run: Run, written: Path) -> None:
    table = run.metadata().to_table()
    row = page_of(written)["rows"]["key"].index("000029")
    maps = run.maps_of("gradcam++/mim", table.slice(29, 1))
    expected = overlay_heatmap(picture(written, row, "original"), maps[0], colormap="bone", alpha=0.8, fade=True)
    assert np.abs(picture(written, row, "gradcampp_mim").astype(int) - expected).mean() < 4  # twice through JPEG


def test_the_maps_script_holds_each_map_from_0_to_255(run: Run, written: Path) -> None:
    table = run.metadata().to_table()
    keys = table["key"].to_pylist()
    page = page_of(written)
    coded = {}
    for part in (0, 1):
        call = re.fullmatch(r"window\.galleryMaps\((\d+), (.*)\);\n", (written / f"maps/{part:04d}.js").read_text())
        assert call and int(call[1]) == part
        for column, text in json.loads(call[2]).items():
            coded.setdefault(column, []).append(np.frombuffer(base64.b64decode(text), np.uint8).reshape(-1, *GRID))
    assert list(coded) == ["mim_attention", "gradcampp_mim"] and page["grid"] == list(GRID)
    for name, column in zip(MAPS, coded, strict=True):
        levels = np.concatenate(coded[column])
        assert len(levels) == page["images"]
        for row, key in enumerate(page["rows"]["key"]):
            map = run.maps_of(name, table.slice(keys.index(key), 1))[0].astype(np.float64)
            assert np.abs(levels[row] - 255 * (map - map.min()) / np.ptp(map)).max() <= 0.5 + 1e-3


def test_the_folder_is_whole_and_has_nothing_else(written: Path) -> None:
    page = page_of(written)
    columns = ("original", "mim_attention", "gradcampp_mim")
    pictures = {f"thumbs/{picture_name(row, column)}" for row in range(page["images"]) for column in columns}
    parts = {f"maps/{part:04d}.js" for part in range(-(-page["images"] // PART))}
    assert files_of(written) == pictures | parts | {"index.html", "gallery.css", "gallery.js", "data.js"}
    assert all(len(list(folder.iterdir())) <= 3 * PART for folder in (written / "thumbs").iterdir())


def test_nothing_outside_of_the_folder_is_named_or_written(written: Path) -> None:
    assert [path.name for path in written.parent.iterdir()] == ["out"]
    for name in ("index.html", "gallery.css", "gallery.js"):
        assert not re.search(r"https?:|//\w|@import|url\(|innerHTML|insertAdjacentHTML", (written / name).read_text())


def test_a_key_cannot_end_the_script_that_holds_it(written: Path) -> None:
    text = (written / "data.js").read_text()
    assert NASTY in page_of(written)["rows"]["key"]
    assert text.isascii() and "<" not in text


def test_the_limit_says_what_it_cuts_and_a_map_alone_needs_no_label(run: Run, tmp_path: Path) -> None:
    done = gallery(run, tmp_path / "cut", "--limit", "50", "--where", "split = 'gallery'")
    assert done.exit_code == 0, done.output
    # Shards 0 and 2 are gallery: 90 + 50 rows, of which two have no image and one lacks the second map.
    assert "50 images in" in done.output and "left out: 2 image_corrupt, 1 no_label" in done.output
    assert "87 more images match" in done.output and "--limit is 50" in done.output
    done = gallery(run, tmp_path / "attention", "--map", "mim_attention", "--where", "pid <= 1")
    assert page_of(tmp_path / "attention")["rows"]["key"][5] == "000007"
    assert "8 images in" in done.output and "left out: 2 image_corrupt\n" in done.output


def test_a_sample_is_drawn_by_its_seed(run: Run, tmp_path: Path) -> None:
    keys = []
    for place, seed in enumerate((1, 1, 2)):
        gallery(run, tmp_path / str(place), "--sample", "20", "--seed", str(seed))
        keys.append(page_of(tmp_path / str(place))["rows"]["key"])
        assert len(set(keys[-1])) == 20
    assert keys[0] == keys[1] != keys[2]


def test_keys_choose_the_images_and_what_is_counted(run: Run, tmp_path: Path) -> None:
    keys = ("000020", "000003", "000007", "000010", "000009")  # one did not decode, one lacks the second map
    report = write(run, tmp_path / "out", RowSelection(keys=keys, limit=2))
    assert page_of(tmp_path / "out")["rows"]["key"] == ["000020", "000010"]
    assert (report.images, report.matching, report.cut) == (2, 5, 1)
    assert report.left_out == {IMAGE_CORRUPT: 1, NO_LABEL: 1} and report.page == tmp_path / "out/index.html"


def test_scores_of_queries_are_among_the_numbers_once_evaluated(run: Run, tmp_path: Path) -> None:
    where = "shard = 'gallery-000000' AND key < '000020'"
    write(run, tmp_path / "before", RowSelection(where=where))
    assert "ap" not in page_of(tmp_path / "before")["image_numbers"]
    sides = {"query_where": "key < '000010'", "gallery_where": "key < '000040'"}
    evaluate(EvaluateConfig(run=run.layout.root, output=tmp_path / "evaluation", bootstrap=5, **sides))
    table = pq.read_table(tmp_path / "evaluation/queries.parquet")
    scores = {row["key"]: (row["ap"], row["first_hit_rank"]) for row in table.to_pylist()}
    write(run, tmp_path / "after", RowSelection(where=where, order_by="ap"), evaluation=tmp_path / "evaluation")
    page = page_of(tmp_path / "after")
    rows = page["rows"]
    assert page["image_numbers"][-2:] == ["ap", "first_rank"]
    found = {key: (ap, rank) for key, ap, rank in zip(rows["key"], rows["ap"], rows["first_rank"], strict=True)}
    wanted = {key: score for key, score in scores.items() if key in found and score[0] is not None}
    assert {key: rank for key, (_, rank) in found.items() if rank is not None} == {k: r for k, (_, r) in wanted.items()}
    assert all(found[key][0] == pytest.approx(ap, rel=1e-5) for key, (ap, _) in wanted.items())
    known = [ap for ap in rows["ap"] if ap is not None]
    assert known == sorted(known) and 2 < len(known) < len(rows["ap"])  # gallery images have none
    words = ("--keys", str(tmp_path / "evaluation/failures.txt"), "--evaluation", str(tmp_path / "evaluation"))
    done = gallery(run, tmp_path / "failures", *words)
    assert done.exit_code == 0, done.output
    wrong = (tmp_path / "evaluation/failures.txt").read_text().split()
    page = page_of(tmp_path / "failures")
    assert page["rows"]["key"] == [key for key in wrong if key in page["rows"]["key"]] and len(wrong) > 1
    assert all(rank > 1 for rank in page["rows"]["first_rank"])


def test_a_shared_scale_runs_over_all_images(run: Run, tmp_path: Path) -> None:
    write(run, tmp_path / "out", RowSelection(where="pid = 2"), looks=Looks(scale="shared"))
    page = page_of(tmp_path / "out")
    assert page["maps"][0]["limits"] == [0, 15]  # images 10 to 14 have peaks of 11 to 15
    script = (tmp_path / "out/maps/0000.js").read_text()
    levels = np.frombuffer(base64.b64decode(re.search(r'"mim_attention":"([^"]*)"', script)[1]), np.uint8)
    assert levels.reshape(5, -1).max(axis=1).tolist() == [round(255 * (n + 1) / 15) for n in range(10, 15)]


def test_a_run_of_the_first_version_is_shown_with_the_numbers_that_it_has(run: Run, tmp_path: Path) -> None:
    old = open_run(as_first_version(run.layout.root, tmp_path / "OLD"))
    pages = []
    for number, which in enumerate((run, old)):
        write(which, tmp_path / f"out{number}", RowSelection(where="pid = 2"))
        pages.append(page_of(tmp_path / f"out{number}"))
    new_page, old_page = pages
    assert set(new_page["measures"]) - set(old_page["measures"]) == {"area90"}
    gone = {"mim_attention_area90", "gradcampp_mim_area90"}
    assert {name: values for name, values in new_page["rows"].items() if name not in gone} == old_page["rows"]


def test_overwriting_is_asked_for_and_leaves_no_old_picture(run: Run, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert gallery(run, output).exit_code == 0
    before = files_of(output)
    again = gallery(run, output, "--where", "pid = 2")
    assert isinstance(again.exception, UserError) and "--overwrite" in str(again.exception)
    assert files_of(output) == before
    assert gallery(run, output, "--where", "pid = 2", "--map", "mim_attention", "--overwrite").exit_code == 0
    assert len(files_of(output)) == 4 + 1 + 5 * 2  # page, maps, and five images with one map


def test_a_folder_with_other_files_is_left_alone(run: Run, tmp_path: Path) -> None:
    (tmp_path / "thumbs").mkdir()
    (tmp_path / "thesis.tex").write_text("years of work")
    for output in (tmp_path, run.layout.root):
        before = files_of(output)
        refused = gallery(run, output, "--overwrite")
        assert isinstance(refused.exception, UserError) and "other files" in str(refused.exception)
        assert files_of(output) == before
    away, output = tmp_path / "thumbs", tmp_path / "out"
    output.mkdir()
    (output / "thumbs").symlink_to(away)
    refused = gallery(run, output, "--overwrite")
    assert "leads out" in str(refused.exception) and not list(away.iterdir())


def test_a_shard_that_moved_or_changed_is_told_and_leaves_the_old_gallery(tmp_path: Path) -> None:
    run = mined(tmp_path, 20, 20)
    output = tmp_path / "out"
    assert gallery(run, output).exit_code == 0
    before = {name: (output / name).read_bytes() for name in files_of(output)}
    tar = tmp_path / "gallery-000000.tar"
    tar.rename(tmp_path / "elsewhere.tar")
    gone = gallery(run, output, "--overwrite")
    assert isinstance(gone.exception, UserError) and "--shards-root" in str(gone.exception)
    tar.write_bytes(b"short")
    changed = gallery(run, output, "--overwrite")
    assert isinstance(changed.exception, UserError) and "has changed since it was mined" in str(changed.exception)
    assert {name: (output / name).read_bytes() for name in files_of(output)} == before
    (tmp_path / "moved").mkdir()
    (tmp_path / "elsewhere.tar").rename(tmp_path / "moved/gallery-000000.tar")
    assert gallery(run, output, "--overwrite", "--shards-root", str(tmp_path / "moved")).exit_code == 0
    assert {name: (output / name).read_bytes() for name in files_of(output)} == before


def test_what_cannot_be_is_said(run: Run, tmp_path: Path) -> None:
    output = tmp_path / "out"
    unknown = gallery(run, output, "--map", "mim_atention")
    assert isinstance(unknown.exception, UserError) and "did you mean mim_attention?" in str(unknown.exception)
    nothing = gallery(run, output, "--where", "pid = 999")
    assert isinstance(nothing.exception, UserError) and "nothing matches" in str(nothing.exception)
    column = gallery(run, output, "--where", "pidd = 3")
    assert isinstance(column.exception, UserError) and "did you mean pid" in str(column.exception)
    colours = gallery(run, output, "--colormap", "turbos")
    assert "did you mean turbo?" in str(colours.exception)
    assert not output.exists()


def test_thumbnails_keep_their_proportions_and_a_wide_image_stays_small() -> None:
    def shape(height: int, width: int) -> tuple[int, ...]:
        return thumbnail(np.zeros((height, width, 3), np.uint8), 60).shape

    assert shape(120, 40) == (60, 20, 3) and shape(30, 20) == (60, 40, 3)
    assert shape(10, 1000) == (2, 200, 3) and shape(1000, 1) == (60, 1, 3)
    assert shape(1, 20_000) == (1, 360, 3) and shape(20_000, 1) == (60, 1, 3)


def test_the_command_never_imports_torch(run: Run, tmp_path: Path) -> None:
    words = [str(run.layout.root), "--output", str(tmp_path / "out"), "--where", "pid < 9"]
    call = f"command({words!r}, standalone_mode=False)"
    code = f"import sys; from jobs.commands.gallery import command; {call}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "cv2" in loaded and not {"torch", "webdataset"} & loaded


# In a browser


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gallery of 2,000 images, drawn by two processes."""
    folder = tmp_path_factory.mktemp("large")
    run = mined(folder, 2003, 700, keys={11: NASTY})
    report = write(run, folder / "out", looks=Looks(), thumb_height=32, workers=2)
    assert report.images == 2000 and report.left_out == {IMAGE_CORRUPT: 2, NO_LABEL: 1}
    return folder / "out"


class Page:
    """The gallery in a browser, by what a user sees."""

    def __init__(self, driver: Any, folder: Path, state: str = "") -> None:
        self.driver = driver
        driver.get("about:blank")  # else a change of the address alone would load nothing
        driver.get(f"{folder.as_uri()}/index.html#{state}")

    def js(self, code: str, *given: Any) -> Any:
        return self.driver.execute_script(code, *given)

    def until(self, code: str, *given: Any) -> Any:
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.driver, 20, 0.05).until(lambda _: self.js(f"return {code}", *given))

    def find(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def press(self, key: str) -> None:
        self.driver.switch_to.active_element.send_keys(key)

    @property
    def rows(self) -> list[int]:
        return self.js("return [...document.querySelectorAll('#grid button')].map((b) => Number(b.dataset.row))")

    @property
    def count(self) -> str:
        return self.find("#count").text

    def sort(self, column: str) -> None:
        from selenium.webdriver.support.ui import Select

        Select(self.find("#sort")).select_by_value(column)

    def panel(self) -> str | None:
        """The key in the panel, None while it is closed."""
        return self.js("const p = document.getElementById('panel'); return p.open ? p.querySelector('h2').textContent "
                       ": null")  # fmt: skip


@pytest.mark.browser
def test_filters_leave_the_images_that_fit(driver: Any, large: Path) -> None:
    rows = page_of(large)["rows"]
    page = Page(driver, large)
    assert page.count == "2,000 images" and page.rows == list(range(2000))
    assert page.js("return document.querySelector('h1').textContent") == "RUN <i>"
    page.find("#cameras input[value='1']").click()
    wanted = [row for row in range(2000) if rows["camid"][row] == 1]
    assert page.rows == wanted and page.count == f"{len(wanted)} of 2,000 images" and 600 < len(wanted) < 700
    page.find("#splits input[value='train']").click()
    page.find("#pid").send_keys("141, 150-152")
    wanted = [row for row in wanted if rows["split"][row] == "train" and rows["pid"][row] in (141, 150, 151, 152)]
    assert page.rows == wanted and 0 < len(wanted) < 20
    page.find("#pid").send_keys(", who")
    assert page.rows == [] and page.find("#pid-problem").is_displayed() and page.find("#empty").is_displayed()
    page.find("#reset").click()
    assert page.count == "2,000 images" and not page.find("#pid-problem").is_displayed()


@pytest.mark.browser
def test_sorting_orders_by_the_numbers_of_the_run(driver: Any, large: Path) -> None:
    entropy = page_of(large)["rows"]["gradcampp_mim_entropy"]
    page = Page(driver, large)
    page.sort("gradcampp_mim_entropy")
    order = sorted(range(2000), key=lambda row: entropy[row])
    assert page.rows == order
    page.find("#direction").click()
    assert [entropy[row] for row in page.rows] == [entropy[row] for row in reversed(order)]
    page.find("#cameras input[value='2']").click()
    shown = [entropy[row] for row in page.rows]
    assert shown == sorted(shown, reverse=True) and 600 < len(shown) < 700


@pytest.mark.browser
def test_switching_the_map_loads_its_pictures(driver: Any, large: Path) -> None:
    page = Page(driver, large)
    loaded = (
        "(([i]) => i.complete && i.naturalWidth > 0 && i.getAttribute('src'))(document.querySelectorAll('#grid img'))"
    )
    assert page.until(loaded) == "thumbs/0000/000000.mim_attention.jpg"
    page.find("#maps button:nth-child(3)").click()
    assert page.until(f"{loaded}.includes('gradcampp') && {loaded}") == "thumbs/0000/000000.gradcampp_mim.jpg"
    page.press("1")
    assert page.until(f"{loaded}.includes('original') && {loaded}") == "thumbs/0000/000000.original.jpg"
    assert page.js("return document.querySelector('#maps [aria-pressed=true] span').textContent") == "original"
    # Far down nothing is loaded until it is scrolled to.
    last = "document.querySelector('#grid button:last-child img')"
    assert page.js(f"return {last}.naturalWidth") == 0
    page.js(f"{last}.scrollIntoView()")
    page.until(f"{last}.naturalWidth === 16")


@pytest.mark.browser
def test_the_panel_opens_moves_and_closes(driver: Any, large: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    rows = page_of(large)["rows"]
    page = Page(driver, large)
    page.find("#cameras input[value='1']").click()
    shown = page.rows
    page.find(f"#grid button[data-row='{shown[1]}']").click()
    assert page.panel() == rows["key"][shown[1]]
    assert page.find("#panel-place").text == f"2 of {len(shown)}"
    facts = page.js("return [...document.querySelectorAll('#panel-image dd')].map((d) => d.textContent)")
    assert facts[2:4] == [str(rows["pid"][shown[1]]), "1 (c2)"]
    page.press(Keys.ARROW_RIGHT)
    assert page.panel() == rows["key"][shown[2]]
    page.press(Keys.ARROW_LEFT)
    page.press(Keys.ARROW_LEFT)
    page.press(Keys.ARROW_LEFT)  # there is none before the first
    assert page.panel() == rows["key"][shown[0]]
    page.press(Keys.ESCAPE)
    page.until("!document.getElementById('panel').open")
    assert page.js("return Number(document.activeElement.dataset.row)") == shown[0]
    page.press(Keys.ARROW_RIGHT)
    page.press(Keys.ENTER)
    assert page.panel() == rows["key"][shown[1]]


@pytest.mark.browser
def test_the_first_arrow_on_a_fresh_page_marks_an_image(driver: Any, large: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    page = Page(driver, large)
    page.press(Keys.ARROW_RIGHT)
    assert page.js("return Number(document.activeElement.dataset.row)") == page.rows[0]
    page.press(Keys.ARROW_RIGHT)
    page.press(Keys.ENTER)
    assert page.panel() == page_of(large)["rows"]["key"][page.rows[1]]


@pytest.mark.browser
def test_the_panel_draws_the_heatmap_that_python_draws(driver: Any, large: Path) -> None:
    run = open_run(large.parent / "RUN <i>")
    table = run.metadata().to_table()
    key = page_of(large)["rows"]["key"][150]
    page = Page(driver, large, "open=150")
    assert page.panel() == key
    for name in MAPS:
        canvas = f"document.querySelector('section[data-map=\"{name}\"] canvas')"
        page.until(f"{canvas}.getContext('2d').getImageData(0, 0, 1, 1).data[3] === 255")
        png = base64.b64decode(page.js(f"return {canvas}.toDataURL('image/png')").partition(",")[2])
        drawn = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
        map = run.maps_of(name, table.slice(table["key"].to_pylist().index(key), 1))[0]
        expected = heatmap(map, (32, 16))
        # One level of 255 beside it where rounding differs: turbo's steepest step is 8 in a channel.
        assert drawn.shape == expected.shape and np.abs(drawn.astype(int) - expected).max() <= 16
        assert np.abs(drawn.astype(int) - expected).mean() < 1 < expected.std()


@pytest.mark.browser
def test_the_panels_overlay_fades_as_the_grids_pictures_do(driver: Any, large: Path, run: Run, tmp_path: Path) -> None:
    def opacities(folder: Path) -> list[int]:
        page = Page(driver, folder, "open=10")
        canvas = "document.querySelectorAll('section[data-map=\"mim_attention\"] canvas')[1]"
        data = f"[...{canvas}.getContext('2d').getImageData(0, 0, {canvas}.width, {canvas}.height).data]"
        page.until(f"{data}.some((value) => value)")
        return list(page.js(f"return {data}")[3::4])

    faded = opacities(large)  # one high patch, all others are 0
    assert max(faded) > 150 and faded.count(0) > len(faded) / 2
    write(run, tmp_path / "even", RowSelection(limit=20), looks=Looks(fade=False))
    assert set(opacities(tmp_path / "even")) == {255}


@pytest.mark.browser
def test_a_switch_shows_the_maps_of_the_other_run(driver: Any, run: Run, tmp_path: Path) -> None:
    other = mined(tmp_path / "other", 230, 90, keys={11: NASTY}, shift=3)  # one image has another key there
    report = write(run, tmp_path / "out", RowSelection(where="pid < 4"), other=other.layout.root)
    assert report.left_out == {IMAGE_CORRUPT: 2, NO_LABEL: 1, "not_in_run_b": 1} and report.images == 16
    page = Page(driver, tmp_path / "out")
    source = "document.querySelector('#grid img').getAttribute('src')"
    assert page.js(f"return {source}") == "thumbs/0000/000000.mim_attention.jpg"
    assert page.find("#runs [aria-pressed=true]").text.split()[0] == "a"
    page.press("b")
    assert page.js(f"return {source}") == "thumbs/0000/000000.mim_attention__b.jpg"
    page.find("#runs button:first-child").click()
    assert page.js(f"return {source}") == "thumbs/0000/000000.mim_attention.jpg"
    page = Page(driver, tmp_path / "out", "run=b&open=2")
    titles = "return [...document.querySelectorAll('#panel-maps h3')].map((h) => h.textContent)"
    assert page.js(titles) == [f"{name} · {side}" for name in MAPS for side in "AB"]
    assert page.find("#panel-maps .current h3").text == "mim_attention · B"
    # Both heatmaps of the image are drawn, and their brightest patches are those of the two runs.
    bright = (
        "[...document.querySelectorAll('#panel-maps section')].slice(0, 2).map((s) => { const c = "
        "s.querySelector('canvas'); const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; let top = "
        "0; for (let i = 0; i < d.length; i += 4) if (d[i] > d[top]) top = i; return Math.floor(top / 4 / c.width * 8 "
        "/ c.height); })"
    )
    assert page.until(f"(([a, b]) => (a || b) && [a, b])({bright})") == [2, 5]


@pytest.mark.browser
def test_the_address_keeps_the_state(driver: Any, large: Path) -> None:
    state = "map=gradcam%2B%2B%2Fmim&sort=pid&order=desc&cam=0&cam=2&pid=3-9"
    page = Page(driver, large, state)
    rows = page_of(large)["rows"]
    wanted = [row for row in range(2000) if rows["camid"][row] in (0, 2) and 3 <= rows["pid"][row] <= 9]
    assert page.rows == sorted(wanted, key=lambda row: (-rows["pid"][row], row))
    page.find(f"#grid button[data-row='{wanted[0]}']").click()
    page.until("location.hash.includes('open=')")
    kept = page.driver.current_url.partition("#")[2]
    again = Page(driver, large, kept)
    assert again.rows == page.rows and again.panel() == rows["key"][wanted[0]]
    assert Counter(kept.split("&")) == Counter([*state.split("&"), f"open={wanted[0]}"])


@pytest.mark.browser
def test_a_key_is_text_and_nothing_comes_from_outside(driver: Any, large: Path) -> None:
    row = page_of(large)["rows"]["key"].index(NASTY)
    page = Page(driver, large, f"open={row}")
    assert page.panel() == NASTY
    page.until("document.querySelector('#panel-maps img').naturalWidth > 0")
    assert page.js("return window.hacked") is None
    assert page.js("return document.querySelectorAll('[onerror]').length") == 0
    used = page.js("return [...document.querySelectorAll('[src], [href]')].map((one) => one.src || one.href)")
    assert len(used) > 2000 and all(name.startswith((large.as_uri(), "data:")) for name in used)
    assert [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_processes_draw_what_one_draws(run: Run, large: Path, tmp_path: Path) -> None:
    again = open_run(large.parent / "RUN <i>")
    write(again, tmp_path / "out", RowSelection(limit=100), looks=Looks(), thumb_height=32)
    for column in ("original", "mim_attention", "gradcampp_mim"):
        for row in range(100):
            name = picture_name(row, column)
            assert (tmp_path / "out/thumbs" / name).read_bytes() == (large / "thumbs" / name).read_bytes()
