"""Tars that change beside a run: the done ones are named and never mixed, the others are taken as they are."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from jobs.cli import main
from jobs.commands.mine import describe
from jobs.commands.status import command as status_command
from jobs.commands.verify import command as verify_command
from jobs.errors import UserError
from jobs.mining.config import MineOptions, build_config
from jobs.mining.mine import mine
from jobs.mining.summary import MiningSummary
from jobs.rendering.render import render
from jobs.rendering.render_config import RenderConfig
from jobs.runs.footer import read_footer
from jobs.runs.restart import changed_shards
from jobs.runs.run import open_run
from jobs.runs.status import status
from jobs.runs.verify import verify
from tests.support.shard_files import image_bytes, market_shard, sample_members, write_tar
from tests.support.tiny import tiny_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "m.pth"
    tiny_checkpoint(path, image_size=(64, 32))
    return path


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Two shards of four images each."""
    for number in range(2):
        market_shard(tmp_path / "shards" / f"s-{number}.tar", 4, first=10 * number)
    return tmp_path / "shards"


def mined(
    checkpoint: Path, shards: object, run: Path, *, retry_failed: bool = False, **values: object
) -> MiningSummary:
    values = {"maps": ("mim_attention",), "workers": 0, "precision": "fp32", "device": "cpu", **values}
    config = build_config(None, {"checkpoint": checkpoint, "output": run, "shards": str(shards), **values})
    return mine(config, MineOptions(retry_failed=retry_failed))


def replaced(path: Path, first: int) -> None:
    """Other images under the name of a tar, which keeps its size."""
    size = path.stat().st_size
    market_shard(path, 4, first=first)
    assert path.stat().st_size == size


def undo(run: Path, shard: str) -> None:
    (run / "metadata" / f"{shard}.parquet").unlink()


def test_a_done_shard_that_was_replaced_by_one_of_its_size_is_named(
    checkpoint: Path, shards: Path, tmp_path: Path
) -> None:
    run = tmp_path / "RUN"
    assert mined(checkpoint, shards, run).exit_status == 0
    assert status(run).changed == {} and verify(run).exit_status == 0 and verify(run).not_compared == 0
    undo(run, "s-1")
    replaced(shards / "s-0.tar", first=40)
    how = "s-0: other bytes at its beginning, middle or end"
    with pytest.raises(UserError, match=rf"1 shard of {run} changed after being mined \({how}\)\. Put the tars back"):
        mined(checkpoint, shards, run)
    assert status(run).changed == {"s-0": how.removeprefix("s-0: ")}
    said = CliRunner().invoke(status_command, [str(run)]).output
    assert f"changed after being mined: {how}" in said
    verdict = CliRunner().invoke(verify_command, [str(run)])
    assert verdict.exit_code == 1 and f"changed after being mined: {how}" in verdict.output
    (run / "metadata" / "s-0.parquet").unlink()  # as the message says
    assert mined(checkpoint, shards, run).exit_status == 0
    assert status(run).changed == {} and verify(run).exit_status == 0
    keys = pq.read_table(run / "metadata" / "s-0.parquet")["key"].to_pylist()
    assert keys[0].startswith("0009_c5")  # image 40


