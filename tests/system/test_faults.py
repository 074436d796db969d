"""What goes wrong around a job, for real: full disks, files that vanish, clocks that jump, bad input.

After each, `verify` says what is there.
"""

from __future__ import annotations

import gzip
import io
import json
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

from jobs.cli import main
from jobs.commands.mine import describe
from jobs.errors import UserError
from jobs.mining.config import MineOptions, build_config
from jobs.mining.mine import mine
from jobs.runs.status import status
from jobs.runs.verify import verify
from tests.support.shard_files import market_shard, sample_members, tar_bytes, textured_image, write_tar
from tests.support.tiny import tiny_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "m.pth"
    tiny_checkpoint(path, image_size=(64, 32))
    return path


def options(checkpoint: Path, shards: object, output: Path, **more: object) -> dict:
    common = {"workers": 0, "precision": "fp32", "device": "cpu", "maps": ["mim_attention", "gradcam/mim"]}
    return {**common, "batch_size": 4, "checkpoint": checkpoint, "shards": str(shards), "output": output, **more}


def run(checkpoint: Path, shards: object, output: Path, how: MineOptions | None = None, **more: object) -> int:
    config = build_config(None, options(checkpoint, shards, output, **more))
    return mine(config, how or MineOptions()).exit_status


def good(count: int, first: int = 0) -> list[tuple[str, bytes]]:
    numbers = range(first, first + count)
    return [m for n in numbers for m in sample_members(f"{n:04d}_c1s1_000000_00", textured_image(n), pid=n)]


def picture(form: str = "JPEG", mode: str = "RGB", size: tuple[int, int] = (16, 32)) -> bytes:
    out = io.BytesIO()
    Image.new(mode, size).save(out, form)
    return out.getvalue()


def bomb() -> bytes:
    """The header of a PNG of 30,000 x 30,000 pixels; what follows does not matter, for it must not be decoded."""
    import struct
    import zlib

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    data = zlib.compress(bytes(1000))
    pixels = b"IDAT" + data
    return (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
        + struct.pack(">I", len(data)) + pixels + struct.pack(">I", zlib.crc32(pixels))
    )  # fmt: skip


# One odd sample among good ones: its members, and the status of its row ("" for none), or None for a row that is ok.
SAMPLES: dict[str, tuple[list[tuple[str, bytes]], str | None]] = {
    "corrupt": ([("x.jpg", b"\xff\xd8\xff\xe0 not a picture")], "image_corrupt"),
    "truncated": ([("x.jpg", textured_image(1, (64, 32))[:-200])], "image_corrupt"),
    "empty": ([("x.jpg", b"")], "image_corrupt"),
    "bomb": ([("x.png", bomb())], "image_too_large"),
    "grey": ([("x.jpg", picture(mode="L"))], None),
    "cmyk": ([("x.jpg", picture(mode="CMYK"))], None),
    "png": ([("x.png", picture("PNG"))], None),
    "palette": ([("x.png", picture("PNG", "P"))], None),
    "webp": ([("x.webp", picture("WEBP"))], None),
    "no image": ([("x.json", b'{"pid": 3}')], "image_missing"),
    "no metadata": ([("x.jpg", picture())], None),
    "not json": ([("x.json", b"{pid: 3"), ("x.jpg", picture())], "metadata_invalid"),
    "wrong types": ([("x.json", b'{"pid": "three"}'), ("x.jpg", picture())], "metadata_invalid"),
    "a list": ([("x.json", b"[3]"), ("x.jpg", picture())], "metadata_invalid"),
    "duplicate": ([("0000_c1s1_000000_00.jpg", picture())], "duplicate_key"),
    "dots": ([("../../x.jpg", picture())], "name_unsafe"),
    "absolute": ([("/etc/x.jpg", picture())], "name_unsafe"),
    "unicode": ([("größe 漢字.jpg", picture())], None),
    "255 bytes": ([("n" * 251 + ".jpg", picture())], None),
    "junk": ([("-1_c1s1_000451_03.jpg", picture())], None),
    "a huge number": ([("0002_c99999999999s1_000001_05.jpg", picture())], "metadata_invalid"),
    "no text": ([("x.json", b'{"split": "\\ud800"}'), ("x.jpg", picture())], "metadata_invalid"),
    "two images": ([("x.jpg", picture()), ("x.png", picture("PNG"))], "image_ambiguous"),
}


