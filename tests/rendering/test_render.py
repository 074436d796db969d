"""`promptsg render` on real tars: pixels by hand, bytes counted, names, and shards that moved or changed."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image

from cam.overlay import overlay_heatmap, range_of
from jobs.commands.render import command
from jobs.errors import UserError
from jobs.rendering import render as module
from jobs.rendering.colour_limits import colour_limits
from jobs.rendering.drawing.style import PictureStyle
from jobs.rendering.image_files import decode, sized
from jobs.rendering.index.folder import LOCK
from jobs.rendering.index.listed import LIST
from jobs.rendering.index.pages import INDEX
from jobs.rendering.looks import Looks
from jobs.rendering.names import safe_name
from jobs.rendering.panels import GREEN, RED
from jobs.rendering.requests import RECORD
from jobs.runs.query import RowSelection, select_rows
from jobs.runs.run import Run, open_run
from jobs.shards import random_access as source_images
from promptsg_core.images import read_header
from tests.runs.test_query import GRID, MAPS, make_run, random_maps
from tests.support.shard_files import image_bytes, market_shard, sample_members, textured_image, write_tar

SIZE = (32, 16)


@pytest.fixture(scope="module")
def mined(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tars/ and RUN over them: 60 images, one row that failed, one without the target's map."""
    folder = tmp_path_factory.mktemp("render")
    market_shard(folder / "tars/query-0.tar", 20)
    market_shard(folder / "tars/gallery-0.tar", 38, first=100)
    members = sample_members("bad", b"no image at all", pid=7, camid=1)
    members += sample_members("unlabelled", textured_image(5), pid=8, camid=2)
    members += sample_members("folder/0001", textured_image(6), pid=8, camid=2)
    write_tar(folder / "tars/odd.tar", members)

    def maps(shard: str, number: int) -> dict[str, NDArray[np.float32]]:
        found = random_maps(shard, number)
        return {**found, MAPS[1]: found[MAPS[1]] * np.nan} if (shard, number) == ("odd", 1) else found

    make_run(folder / "RUN", folder / "tars", maps)
    return folder


def render(run: Path, *options: object) -> Result:
    """Runs the command in this process; errors are raised."""
    return CliRunner().invoke(command, [str(run), *map(str, options)], catch_exceptions=False)


def names(folder: Path) -> list[str]:
    """All files but those of the index and the record of requests."""
    found = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    return sorted(str(path) for path in found if path.name not in (RECORD, LIST, LOCK, INDEX))


def picture(path: Path) -> NDArray[np.uint8]:
    return np.asarray(Image.open(path).convert("RGB"))


def image_of(folder: Path, row: dict[str, Any]) -> bytes:
    whole = (folder / f"tars/{row['shard']}.tar").read_bytes()
    return whole[row["image_offset"] :][: row["image_size"]]


@pytest.mark.parametrize("even", [False, True])
def test_an_overlay_is_the_hand_computed_blend(mined: Path, tmp_path: Path, even: bool) -> None:
    run = open_run(mined / "RUN")
    rows = select_rows(run, RowSelection(where="split = 'query' AND camid = 3")).to_pylist()
    options = ("--where", "split = 'query' AND camid = 3", "--map", MAPS[1], "--alpha", 0.3, "--colormap", "jet")
    options += ("--even",) if even else ()
    assert "3 pictures written" in render(mined / "RUN", *options, "--output", tmp_path).output
    assert names(tmp_path) == sorted(f"{row['key']}__gradcampp_mim.png" for row in rows)
    for row in rows:
        map = run.read_maps(MAPS[1], row["shard"])[row["h5_row"]]
        image = np.asarray(Image.open(io.BytesIO(image_of(mined, row))).convert("RGB")).astype(float)
        scaled = cv2.resize((map - map.min()) / (map.max() - map.min()), (16, 32), interpolation=cv2.INTER_LINEAR)
        levels = np.round(scaled * 255).astype(np.uint8)
        heat = cv2.applyColorMap(levels, cv2.COLORMAP_JET)[..., ::-1].astype(float)
        found = picture(tmp_path / f"{row['key']}__gradcampp_mim.png")
        share = 0.3 if even else 0.3 * scaled[..., None]
        # JPEG decoders and rounding differ by one at most.
        assert np.abs(found - (share * heat + (1 - share) * image)).max() <= 1