def test_a_shard_that_is_not_done_is_taken_as_it_is_now(checkpoint: Path, shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "RUN"
    mined(checkpoint, shards, run)
    undo(run, "s-1")
    market_shard(shards / "s-1.tar", 30, first=100)  # of another size
    summary = mined(checkpoint, shards, run)
    assert (summary.exit_status, summary.images, summary.done) == (0, 30, 2)
    # run.json has the old size. The footer has the new one, by which the run goes on, is checked and is drawn.
    listed = {shard.name: shard for shard in open_run(run).manifest.shards}["s-1"]
    footer = read_footer(run / "metadata" / "s-1.parquet")
    assert footer.tar is not None and footer.tar.size == (shards / "s-1.tar").stat().st_size != listed.size
    assert mined(checkpoint, shards, run).nothing_to_do and status(run).changed == {}
    assert verify(run, whole_tars=True).exit_status == 0
    drawn = render(RenderConfig(run=run, output=tmp_path / "pictures", form="jpg"))
    assert drawn.written == 34
    market_shard(shards / "s-1.tar", 4, first=100)
    with pytest.raises(UserError, match="s-1: 81,920 bytes then, 20,480 now"):
        mined(checkpoint, shards, run)


def test_a_file_that_was_only_copied_has_not_changed(checkpoint: Path, shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "RUN"
    mined(checkpoint, shards, run)
    undo(run, "s-1")
    shutil.copytree(shards, tmp_path / "copy")
    for path in (tmp_path / "copy").iterdir():
        os.utime(path, ns=(1, 1))
    shutil.rmtree(shards)
    assert mined(checkpoint, tmp_path / "copy", run).exit_status == 0
    assert status(run).changed == {} and verify(run).not_compared == 2  # what is gone has not changed
    assert "2 tars were not compared" in CliRunner().invoke(verify_command, [str(run)]).output


def test_a_retry_takes_mended_images_also_where_the_tar_has_another_size(
    checkpoint: Path, shards: Path, tmp_path: Path
) -> None:
    run = tmp_path / "RUN"
    good = sample_members("0001_c1s1_000001_00", image_bytes(1))
    write_tar(shards / "s-1.tar", [*good, *sample_members("0002_c1s1_000001_00", b"damaged")])
    summary = mined(checkpoint, shards, run, max_failed_fraction=1)
    assert summary.failed_images == 1
    mended = image_bytes(2, (300, 200), "PNG") + bytes(20_000)
    write_tar(shards / "s-1.tar", [*good, *sample_members("0002_c1s1_000001_00", mended)])
    with pytest.raises(UserError, match="1 shard changed"):
        mined(checkpoint, shards, run, max_failed_fraction=1)
    summary = mined(checkpoint, shards, run, retry_failed=True, max_failed_fraction=1)
    assert (summary.images, summary.failed_images, summary.exit_status) == (2, 0, 0)
    assert status(run).changed == {} and verify(run).exit_status == 0


def test_only_a_whole_reading_finds_what_the_parts_do_not_show(checkpoint: Path, tmp_path: Path) -> None:
    """A changed byte between the parts that are hashed, under the old time of writing."""
    path, run = tmp_path / "s-0.tar", tmp_path / "RUN"
    noise = [(f"{n}.txt", os.urandom(200_000)) for n in range(3)]
    write_tar(path, [*sample_members("0001_c1s1_000001_00", image_bytes(1)), *noise])
    summary = mined(checkpoint, path, run)
    assert summary.passed_over == {".txt": 3} and "3 members of the tars passed over: 3 .txt" in describe(summary)
    data, before = bytearray(path.read_bytes()), path.stat()
    data[150_000] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert status(run).changed == {} and verify(run).changed == []
    assert verify(run, whole_tars=True).changed == ["s-0: other bytes"]
    assert CliRunner().invoke(verify_command, [str(run), "--tars"]).exit_code == 1
    data[0] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert verify(run).changed == ["s-0: other bytes at its beginning, middle or end"]  # it does not trust the time


def test_an_image_that_is_exchanged_between_the_parts_does_not_pass(
    checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As long as before, in a tar of the same size that was written again."""
    path, run = tmp_path / "s-0.tar", tmp_path / "RUN"
    pictures = [image_bytes(n, (300, 200), "PNG").ljust(60_000, b"\0") for n in range(12)]
    members = [(f"000{n:02d}_c1s1_000001_00.png", data) for n, data in enumerate(pictures)]
    write_tar(path, members)
    mined(checkpoint, path, run)
    data, before = bytearray(path.read_bytes()), path.stat()
    at = bytes(data).index(pictures[2])
    assert at > 1 << 16 and at + 60_000 < len(data) // 2 - (1 << 15)
    data[at : at + 60_000] = pictures[9]
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    told = "1 tar was written again after being mined (s-0): only the size, the beginning, the middle and the end were "
    mined(checkpoint, path, run)
    assert f"{run}: {told}" in caplog.text
    assert status(run).changed == {} and status(run).rewritten == ["s-0"]
    assert told in CliRunner().invoke(status_command, [str(run)]).output
    assert verify(run).changed == ["s-0: other bytes"]
    entry = {"file": "s-0.tar", "images": 12, "sha256": hashlib.sha256(data).hexdigest()}
    (tmp_path / "shards.json").write_text(json.dumps({"shards": [entry]}))
    assert status(run).changed == {"s-0": "shards.json beside it lists other bytes"}
    with pytest.raises(UserError, match=r"1 shard of .* changed after being mined \(s-0: shards.json beside it lists"):
        mined(checkpoint, path, run)


def test_unchanged_files_cost_no_look_into_footers(
    checkpoint: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "RUN"
    mined(checkpoint, shards, run)
    monkeypatch.setattr("jobs.runs.restart.read_facts", lambda _: pytest.fail("a footer was read"))
    opened = open_run(run)
    assert list(changed_shards(opened.layout, opened.manifest.shards, opened.manifest.shards)) == []


def test_a_shard_without_any_image_fails_with_what_it_holds(checkpoint: Path, shards: Path, tmp_path: Path) -> None:
    write_tar(shards / "none.tar", [(f"t{n}.txt", b"x") for n in range(12)] + [(f"{n}.json", b"{}") for n in range(3)])
    write_tar(shards / "empty.tar", [])
    summary = mined(checkpoint, shards, tmp_path / "RUN", max_failed_fraction=1)
    assert summary.exit_status == 3 and summary.done == 2
    errors = {report.shard: report.error for report in summary.failed_shards}
    assert (errors["none"] or "").startswith("none: no image in it: 12 .txt, 3 .json; leave ")
    assert (errors["empty"] or "").startswith(
        f"empty: no image in it: the tar is empty; leave {shards}/empty.tar out of"
    )
    assert set(status(tmp_path / "RUN").failed) == errors.keys() == {"empty", "none"}


def test_what_was_passed_over_is_in_the_log_the_footer_and_the_summary(
    checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    members = [
        *sample_members("0001_c1s1_000001_00", image_bytes(1)),
        ("a.txt", b""),
        ("b.txt", b""),
        (".DS_Store", b""),
    ]
    write_tar(tmp_path / "s-0.tar", members)
    with caplog.at_level("INFO"):
        summary = mined(checkpoint, tmp_path / "s-0.tar", tmp_path / "RUN")
    counts = {".txt": 2, ".DS_Store": 1}
    assert summary.passed_over == counts
    assert "s-0: 1 image (passed over 2 .txt, 1 .DS_Store); 1 of 1 shard; reading" in caplog.text
    assert read_footer(tmp_path / "RUN" / "metadata" / "s-0.parquet").passed_over == counts
    (log,) = (tmp_path / "RUN" / "logs").glob("*.jsonl")
    of_shards = [json.loads(line) for line in log.read_text().splitlines() if "passed_over" in line]
    assert [one["passed_over"] for one in of_shards] == [counts]
    assert "3 members of the tars passed over: 2 .txt, 1 .DS_Store" in describe(summary)


def test_splits_with_equal_file_names_are_one_run(checkpoint: Path, tmp_path: Path) -> None:
    for number, split in enumerate(("train", "query")):
        members = sample_members(f"000{number}_c1s1_000001_00", image_bytes(number))
        write_tar(tmp_path / "data" / split / "00000.tar", members)
    assert mined(checkpoint, tmp_path / "data/*/*.tar", tmp_path / "RUN").images == 2
    rows = open_run(tmp_path / "RUN").metadata().to_table(columns=["shard", "split", "key"]).to_pylist()
    assert [(row["shard"], row["split"], row["key"][:4]) for row in rows] == [
        ("query-00000", "query", "0001"), ("train-00000", "train", "0000")]  # fmt: skip
    (tmp_path / "data").rename(tmp_path / "moved")
    config = RenderConfig(run=tmp_path / "RUN", output=tmp_path / "p", form="jpg", shards_root=str(tmp_path / "moved"))
    assert render(config).written == 2


def test_mine_does_not_go_on_where_maps_of_a_done_shard_are_gone_or_cut(
    checkpoint: Path, shards: Path, tmp_path: Path
) -> None:
    run = tmp_path / "RUN"
    mined(checkpoint, shards, run)
    maps = run / "maps" / "s-0.h5"
    whole = maps.read_bytes()
    remedy = f"put the right file back, or delete {run}/metadata/s-0.parquet and run the same `promptsg mine` again"
    maps.write_bytes(whole[:5000])
    with pytest.raises(UserError, match=rf"s-0\.h5 has 5,000 bytes, {len(whole):,} were written; {remedy}"):
        mined(checkpoint, shards, run)
    maps.unlink()
    with pytest.raises(UserError, match=rf"s-0\.h5 is gone; {remedy}"):
        mined(checkpoint, shards, run)
    with pytest.raises(UserError, match=rf"s-0\.h5 is gone; {remedy}"):
        render(RenderConfig(run=run, output=tmp_path / "pictures", form="jpg"))
    for words in (["gallery"], ["faithfulness", "--checkpoint", str(checkpoint), "--device", "cpu"]):
        said = CliRunner().invoke(main, [words[0], str(run), *words[1:], "--output", str(tmp_path / words[0])])
        assert said.exit_code == 1 and said.output.count(f"promptsg: {maps} is gone; {remedy}\n") == 1, said.output
    undo(run, "s-0")  # as the message says
    assert mined(checkpoint, shards, run).images == 4
    assert maps.read_bytes() == whole and verify(run).exit_status == 0
