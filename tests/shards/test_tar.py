"""Strict reading of tars: every way to break one is an error that names the shard, and nothing is lost in silence."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

from jobs.errors import ShardError
from jobs.shards.shard_bytes import parts_sha256
from jobs.shards.tar import Member, TarReader
from jobs.shards.urls import Shard, expand_shards
from tests.support.shard_files import Member as Pair
from tests.support.shard_files import tar_bytes, write_tar

MEMBERS: list[Pair] = [("a.jpg", b"first" * 300), ("a.json", b"{}"), ("b.jpg", b"second")]


def shard_of(path: Path) -> Shard:
    return Shard(name="s-0", url=str(path), size=path.stat().st_size)


def read(path: Path) -> list[Member]:
    with TarReader(shard_of(path)) as tar:
        return list(tar)


def test_members_and_their_offsets(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "s.tar", MEMBERS)
    whole = path.read_bytes()
    found = read(path)
    assert [(m.name, m.data) for m in found] == MEMBERS
    for member in found:
        assert member.offset is not None and member.data is not None
        assert whole[member.offset : member.offset + len(member.data)] == member.data
    with TarReader(shard_of(path)) as tar:
        list(tar)
        assert tar.bytes_read == len(whole)


def test_every_truncation_is_an_error_that_names_the_shard(tmp_path: Path) -> None:
    whole = tar_bytes(MEMBERS)
    end = len(tar_bytes(MEMBERS, end=False)) + 2 * tarfile.BLOCKSIZE
    path = tmp_path / "s.tar"
    for length in [*range(0, end, 512), *range(0, end, 97), end - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(ShardError, match=r"s-0: .*s\.tar is not a whole tar"):
            read(path)
    path.write_bytes(whole[:end])  # the padding to 10,240 bytes is not part of the archive
    assert len(read(path)) == 3


def test_a_damaged_header_in_the_middle_is_no_end(tmp_path: Path) -> None:
    whole = bytearray(tar_bytes(MEMBERS))
    start = whole.index(b"b.jpg")
    whole[start + 150] ^= 0xFF
    path = tmp_path / "s.tar"
    path.write_bytes(whole)
    with pytest.raises(ShardError, match=r"a header is damaged \(after member 'a.json'"):
        read(path)


def test_two_tars_in_one_file_do_not_lose_the_second(tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    path.write_bytes(tar_bytes(MEMBERS) + tar_bytes(MEMBERS))
    with pytest.raises(ShardError, match="more data follows the end"):
        read(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"<html>404</html>" * 99, "is not a whole tar"),
        (b"\0" * 700, "second end-of-archive"),
    ],
)
def test_what_is_no_tar(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "s.tar").write_bytes(content)
    with pytest.raises(ShardError, match=reason):
        read(tmp_path / "s.tar")


def test_an_archive_without_members_is_whole(tmp_path: Path) -> None:
    assert read(write_tar(tmp_path / "s.tar", [])) == []


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_compressed_tars_have_no_offsets_and_break_off_loudly(tmp_path: Path, compress) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "s.tar.gz"
    path.write_bytes(compress(tar_bytes(MEMBERS)))
    assert [(m.name, m.offset, m.data) for m in read(path)] == [(n, None, d) for n, d in MEMBERS]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ShardError, match="is not a whole tar"):
        read(path)


def test_links_devices_and_folders(tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, kind in (("d", tarfile.DIRTYPE), ("l.jpg", tarfile.SYMTYPE), ("f.jpg", tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    (tmp_path / "s.tar").write_bytes(out.getvalue())
    assert [(m.name, m.data) for m in read(tmp_path / "s.tar")] == [("l.jpg", None), ("f.jpg", None)]


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names(tmp_path: Path, form: int) -> None:
    names = ["x" * 255 + ".jpg", "Zürich/人.jpg", "\udcff.jpg"]
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for name in names:
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    (tmp_path / "s.tar").write_bytes(out.getvalue())
    found = [m.name for m in read(tmp_path / "s.tar")]
    assert found[:2] == names[:2]
    found[2].encode()  # whatever it was, it is text that can be stored


def test_pipes_and_their_failures(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "s.tar", MEMBERS)
    (shard,) = expand_shards([f"pipe:cat {path}"])
    with TarReader(shard) as tar:
        assert [(m.name, m.data) for m in tar] == MEMBERS
    (shard,) = expand_shards([f"pipe:cat {path}; exit 3"])
    with (
        pytest.raises(ShardError, match=r"s: pipe:cat .* the command failed with exit status 3"),
        TarReader(shard) as tar,
    ):
        list(tar)
    (shard,) = expand_shards([f"pipe:nothing-of-this-name {path} 2>/dev/null"])
    with pytest.raises(ShardError, match="the command failed with exit status 127"), TarReader(shard) as tar:
        list(tar)


def test_a_command_is_stopped_where_it_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "s.tar", MEMBERS)
    (shard,) = expand_shards([f"pipe:cat {path}; echo $$ > {tmp_path}/pid; exec sleep 60"])
    started = time.monotonic()
    with TarReader(shard) as tar:
        assert next(iter(tar)).name == "a.jpg"
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            time.sleep(0.01)
        pid = int((tmp_path / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert time.monotonic() - started < 30


def test_a_file_that_is_gone_is_that_shards_error(tmp_path: Path) -> None:
    shard = Shard(name="s-0", url=str(tmp_path / "gone.tar"), size=1)
    with pytest.raises(ShardError, match=r"^s-0: cannot open .*gone\.tar: No such file"), TarReader(shard) as tar:
        list(tar)


def test_the_whole_tar_is_hashed_while_it_is_read(tmp_path: Path) -> None:
    plain = write_tar(tmp_path / "s.tar", [*MEMBERS, ("big.jpg", bytes(range(256)) * 2000)])
    packed = tmp_path / "s.tar.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    for path in (plain, packed):
        data = path.read_bytes()
        with TarReader(shard_of(path)) as tar:
            next(iter(tar))
            assert tar.whole is None
        with TarReader(shard_of(path)) as tar:
            list(tar)
        assert tar.whole is not None and tar.whole.sha256 == hashlib.sha256(data).hexdigest()
        assert (tar.whole.size, tar.whole.modified_ns) == (len(data), path.stat().st_mtime_ns)
    data, middle = plain.read_bytes(), plain.stat().st_size // 2 - (1 << 15)
    parts = data[: 1 << 16] + data[middle : middle + (1 << 16)] + data[-(1 << 16) :]
    assert parts_sha256(plain, len(data)) == hashlib.sha256(parts).hexdigest()


def test_a_long_tail_of_zeros_is_a_copy_that_broke_off(tmp_path: Path) -> None:
    many: list[Pair] = [(f"{n}.jpg", b"x" * 700) for n in range(40)]
    whole = tar_bytes(many)
    path = tmp_path / "s.tar"
    cut = 10 * 1536  # ten members of a header and two blocks each
    path.write_bytes(whole[:cut] + bytes(len(whole) - cut))
    with pytest.raises(ShardError, match=r"s-0: .* ends in [\d,]+ bytes of zeros, more than a record's 10,240"):
        read(path)
    path.write_bytes(gzip.compress(whole[:cut] + bytes(len(whole) - cut)))
    with pytest.raises(ShardError, match="bytes of zeros"):
        read(path)


@pytest.mark.parametrize("blocks", range(1, 42))
def test_the_padding_of_every_archive_is_allowed(tmp_path: Path, blocks: int) -> None:
    """Python's and GNU's own: whatever is left of the last record, at most 20 blocks and the end's two."""
    path = write_tar(tmp_path / "s.tar", [("a.jpg", b"x" * 512 * blocks)])
    assert path.stat().st_size % 10240 == 0 and len(read(path)) == 1
    subprocess.run(["tar", "cf", "t.tar", "s.tar"], cwd=tmp_path, check=True)
    assert len(read(tmp_path / "t.tar")) == 1