def test_a_style_draws_the_pixels_of_the_public_functions() -> None:
    rng = np.random.default_rng(0)
    image, map = rng.integers(0, 255, (48, 20, 3), dtype=np.uint8), rng.random(GRID, dtype=np.float32)
    for colormap in ("turbo", "viridis", "jet"):
        looks = Looks(colormap=colormap, upsample="bicubic")
        style = PictureStyle(kind="overlay", maps=("m",), looks=looks, limits={"m": (0.1, 0.8)})
        wanted = overlay_heatmap(
            image, map, colormap=colormap, limits=(0.1, 0.8), upsample="bicubic", alpha=0.8, fade=True
        )
        np.testing.assert_array_equal(style.overlay(image, map, "m"), wanted)


def test_the_hot_patch_lights_the_pixels_over_it(tmp_path: Path) -> None:
    write_tar(tmp_path / "tars/a.tar", sample_members("k", image_bytes(0, (80, 40)), pid=1, camid=0))
    hot = np.zeros(GRID, np.float32)
    hot[5, 1] = 1
    make_run(tmp_path / "RUN", tmp_path / "tars", lambda *_: dict.fromkeys(MAPS, hot))
    render(tmp_path / "RUN", "--style", "heatmap", "--colormap", "bone", "--upsample", "nearest", "--output", tmp_path)
    wanted = np.zeros((80, 40), bool)
    wanted[50:60, 10:20] = True  # a patch is 10x10 pixels
    lit = picture(tmp_path / "k__mim_attention.png")
    assert (lit[wanted] == 255).all() and (lit[~wanted] == 0).all()
    render(tmp_path / "RUN", "--style", "heatmap", "--colormap", "bone", "--output", tmp_path / "smooth")
    smooth = picture(tmp_path / "smooth/k__mim_attention.png")[..., 0].astype(float)
    y, x = (float((smooth * axis).sum() / smooth.sum()) for axis in np.mgrid[:80, :40])
    assert (y, x) == (pytest.approx(54.5, abs=0.1), pytest.approx(14.5, abs=0.1))


def test_an_image_turned_by_exif_is_drawn_upright(tmp_path: Path) -> None:
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, :40] = 255  # its left half is the top once it is turned by 90 degrees clockwise
    data, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(data, "JPEG", exif=exif, quality=95)
    write_tar(tmp_path / "tars/a.tar", sample_members("k", data.getvalue(), pid=1, camid=0))
    run = make_run(tmp_path / "RUN", tmp_path / "tars")
    assert (run.metadata().to_table()["width"][0].as_py(), run.metadata().to_table()["height"][0].as_py()) == (40, 80)
    render(tmp_path / "RUN", "--alpha", 0, "--output", tmp_path)
    upright = picture(tmp_path / "k__mim_attention.png")
    assert upright.shape == (80, 40, 3) and upright[:36].min() > 200 and upright[44:].max() < 50


@pytest.mark.parametrize(("form", "mode"), [("JPEG", "RGB"), ("JPEG", "L"), ("PNG", "RGB"), ("WEBP", "RGB")])
def test_decoding_gives_the_bytes_that_the_model_saw(form: str, mode: str) -> None:
    from promptsg_core.preprocess import decode_image

    rng = np.random.default_rng(0)
    source = Image.fromarray(rng.integers(0, 255, (23, 17, 3), dtype=np.uint8)).convert(mode)
    data = io.BytesIO()
    source.save(data, form, progressive=True)
    header = read_header(data.getvalue())
    assert (header.width, header.height) == (17, 23)
    wanted = decode_image(data.getvalue()).permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(decode(data.getvalue(), header), wanted)


