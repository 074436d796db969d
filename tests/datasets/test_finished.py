"""A plan is done only where its tars are ours and of these bytes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from jobs.commands.shard import command
from jobs.datasets.plan_file import ListedShard, read_plan
from jobs.errors import UserError
from tests.support.shard_files import image_bytes, sample_members, tar_bytes, write_tar

PATTERN = r"(?P<pid>\d+)\.jpg"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    for pid in range(1, 5):
        (folder / f"{pid:04d}.jpg").write_bytes(image_bytes(pid))
    return folder


def shard(source: Path, *words: object) -> Result:
    """Packs into shards of two images beside the source."""
    options = ["--pattern", PATTERN, "--camid", "0", "--images-per-shard", "2", *map(str, words)]
    return CliRunner().invoke(command, [str(source), str(source.parent / "out"), *options])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def plan_of(folder: Path) -> dict[str, ListedShard]:
    plan = read_plan(folder)
    assert plan is not None
    return {shard.file: shard for shard in plan.shards}


def strip_plan(folder: Path, *names: str) -> None:
    """Leaves out of shards.json what earlier versions did not write."""
    content = json.loads((folder / "shards.json").read_bytes())
    content["shards"] = [{k: v for k, v in entry.items() if k not in names} for entry in content["shards"]]
    (folder / "shards.json").write_text(json.dumps(content))


def test_the_plan_lists_the_bytes_of_each_tar(source: Path, tmp_path: Path) -> None:
    assert shard(source).exit_code == 0
    for name, listed in plan_of(tmp_path / "out").items():
        data = (tmp_path / "out" / name).read_bytes()
        assert (listed.bytes, listed.sha256) == (len(data), hashlib.sha256(data).hexdigest())


def test_a_mended_image_is_packed_again_and_only_its_shard(source: Path, tmp_path: Path) -> None:
    shard(source)
    out = tmp_path / "out"
    before, time_before = contents(out), (out / "train-000000.tar").stat().st_mtime_ns
    (source / "0003.jpg").write_bytes(image_bytes(9))
    result = shard(source)
    assert (
        "packed again 1 shard whose images changed: train-000001.tar; `promptsg mine ... --retry-failed`"
        in result.output
    )
    assert (out / "train-000000.tar").stat().st_mtime_ns == time_before
    after = contents(out)
    assert image_bytes(9) in after["train-000001.tar"] and after["train-000001.tar"] != before["train-000001.tar"]
    assert plan_of(out)["train-000001.tar"].sha256 == hashlib.sha256(after["train-000001.tar"]).hexdigest()
    assert "packed again" not in shard(source).output and contents(out) == after


def test_another_time_of_the_same_image_changes_no_tar(source: Path, tmp_path: Path) -> None:
    shard(source)
    out = tmp_path / "out"
    before, time_before = contents(out), (out / "train-000000.tar").stat().st_mtime_ns
    os.utime(source / "0001.jpg", (1, 1))
    assert "packed again" not in shard(source).output
    after = contents(out)
    assert {k: v for k, v in after.items() if k.endswith(".tar")} == {
        k: v for k, v in before.items() if k.endswith(".tar")
    }
    assert (out / "train-000000.tar").stat().st_mtime_ns == time_before
    assert shard(source).exit_code == 0 and contents(out) == after


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes) -> bytes:
    return data[:600] + bytes([data[600] ^ 1]) + data[601:]


def another(_: bytes) -> bytes:
    return tar_bytes(sample_members("0003", image_bytes(3), pid=3, camid=0))


@pytest.mark.parametrize("change", [cut, flipped, another])
@pytest.mark.parametrize("listed", ["with its bytes", "as once", "not at all"])
def test_a_tar_that_is_not_ours_is_refused_and_nothing_is_touched(
    source: Path, tmp_path: Path, change: object, listed: str
) -> None:
    out = tmp_path / "out"
    shard(source)
    path = out / "train-000001.tar"
    path.write_bytes(change(path.read_bytes()))  # type: ignore[operator]
    (out / "train-000000.tar").unlink()
    if listed == "as once":
        strip_plan(out, "sha256", "bytes", "sources_sha256")
    elif listed == "not at all":
        (out / "shards.json").unlink()
    before = contents(out)
    message = str(shard(source).exception)
    assert "files under the names of shards that are not these shards: train-000001.tar (" in message
    assert "move them away and run again" in message and "\n" not in message
    assert contents(out) == before
    path.unlink()
    assert shard(source).exit_code == 0 and sorted(contents(out)) == ["shards.json", "train-000000.tar", path.name]


def test_a_tar_without_its_end_is_not_whole(source: Path, tmp_path: Path) -> None:
    shard(source)
    out = tmp_path / "out"
    strip_plan(out, "sha256", "bytes")
    path = out / "train-000000.tar"
    data = path.read_bytes()
    path.write_bytes(data.rstrip(b"\0") + bytes(-len(data.rstrip(b"\0")) % 512))
    assert "train-000000.tar (it is not a whole tar: its end is missing)" in str(shard(source).exception)


def test_shards_of_earlier_versions_are_kept_and_listed(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    entries, keys = [], hashlib.sha256()
    for number in (0, 1):
        members, keys = [], hashlib.sha256()
        for pid in (2 * number + 1, 2 * number + 2):
            note = {"pid": pid, "camid": 0, "seq": None, "frame": None, "split": "train"}
            members += sample_members(f"{pid:04d}", image_bytes(pid), **note)
            keys.update(f"{pid:04d}.jpg".encode() + json.dumps(note).encode())
        write_tar(out / f"train-{number:06d}.tar", members)
        entries.append({"file": f"train-{number:06d}.tar", "images": 2, "keys_sha256": keys.hexdigest()})
    plan = {"dataset": "pattern", "images_per_shard": 2, "seed": None, "shards": entries}
    (out / "shards.json").write_text(json.dumps(plan))
    before = contents(out)
    result = shard(source)
    assert result.exit_code == 0, result.output
    after = contents(out)
    assert all(after[name] == before[name] for name in before if name.endswith(".tar"))
    data = after["train-000001.tar"]
    assert plan_of(out)["train-000001.tar"].sha256 == hashlib.sha256(data).hexdigest()
    (source / "0004.jpg").write_bytes(image_bytes(8))
    assert "packed again 1 shard whose images changed: train-000001.tar" in shard(source).output


def test_a_kill_between_a_new_tar_and_its_entry_is_no_damage(source: Path, tmp_path: Path) -> None:
    shard(source)
    out = tmp_path / "out"
    wanted = contents(out)
    strip_plan(out, "sha256", "bytes")
    assert shard(source).exit_code == 0 and contents(out) == wanted


BAD_PLANS = [
    b"[]", b"{}", b"", b"null", b"7", b'"x"', b"{", b"\xff\xfe", b'{"shards": 3}', b'{"shards": {}}', b"[" * 100_000,
    *(b'{"shards": [%s]}' % shards for shards in (
        b"1", b"{}", b'{"file": 1, "images": 1}', b'{"file": "a.tar", "images": "x"}', b'{"file": "..", "images": 1}',
        b'{"file": "../precious.tar", "images": 1}', b'{"file": "/etc/x.tar", "images": 1}',
        b'{"file": "notes.txt", "images": 1}', b'{"file": "a.tar", "images": 1}, {"file": "a.tar", "images": 1}',
    )),
]  # fmt: skip


@pytest.mark.parametrize("content", BAD_PLANS, ids=lambda content: repr(content[:60]))
@pytest.mark.parametrize("options", [(), ("--overwrite",)])
def test_a_damaged_plan_is_one_line_and_nothing_is_removed(
    source: Path, tmp_path: Path, content: bytes, options: tuple[str, ...]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for path in (out / "a.tar", out / "precious.tar", out / "notes.txt", tmp_path / "precious.tar"):
        path.write_bytes(b"precious")
    (out / "shards.json").write_bytes(content)
    error = shard(source, *options).exception
    assert isinstance(error, UserError) and "\n" not in str(error)
    assert str(error).startswith(f"{out / 'shards.json'} is not the plan of `promptsg shard` (")
    assert sorted(contents(out)) == ["a.tar", "notes.txt", "precious.tar", "shards.json"]
    assert (tmp_path / "precious.tar").read_bytes() == b"precious"


def test_overwrite_removes_only_shards_that_are_listed_so(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shard(source)
    (out / "other.tar").write_bytes(b"precious")
    shutil.copy(out / "other.tar", out / "train-000001.tar")
    before = contents(out)
    message = str(shard(source, "--overwrite").exception)
    assert "has files that are not the shards that shards.json lists: train-000001.tar (it has 8 bytes" in message
    assert contents(out) == before
    strip_plan(out, "sha256", "bytes")
    assert "train-000001.tar (it is not a whole tar" in str(shard(source, "--overwrite").exception)
    (out / "train-000001.tar").unlink()
    result = shard(source, "--overwrite")
    assert "removed 1 shard" in result.output
    assert "also has other tars, which '*.tar' takes too, 1 tar: other.tar" in result.output
    assert sorted(contents(out)) == ["other.tar", "shards.json", "train-000000.tar", "train-000001.tar"]


def test_a_full_disk_is_one_line_and_the_next_call_goes_on(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = [os.fsync]

    def full(descriptor: int) -> None:
        if os.fstat(descriptor).st_size > 9000 and not room:  # a tar, and not the first one
            raise OSError(errno.ENOSPC, "No space left on device")
        if os.fstat(descriptor).st_size > 9000:
            room.pop()

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        message = str(shard(source).exception)
    out = tmp_path / "out"
    assert (
        message.startswith(f"cannot write {out / 'train-000001.tar'}: No space left on device") and "\n" not in message
    )
    assert sorted(contents(out)) == ["shards.json", "train-000000.tar"]
    assert plan_of(out)["train-000000.tar"].sha256 and not plan_of(out)["train-000001.tar"].sha256
    assert shard(source).exit_code == 0 and len(list(out.glob("*.tar"))) == 2


def test_two_calls_at_once_end_with_the_same_shards(source: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "jobs", "shard", str(source), str(tmp_path / "out"), "--pattern", PATTERN]
    words += ["--camid", "0", "--images-per-shard", "1"]
    both = [subprocess.Popen(words, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    for name, listed in plan_of(tmp_path / "out").items():
        assert listed.sha256 == hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest()
    assert len(list((tmp_path / "out").iterdir())) == 5