def listed(folder: Path, entry: object) -> None:
    (folder / "shards.json").write_text(json.dumps({"shards": [entry]}))


def test_a_tar_must_be_what_shards_json_lists(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "s.tar", MEMBERS)  # two images
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    for entry in ({"images": 2}, {"images": 2, "sha256": sha256}, {"images": 1}, {}):
        listed(tmp_path, {"file": "s.tar", **entry})
        assert len(read(path)) == 3
    listed(tmp_path, {"file": "s.tar", "images": 3})
    with pytest.raises(ShardError, match=r"it has 2 images and .*shards\.json lists 3"):
        read(path)
    listed(tmp_path, {"file": "s.tar", "images": 2, "sha256": "0" * 64})
    with pytest.raises(ShardError, match=r"other bytes than .*shards\.json lists \(SHA-256 differs\): it was damaged"):
        read(path)
    listed(tmp_path, {"file": "other.tar", "images": 9})
    assert len(read(path)) == 3
    for damaged in (b"[]", b"{", b'{"shards": [1]}', b'{"shards": 5}', b"\xff", b"[" * 99999):
        (tmp_path / "shards.json").write_bytes(damaged)
        assert len(read(path)) == 3


def test_a_tar_that_is_written_while_it_is_read(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "s.tar", MEMBERS)
    with pytest.raises(ShardError, match="was written while it was read; try again"), TarReader(shard_of(path)) as tar:
        for _ in tar:
            os.utime(path, ns=(1, 1))