def test_fifty_of_two_thousand_read_those_images_bytes_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = textured_image(1)
    for shard in range(4):
        members = [m for n in range(500) for m in sample_members(f"{shard}-{n:04d}", one + b"", pid=n, camid=0)]
        write_tar(tmp_path / f"tars/s-{shard}.tar", members)
    flat = {name: np.full(GRID, 1 / 32, np.float32) for name in MAPS}
    make_run(tmp_path / "RUN", tmp_path / "tars", lambda *_: flat)
    strace = shutil.which("strace")
    taken: list[tuple[int, int]] = []
    real_pread, opened = os.pread, []
    tars: set[int] = set()

    def pread(descriptor: int, size: int, offset: int) -> bytes:
        if descriptor in tars:
            taken.append((size, offset))
        return real_pread(descriptor, size, offset)

    real_open = os.open

    def open_file(path: Any, *rest: Any, **more: Any) -> int:
        descriptor = real_open(path, *rest, **more)
        tars.discard(descriptor)
        if str(path).endswith(".tar"):
            opened.append(path)
            tars.add(descriptor)
        return descriptor

    monkeypatch.setattr(source_images.os, "pread", pread)
    monkeypatch.setattr(source_images.os, "open", open_file)
    # Any other way to a tar's bytes would have to open it: with `open`, which the hook sees.
    audited: list[str] = []
    watching = [True]
    sys.addaudithook(lambda event, args: audited.append(str(args[0])) if watching and event == "open" else None)
    render(tmp_path / "RUN", "--sample", 50, "--output", tmp_path / "out")
    watching.clear()
    rows = select_rows(open_run(tmp_path / "RUN"), RowSelection(sample=50)).to_pylist()
    assert len(names(tmp_path / "out")) == 50
    assert sorted(taken) == sorted((row["image_size"], row["image_offset"]) for row in rows)
    assert len(opened) == len([path for path in audited if path.endswith(".tar")]) <= 4
    if strace is not None:
        _check_with_strace(strace, tmp_path, sum(row["image_size"] for row in rows))


def _check_with_strace(strace: str, folder: Path, wanted: int) -> None:
    """The kernel's own count of the bytes read from tars."""
    log = folder / "strace.log"
    code = "from jobs.commands.render import command; command()"
    traced = [strace, "-f", "-y", "-e", "trace=read,pread64,readv,preadv,mmap", "-o", str(log)]
    script = [sys.executable, "-c", code, str(folder / "RUN"), "--sample", "50", "--output", str(folder / "traced")]
    if subprocess.run([strace, "-o", os.devnull, "true"], check=False).returncode:
        return  # a container may forbid tracing; the counts above stand
    subprocess.run([*traced, *script], check=True)
    lines = [line for line in log.read_text().splitlines() if ".tar>" in line]
    assert sum(int(line.rsplit("= ", 1)[1]) for line in lines) == wanted