@pytest.mark.parametrize("case", list(SAMPLES))
def test_an_odd_sample_is_one_row_and_the_rest_goes_on(checkpoint: Path, tmp_path: Path, case: str) -> None:
    members, status = SAMPLES[case]
    write_tar(tmp_path / "odd.tar", [*good(3), *members, *good(3, 10)])
    assert run(checkpoint, tmp_path / "odd.tar", tmp_path / "RUN", max_failed_fraction=0.2) == 0
    rows = pq.read_table(tmp_path / "RUN" / "metadata" / "odd.parquet").to_pylist()
    assert len(rows) == 7
    (odd,) = [row for row in rows if row["tar_index"] == 3]
    assert odd["status"] == (status or "ok") and (odd["h5_row"] is None) == (status is not None)
    assert (odd["error"] is None) == (status is None)
    assert [row["status"] for row in rows if row is not odd] == ["ok"] * 6
    if case == "junk":
        assert odd["pid"] == -1
    verdict = verify(tmp_path / "RUN")
    assert verdict.exit_status == 0 and verdict.images == 7
    assert {p.name for p in tmp_path.iterdir()} == {"odd.tar", "RUN"}  # nothing was written by a member's name


def links() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, kind in (("x.jpg", tarfile.SYMTYPE), ("y.jpg", tarfile.LNKTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        for name, data in good(8):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def test_links_are_rows_that_say_so(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "l.tar").write_bytes(links())
    assert run(checkpoint, tmp_path / "l.tar", tmp_path / "RUN", max_failed_fraction=0.2) == 0
    rows = pq.read_table(tmp_path / "RUN" / "metadata" / "l.parquet").to_pylist()
    assert [row["status"] for row in rows] == ["not_a_file"] * 2 + ["ok"] * 8


def boundary(data: bytes) -> bytes:
    """The tar cut exactly before its fifth member's header."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return data[: tar.getmembers()[4].offset]


_NO_END = "the end-of-archive blocks are missing"
# A shard that cannot be read to its end -> why, as its error says. Nothing of it is published.
TARS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "truncated": (lambda whole: whole[: len(whole) // 2], f"{_NO_END} (after member '0003_c1s1_000000_00.jpg'"),
    "at a member boundary": (boundary, f"{_NO_END} (after member '0001_c1s1_000000_00.jpg'"),
    "no end marker": (
        lambda whole: tar_bytes(good(6), end=False),
        f"{_NO_END} (after member '0005_c1s1_000000_00.jpg'",
    ),
    "empty file": (lambda whole: b"", "the file is empty"),
    "not a tar": (lambda whole: b"<html>" + bytes(2000), "bad checksum"),
    "gzip cut short": (lambda whole: gzip.compress(whole)[:-200], "Compressed file ended before"),
}


@pytest.mark.parametrize("case", list(TARS))
def test_a_bad_tar_fails_alone_and_publishes_nothing(
    checkpoint: Path, tmp_path: Path, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    spoil, why = TARS[case]
    (tmp_path / "bad.tar").write_bytes(spoil(tar_bytes(good(6))))
    write_tar(tmp_path / "good.tar", good(6))
    assert run(checkpoint, tmp_path / "*.tar", tmp_path / "RUN") == 3
    assert f"bad: {tmp_path}/bad.tar is not a whole tar: {why}" in caplog.text
    verdict = verify(tmp_path / "RUN")
    assert (verdict.missing, verdict.problems, verdict.images) == (["bad"], [], 6)
    assert why in status(tmp_path / "RUN").failed["bad"]
    assert not list((tmp_path / "RUN" / "maps").glob("bad*"))


def test_a_compressed_tar_has_no_offsets(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "c.tar.gz").write_bytes(gzip.compress(tar_bytes(good(5))))
    assert run(checkpoint, tmp_path / "c.tar.gz", tmp_path / "RUN") == 0
    rows = pq.read_table(tmp_path / "RUN" / "metadata" / "c.parquet").to_pylist()
    assert [row["status"] for row in rows] == ["ok"] * 5
    assert {row["image_offset"] for row in rows} == {None} and all(row["image_size"] > 100 for row in rows)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1.5 MB of its own."""
    folder = tmp_path / "small"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1500k", "none", str(folder)], capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"needs the right to mount a tmpfs: {made.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_fails_the_shard_with_path_and_room_and_leaves_no_litter(
    checkpoint: Path, tmp_path: Path, small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(6):
        market_shard(tmp_path / f"s-{number}.tar", 40, first=number)
    output = small_disk / "RUN"
    assert run(checkpoint, tmp_path / "s-*.tar", output) == 3
    said = caplog.text
    assert (
        "cannot write" in said
        and "No space left on device" in said
        and " bytes, " in said
        and " are free there" in said
    )
    found = status(output)
    assert 1 <= found.done < 6 and not list(output.glob("*/.*.tmp"))
    assert verify(output).problems == []
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    assert run(checkpoint, tmp_path / "s-*.tar", output) == 0
    assert verify(output).exit_status == 0 and verify(output).images == 240


def test_a_read_only_output_is_one_line(checkpoint: Path, tmp_path: Path, small_disk: Path) -> None:
    market_shard(tmp_path / "s.tar", 5)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    asked = options(checkpoint, tmp_path / "s.tar", small_disk / "R", maps="mim_attention")
    words = [f"--{key.replace('_', '-')}={value}" for key, value in asked.items()]
    result = CliRunner().invoke(main, ["mine", *words])
    assert result.exit_code == 1 and "Read-only file system" in result.output
    assert f"{small_disk}/R" in result.output.splitlines()[-1]


def test_a_run_may_lie_on_another_file_system(checkpoint: Path, tmp_path: Path, small_disk: Path) -> None:
    """The temporary file is beside the final one: a rename never crosses file systems."""
    market_shard(tmp_path / "s.tar", 5)
    assert run(checkpoint, tmp_path / "s.tar", small_disk / "RUN") == 0 and verify(small_disk / "RUN").intact == 1


def slow_job(checkpoint: Path, tmp_path: Path, shards: int, *words: str) -> subprocess.Popen[str]:
    for number in range(shards):
        market_shard(tmp_path / f"s-{number:02d}.tar", 40, first=number)
    command = [sys.executable, "-m", "jobs", "mine", "--shards", f"{tmp_path}/s-*.tar", "--checkpoint", str(checkpoint)]
    command += ["--output", str(tmp_path / "RUN"), "--batch-size", "2", "--device", "cpu", "--workers", "0", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_a_shard(output: Path, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not list(output.glob("metadata/*.parquet")):
        assert time.monotonic() < deadline, "no shard is done"
        time.sleep(0.01)


def test_shards_that_vanish_under_way_fail_and_are_named(checkpoint: Path, tmp_path: Path) -> None:
    process = slow_job(checkpoint, tmp_path, 8)
    wait_for_a_shard(tmp_path / "RUN")
    (tmp_path / "s-07.tar").rename(tmp_path / "gone")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 3, err
    assert "failed: s-07:" in err and "Traceback" not in err and "7 of 8 shards are done" in out
    assert verify(tmp_path / "RUN").missing == ["s-07"]


def test_an_output_folder_that_vanishes_under_way_fails_its_shards_in_one_line_each(
    checkpoint: Path, tmp_path: Path
) -> None:
    process = slow_job(checkpoint, tmp_path, 8)
    wait_for_a_shard(tmp_path / "RUN")
    shutil.move(tmp_path / "RUN" / "maps", tmp_path / "elsewhere")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 3 and "Traceback" not in err
    assert "cannot write" in err and "No such file or directory" in err


def test_a_drain_file_stops_with_75(checkpoint: Path, tmp_path: Path) -> None:
    drain = tmp_path / "drain"
    process = slow_job(checkpoint, tmp_path, 15, "--drain-file", str(drain))
    wait_for_a_shard(tmp_path / "RUN")
    drain.touch()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 75, err
    assert "stopped on a drain request" in out
    verdict = verify(tmp_path / "RUN")
    assert verdict.problems == [] and 1 <= verdict.intact < 15


def test_clocks_that_jump_change_nothing(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wall clock is only ever shown: leftovers are told by locks, durations by the monotonic clock."""
    market_shard(tmp_path / "s-0.tar", 8)
    market_shard(tmp_path / "s-1.tar", 8, first=50)
    true = time.time
    jumps = iter([0, 1e9, -1e9, 5e8] * 1000)
    monkeypatch.setattr(time, "time", lambda: true() + next(jumps))
    monkeypatch.setenv("TZ", "UTC")
    assert run(checkpoint, tmp_path / "s-*.tar", tmp_path / "RUN") == 0
    assert status(tmp_path / "RUN").done == 2 and verify(tmp_path / "RUN").exit_status == 0


def test_overwrite_names_what_it_deletes_and_keeps_what_is_not_its_own(checkpoint: Path, tmp_path: Path) -> None:
    market_shard(tmp_path / "s-0.tar", 8)
    output = tmp_path / "RUN"
    assert run(checkpoint, tmp_path / "s-0.tar", output) == 0
    (output / "notes.txt").write_text("mine")
    market_shard(tmp_path / "s-1.tar", 6, first=50)
    with pytest.raises(UserError, match="--overwrite to delete it"):
        run(checkpoint, tmp_path / "s-*.tar", output)
    with pytest.raises(UserError, match="unknown map"):  # a wrong request deletes nothing
        run(checkpoint, tmp_path / "s-*.tar", output, MineOptions(overwrite=True), maps=["nothing"])
    assert verify(output).intact == 1
    config = build_config(None, options(checkpoint, tmp_path / "s-*.tar", output))
    summary = mine(config, MineOptions(overwrite=True))
    assert summary.exit_status == 0
    said = describe(summary)
    assert f"overwriting: deleted 1 file {output}/metadata/*.parquet" in said and f"deleted {output}/run.json" in said
    assert (output / "notes.txt").read_text() == "mine"
    assert verify(output).images == 14


def test_shards_without_a_run_json_are_nobodys(checkpoint: Path, tmp_path: Path) -> None:
    market_shard(tmp_path / "s.tar", 5)
    assert run(checkpoint, tmp_path / "s.tar", tmp_path / "RUN") == 0
    (tmp_path / "RUN" / "run.json").unlink()
    with pytest.raises(UserError, match=r"1 published shard but no run\.json"):
        run(checkpoint, tmp_path / "s.tar", tmp_path / "RUN", target="feature")
    assert run(checkpoint, tmp_path / "s.tar", tmp_path / "RUN", MineOptions(overwrite=True), target="feature") == 0
    assert verify(tmp_path / "RUN").exit_status == 0


def test_retry_failed_redoes_only_the_shards_with_failed_rows(checkpoint: Path, tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [*good(8), ("big.jpg", textured_image(9, (400, 200)))])
    write_tar(tmp_path / "b.tar", good(8))
    output = tmp_path / "RUN"
    # A limit that lets one image fail; raising it is another run, so it is mended where it lies.
    spoiled = (tmp_path / "a.tar").read_bytes()
    whole = spoiled
    place = spoiled.rindex(textured_image(9, (400, 200))[:60])
    spoiled = spoiled[:place] + bytes(60) + spoiled[place + 60 :]
    (tmp_path / "a.tar").write_bytes(spoiled)
    assert run(checkpoint, tmp_path / "[ab].tar", output, max_failed_fraction=0.5) == 0
    before = {path.name: path.stat().st_mtime_ns for path in (output / "metadata").iterdir()}
    assert status(output).failed_images == {"image_corrupt": 1}
    (tmp_path / "a.tar").write_bytes(whole)
    assert run(checkpoint, tmp_path / "[ab].tar", output, MineOptions(retry_failed=True), max_failed_fraction=0.5) == 0
    after = {path.name: path.stat().st_mtime_ns for path in (output / "metadata").iterdir()}
    assert after["b.parquet"] == before["b.parquet"] and after["a.parquet"] != before["a.parquet"]
    assert status(output).failed_images == {} and verify(output).images == 17
    assert run(checkpoint, tmp_path / "[ab].tar", output, MineOptions(retry_failed=True), max_failed_fraction=0.5) == 0


def test_run_json_is_made_once_by_many_at_once(tmp_path: Path) -> None:
    """Twelve processes ask for the same run, and two for another, at the same moment."""
    code = """
import sys, time
from pathlib import Path
from jobs.runs.layout import RunLayout
from jobs.runs.manifest import ResolvedSettings, RunRequest, create_manifest
from jobs.errors import UserError
while not Path(sys.argv[1] + ".go").exists():
    time.sleep(0.001)
asked = {"asked": {"maps": [sys.argv[2]]}, "shards": []}
try:
    request, resolved = RunRequest.model_validate(asked), ResolvedSettings(precision="fp32")
    print(create_manifest(RunLayout(Path(sys.argv[1])), request, resolved).fingerprint)
except UserError as error:
    print("refused:", error)
"""
    root = tmp_path / "RUN"
    names = ["mim_attention"] * 12 + ["rollout"] * 2
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(root), name], stdout=subprocess.PIPE, text=True)
        for name in names
    ]
    time.sleep(1)
    (tmp_path / "RUN.go").touch()
    said = [process.communicate(timeout=60)[0].strip() for process in running]
    winner = json.loads((root / "run.json").read_text())["asked"]["maps"][0]
    for name, line in zip(names, said, strict=True):
        assert line.startswith("refused:") == (name != winner), line
    assert len({line for line in said if not line.startswith("refused")}) == 1


def test_open_files_are_never_locked_by_hdf5(checkpoint: Path, tmp_path: Path) -> None:
    """NFS and Lustre often refuse HDF5's own locks: a run is read while another reader holds one."""
    import fcntl

    market_shard(tmp_path / "s.tar", 6)
    assert run(checkpoint, tmp_path / "s.tar", tmp_path / "RUN") == 0
    with (tmp_path / "RUN" / "maps" / "s.h5").open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert verify(tmp_path / "RUN").intact == 1