def test_torch_is_never_imported(mined: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from jobs.commands.render import command; command(sys.argv[1:], standalone_mode=False); "
        "print('torch' in sys.modules, 'webdataset' in sys.modules, 'jobs.rendering.drawing.picture' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(mined / "RUN"), "--limit", "3", "--style", "panel", "--output", str(tmp_path)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "False False True"


def test_what_is_there_is_kept_and_empty_files_are_drawn_again(mined: Path, tmp_path: Path) -> None:
    render(mined / "RUN", "--keys", _keys(mined, tmp_path, 4), "--output", tmp_path / "out")
    first, second, third, _ = sorted((tmp_path / "out").glob("*.png"))
    whole = second.read_bytes()
    first.write_bytes(b"mine")
    second.write_bytes(b"")
    third.unlink()
    (tmp_path / "out/.dead.png.1.0123abcd.tmp").write_bytes(b"half")
    done = render(mined / "RUN", "--keys", _keys(mined, tmp_path, 4), "--output", tmp_path / "out")
    assert "2 pictures written" in done.output and "2 existed and were kept" in done.output
    assert first.read_bytes() == b"mine" and second.read_bytes() == whole and third.exists()
    done = render(mined / "RUN", "--keys", _keys(mined, tmp_path, 4), "--output", tmp_path / "out", "--overwrite")
    assert "4 pictures written" in done.output and first.read_bytes() != b"mine" and len(names(tmp_path / "out")) == 4


def test_pictures_of_another_request_are_no_answer(mined: Path, tmp_path: Path) -> None:
    out = ("--output", tmp_path / "out")
    sheet = ("--style", "sheet", "--limit", 4, "--order-by")
    render(mined / "RUN", *sheet, "key", *out)
    with pytest.raises(UserError, match="has 1 of these pictures, drawn for another selection or look: --overwrite"):
        render(mined / "RUN", *sheet, "key DESC", *out)
    assert "1 existed and were kept" in render(mined / "RUN", *sheet, "key", *out).output
    assert "1 picture written" in render(mined / "RUN", *sheet, "key DESC", *out, "--overwrite").output
    keys = ("--keys", _keys(mined, tmp_path, 2))
    render(mined / "RUN", *keys, *out)
    assert "2 pictures written" in render(mined / "RUN", *keys, "--map", MAPS[1], *out).output  # under other names
    assert "2 existed and were kept" in render(mined / "RUN", "--keys", _keys(mined, tmp_path, 3), *out).output
    for look in (("--colormap", "viridis"), ("--scale", "shared"), ("--alpha", 0.9)):
        with pytest.raises(UserError, match="drawn for another selection or look"):
            render(mined / "RUN", *keys, *look, *out)


def _keys(mined: Path, folder: Path, count: int) -> Path:
    rows = select_rows(open_run(mined / "RUN"), RowSelection(where="split = 'query'", limit=count))
    (folder / "keys.txt").write_text("\n".join(rows["key"].to_pylist()))
    return folder / "keys.txt"


def test_processes_write_the_same_bytes_as_one(mined: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WORTH_PROCESSES", 1)
    for workers in (1, 2):
        render(mined / "RUN", "--workers", workers, "--scale", "shared", "--output", tmp_path / str(workers))
    assert len(names(tmp_path / "1")) == 60
    for name in names(tmp_path / "1"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
    shutil.copytree(mined, tmp_path / "copy")
    tar = tmp_path / "copy/tars/query-0.tar"
    tar.write_bytes(tar.read_bytes().replace(b"\xff\xd8\xff", b"\xff\xd7\xff"))
    with pytest.raises(UserError, match="query-0 has changed"):  # an error comes back from a process as it is
        options = ("--shards-root", tmp_path / "copy/tars", "--output", tmp_path / "3")
        render(mined / "RUN", "--workers", 2, *options)


def test_failed_rows_and_maps_that_are_not_finite_are_left_out_and_named(mined: Path, tmp_path: Path) -> None:
    done = render(mined / "RUN", "--where", "shard = 'odd'", "--map", MAPS[0], "--map", MAPS[1], "--output", tmp_path)
    assert names(tmp_path) == [
        "folder__0001__gradcampp_mim.png",
        "folder__0001__mim_attention.png",
        "unlabelled__mim_attention.png",
    ]
    assert "3 pictures written" in done.output
    assert "left out, image_corrupt: 1 (bad)" in done.output
    assert "left out, gradcam++/mim is not finite: 1 (unlabelled)" in done.output
    with pytest.raises(UserError, match=r"no image .* fits the selection"):
        render(mined / "RUN", "--where", "pid = 12345", "--output", tmp_path)


def test_a_dry_run_says_what_would_be_drawn_and_draws_nothing(mined: Path, tmp_path: Path) -> None:
    done = render(mined / "RUN", "--where", "split = 'query'", "--output", tmp_path / "out", "--dry-run")
    lines = done.output.splitlines()
    assert lines[0] == f"20 pictures in {tmp_path / 'out'}, of which 0 exist already"
    assert len(lines) == 12 and lines[11] == "  ... and 10 more" and not (tmp_path / "out").exists()
    render(mined / "RUN", "--where", "split = 'query'", "--output", tmp_path / "out")
    assert [line.strip() for line in lines[1:11]] == [
        f"{key}__mim_attention.png"
        for key in select_rows(open_run(mined / "RUN"), RowSelection(where="split = 'query'", limit=10))[
            "key"
        ].to_pylist()
    ]
    assert {line.strip() for line in lines[1:11]} <= set(names(tmp_path / "out"))
    keys = select_rows(open_run(mined / "RUN"), RowSelection(where="split = 'query'", limit=3))["key"].to_pylist()
    options = [str(mined / "RUN"), "--keys", "-", "--dry-run", "--output", str(tmp_path / "new")]
    done = CliRunner().invoke(command, options, input=f"{keys[2]}\n{keys[0]}\n", catch_exceptions=False)
    assert done.output.splitlines()[1:] == [f"  000{n}_{keys[at]}__mim_attention.png" for n, at in ((1, 2), (2, 0))]


def test_shards_that_moved_changed_or_are_gone(mined: Path, tmp_path: Path) -> None:
    shutil.copytree(mined, tmp_path / "here")
    there = tmp_path / "elsewhere"
    shutil.copytree(mined / "tars", there)
    manifest = json.loads((tmp_path / "here/RUN/run.json").read_text())
    del manifest["sha256"]  # as a run of an earlier version, which was mined elsewhere
    for shard in manifest["shards"]:
        shard["url"] = shard["url"].replace(str(mined), "/nowhere")
    (tmp_path / "here/RUN/run.json").write_text(json.dumps(manifest))
    options = ("--where", "split = 'query'", "--output", tmp_path / "out", "--overwrite")
    with pytest.raises(UserError, match=r"the shard query-0 does not exist: /nowhere/tars/query-0.tar.*--shards-root"):
        render(tmp_path / "here/RUN", *options)
    assert "20 pictures" in render(tmp_path / "here/RUN", *options, "--shards-root", there).output
    tar = there / "query-0.tar"
    whole = tar.read_bytes()
    tar.write_bytes(whole + bytes(10240))
    with pytest.raises(UserError, match=r"query-0 has changed since it was mined: .* has .* bytes and had"):
        render(tmp_path / "here/RUN", *options, "--shards-root", there)
    row = select_rows(open_run(mined / "RUN"), RowSelection(where="split = 'query'")).to_pylist()[3]
    other = image_bytes(3, (SIZE[0] + 1, SIZE[1]))  # another image of the same length in the same place
    assert len(other) <= row["image_size"]
    at = row["image_offset"]
    tar.write_bytes(whole[:at] + other.ljust(row["image_size"], b"\0") + whole[at + row["image_size"] :])
    with pytest.raises(UserError, match=f"query-0 has changed .*{row['key']}.*its CRC-32 differs"):
        render(tmp_path / "here/RUN", *options, "--shards-root", there)
    tar.write_bytes(whole[:at] + bytes(row["image_size"]) + whole[at + row["image_size"] :])
    with pytest.raises(UserError, match=r"query-0 has changed .*its CRC-32 differs"):
        render(tmp_path / "here/RUN", *options, "--shards-root", there)


def test_compressed_tars_are_scanned_with_a_warning(
    mined: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain = (mined / "tars/query-0.tar").read_bytes()
    (tmp_path / "tars").mkdir()
    (tmp_path / "tars/query-0.tar.gz").write_bytes(gzip.compress(plain))
    run = make_run(tmp_path / "RUN", tmp_path / "tars")
    assert set(run.metadata().to_table()["image_offset"].to_pylist()) == {None}
    for folder, source in ((tmp_path / "RUN", "gz"), (mined / "RUN", "tar")):
        render(folder, "--where", "split = 'query' AND camid = 1", "--output", tmp_path / source)
    assert [m for m in caplog.messages if "1 shard is compressed" in m and "to get 4 images" in m]
    assert len(names(tmp_path / "gz")) == 4
    for name in names(tmp_path / "gz"):
        assert (tmp_path / "gz" / name).read_bytes() == (tmp_path / "tar" / name).read_bytes()
    (tmp_path / "tars/query-0.tar.gz").write_bytes(gzip.compress(plain[:512] + plain))
    with pytest.raises(UserError, match="query-0 has changed"):
        render(tmp_path / "RUN", "--overwrite", "--output", tmp_path / "gz")


def test_remote_shards_are_read_by_range_requests(mined: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    for path in (mined / "tars").iterdir():
        memory.pipe(f"/bucket/{path.name}", path.read_bytes())
    asked: list[int] = []
    real = type(memory).cat_file

    def cat_file(self: Any, path: str, start: int | None = None, end: int | None = None, **more: Any) -> bytes:
        asked.append((end or 0) - (start or 0))
        return bytes(real(self, path, start, end, **more))

    monkeypatch.setattr(type(memory), "cat_file", cat_file)
    options = ("--where", "split = 'query' AND camid = 1")
    render(mined / "RUN", *options, "--shards-root", "memory://bucket", "--output", tmp_path / "remote")
    render(mined / "RUN", *options, "--output", tmp_path / "local")
    rows = select_rows(open_run(mined / "RUN"), RowSelection(where=options[1]))
    assert sorted(asked) == sorted(rows["image_size"].to_pylist())
    for name in names(tmp_path / "local"):
        assert (tmp_path / "remote" / name).read_bytes() == (tmp_path / "local" / name).read_bytes()
    with pytest.raises(UserError, match=r"cannot read the shard query-0 at memory://empty/query-0.tar"):
        render(mined / "RUN", *options, "--shards-root", "memory://empty", "--output", tmp_path / "none")


def test_names_stay_in_the_folder(mined: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    template = "{split}"
    with pytest.raises(UserError, match=r"no field \{split\}; fields are \{key\}"):
        render(mined / "RUN", "--name-template", template, "--output", out)
    for template in ("../{key}", "/tmp/{key}", "a/../../{key}", "{key}/"):
        with pytest.raises(UserError, match="leads out of the output folder"):
            render(mined / "RUN", "--name-template", template, "--output", out)
    for template in ("{key.__class__}", "{key[0]}", "{}"):
        with pytest.raises(UserError, match="no field"):
            render(mined / "RUN", "--name-template", template, "--output", out)
    with pytest.raises(UserError, match="names several pictures"):
        render(mined / "RUN", "--name-template", "{pid}", "--output", out)
    render(mined / "RUN", "--where", "shard='odd'", "--name-template", "{pid:04d}/{style}-{key}-{map}", "--output", out)
    assert names(out) == ["0008/overlay-folder__0001-mim_attention.png", "0008/overlay-unlabelled-mim_attention.png"]


@pytest.mark.parametrize(
    ("text", "name"),
    [("a/b\\c", "a__b__c"), ("..", "_"), ("../../x", "______x"), (".hidden", "_hidden"),
     ("a\x00b\nc", "a_b_c"), ("a\x9bb\u202ec\udc80", "a_b_c_"), ("", "_"), ("a:b*c", "a_b_c"), ("é中", "é中")],
)  # fmt: skip
def test_safe_names(text: str, name: str) -> None:
    assert "/" not in safe_name(text) and not safe_name(text).startswith(".") and ".." not in safe_name(text)
    assert safe_name(text) == name
    long = safe_name("中" * 300)
    assert len(long.encode()) <= 200 and long != safe_name("中" * 301)


def test_keys_of_several_shards_never_share_a_file(tmp_path: Path) -> None:
    for number, shard in enumerate(("a", "b")):
        members = sample_members("same", image_bytes(number), pid=1, camid=0)
        members += sample_members(f"only{number}", image_bytes(number), pid=1, camid=0)
        write_tar(tmp_path / f"tars/{shard}.tar", members)
    make_run(tmp_path / "RUN", tmp_path / "tars")
    render(tmp_path / "RUN", "--output", tmp_path / "both")
    both = names(tmp_path / "both")
    assert both == [f"{n}__mim_attention.png" for n in ("a__same", "b__same", "only0", "only1")]
    render(tmp_path / "RUN", "--where", "shard = 'b'", "--output", tmp_path / "one")
    assert names(tmp_path / "one") == [both[1], both[3]]  # the same name, whatever else is selected


def test_shared_scales_are_those_of_all_selected_maps(mined: Path, tmp_path: Path) -> None:
    run = open_run(mined / "RUN")
    columns = ["shard", "h5_row", "gradcampp_mim_min", "gradcampp_mim_max"]
    table = select_rows(run, RowSelection(where="status = 'ok'"), columns=columns)
    maps = run.maps_of(MAPS[1], table)
    assert colour_limits(run, table, [MAPS[1]], "shared")[MAPS[1]] == range_of(maps, "shared")
    found = colour_limits(run, table, [MAPS[1]], "percentile")[MAPS[1]]
    assert found == pytest.approx(np.percentile(maps, [1, 99]), rel=1 / 2048)
    assert found == range_of(maps, "percentile")  # to the bit, which is what the gallery and `visualize` use
    assert colour_limits(run, table, [MAPS[1]], "image") == {MAPS[1]: None}
    np.testing.assert_array_equal(run.maps_of(MAPS[1], table.take([40, 3, 7, 3]).to_pylist()), maps[[40, 3, 7, 3]])
    render(mined / "RUN", "--limit", 1, "--scale", "shared", "--output", tmp_path)
    shared = picture(next(tmp_path.glob("*.png")))
    assert shared.shape[1] > 60  # the legend stands beside 16 pixels of image


def test_images_of_odd_proportions_give_pictures_of_bounded_size(tmp_path: Path) -> None:
    """20000x1 pixels at the default height of panels would be five million pixels wide."""
    members = []
    for number, size in enumerate([(1, 20_000), (20_000, 1), (1, 1)]):
        members += sample_members(str(number), image_bytes(number, size, "PNG"), pid=1, camid=0)
    (tmp_path / "tars").mkdir()
    write_tar(tmp_path / "tars" / "odd.tar", members)
    make_run(tmp_path / "RUN", tmp_path / "tars")
    for style in ("overlay", "heatmap", "panel", "sheet", "identity"):
        said = render(tmp_path / "RUN", "--style", style, "--output", tmp_path / style)
        assert said.exit_code == 0 and "left out" not in said.output
        for path in (tmp_path / style).glob("*.png"):
            assert max(Image.open(path).size) <= (20_000 if style in ("overlay", "heatmap") else 5 * 4096 + 200)
    assert Image.open(tmp_path / "overlay" / "0__mim_attention.png").size == (20_000, 1)
    assert sized(np.zeros((1, 20_000, 3), np.uint8), (256, None)).shape == (1, 4096, 3)
    assert sized(np.zeros((300, 1200, 3), np.uint8), (100, None)).shape == (100, 400, 3)
    said = render(tmp_path / "RUN", "--format", "webp", "--output", tmp_path / "webp")
    assert names(tmp_path / "webp") == ["2__mim_attention.webp"]
    assert "left out, 20000x1 pixels do not fit into a webp file; give --format png, or a --size: 1 (0)" in said.output
    assert "left out, 1x20000 pixels do not fit into a webp file; give --format png, or a --size: 1 (1)" in said.output
    with pytest.raises(UserError, match="more than 134,217,728 pixels: take at most 4096"):
        render(tmp_path / "RUN", "--size", "16384x16384")


def test_pages_of_sheets_and_identities(mined: Path, tmp_path: Path) -> None:
    options = ("--where", "split = 'query'", "--size", 64)
    render(mined / "RUN", *options, "--style", "sheet", "--per-page", 8, "--output", tmp_path / "sheet")
    assert names(tmp_path / "sheet") == ["sheet_0001.png", "sheet_0002.png", "sheet_0003.png"]
    full, last = (picture(tmp_path / "sheet" / f"sheet_000{n}.png") for n in (1, 3))
    assert full.shape[1] == last.shape[1] and full.shape[0] > 8 * 64 > last.shape[0] > 4 * 64
    render(mined / "RUN", *options, "--style", "identity", "--output", tmp_path / "identity")
    assert names(tmp_path / "identity") == [f"pid_{pid:04d}__identity.png" for pid in (1, 2, 3, 4)]
    with pytest.raises(UserError, match="--name-template does not apply to --style sheet"):
        render(mined / "RUN", "--style", "sheet", "--name-template", "{key}", "--output", tmp_path / "none")


def ranked_inputs(run: Run, folder: Path) -> list[dict[str, Any]]:
    """queries.parquet of two queries with three gallery images each, and failures.txt with the second."""
    queries = select_rows(run, RowSelection(where="split = 'query'")).to_pylist()[:2]
    gallery = select_rows(run, RowSelection(where="split = 'gallery'")).to_pylist()
    lists = {"topk_keys": [], "topk_shards": [], "topk_distances": [], "topk_correct": []}  # type: ignore[var-annotated]
    for number in range(2):
        chosen = gallery[5 * number : 5 * number + 3]
        lists["topk_keys"].append([row["key"] for row in chosen])
        lists["topk_shards"].append([row["shard"] for row in chosen])
        lists["topk_distances"].append([0.1, 0.2, 0.3])
        lists["topk_correct"].append([True, False, bool(number)])
    facts = {"shard": [q["shard"] for q in queries], "key": [q["key"] for q in queries], "ap": [0.25, None]}
    pq.write_table(pa.table({**facts, **lists}), folder / "queries.parquet")
    (folder / "failures.txt").write_text(queries[1]["key"] + "\n")
    return queries


def test_ranked_figures_mark_right_and_wrong(mined: Path, tmp_path: Path) -> None:
    queries = ranked_inputs(open_run(mined / "RUN"), tmp_path)
    options = ("--style", "ranked", "--size", 64)
    render(mined / "RUN", *options, "--queries", tmp_path / "queries.parquet", "--output", tmp_path / "all")
    assert names(tmp_path / "all") == sorted(f"{q['key']}__ranked.png" for q in queries)
    for query, rights in zip(queries, ([True, False, False], [True, False, True]), strict=True):
        pixels = picture(tmp_path / "all" / f"{query['key']}__ranked.png")
        for colour, count in ((GREEN, sum(rights)), (RED, 3 - sum(rights))):
            # A border 4 pixels thick around 64x32.
            assert (pixels == colour).all(axis=2).sum() == count * (72 * 40 - 64 * 32)
        columns = [(pixels == colour).all(axis=2).any(axis=0).argmax() for colour in (GREEN, RED)]
        assert columns[0] < columns[1]  # the first hit is right, the second wrong
    options = (*options, "--queries", tmp_path / "failures.txt")
    render(mined / "RUN", *options, "--topk", 1, "--output", tmp_path / "failed")
    assert names(tmp_path / "failed") == [f"0001_{queries[1]['key']}__ranked.png"]  # a list of keys is an order
    one = picture(tmp_path / "failed" / names(tmp_path / "failed")[0])
    assert (one == GREEN).all(axis=2).any() and not (one == RED).all(axis=2).any()
    render(mined / "RUN", "--queries", tmp_path / "queries.parquet", "--where", "ap > 0.2", "--output", tmp_path / "o")
    assert names(tmp_path / "o") == [f"{queries[0]['key']}__mim_attention.png"]
    with pytest.raises(UserError, match="ranked needs --queries"):
        render(mined / "RUN", "--style", "ranked")


def test_options_are_checked_before_anything_is_read(mined: Path, tmp_path: Path) -> None:
    from cam.errors import CamError

    with pytest.raises(UserError, match="no map 'gradcam/mim'; did you mean gradcam"):
        render(mined / "RUN", "--map", "gradcam/mim", "--output", tmp_path)
    with pytest.raises(CamError, match="did you mean jet"):
        render(mined / "RUN", "--colormap", "jett", "--output", tmp_path)
    with pytest.raises(UserError, match="--size 'big' is neither"):
        render(mined / "RUN", "--size", "big", "--output", tmp_path)
    render(mined / "RUN", "--size", "40x30", "--limit", 1, "--format", "webp", "--output", tmp_path / "sized")
    assert picture(next((tmp_path / "sized").glob("*.webp"))).shape == (40, 30, 3)
    assert names(tmp_path / "sized")[0].endswith(".webp")
