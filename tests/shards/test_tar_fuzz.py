"""Damaged tars against Python's own tarfile and against shards.json: what is read as whole is what is there."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from jobs.datasets.shard_plan import PLAN
from jobs.errors import ShardError
from jobs.image_names import is_image
from jobs.shards.tar import TarReader, text_of
from jobs.shards.urls import Shard

CASES, MANY_CASES = 200, 40_000
SECONDS_OF_ONE = 5.0
FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
NAMES = ("{}.jpg", "{}.json", "{}.png", "folder/{}.jpg", "{}.rgb.jpg", "{}.txt", "é{}.jpg")
LONG_NAME = "n" * 120 + "{}.jpg"  # it needs a header of its own
INTERESTING = (b"\0", b"\xff", b"0", b"7", b"L", b"x", b"5", b"2", b"\x80", b" ")


@dataclass
class Outcomes:
    """How many cases ended in which way."""

    whole: int = 0
    refused: int = 0


def random_tar(rng: random.Random) -> bytes:
    """A tar of up to eight members as packers write them: files of every length, long names, links, folders."""
    out = io.BytesIO()
    form = rng.choice(FORMATS)
    names = NAMES if form == tarfile.USTAR_FORMAT else (*NAMES, LONG_NAME)
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for number in range(rng.randrange(9)):
            info = tarfile.TarInfo(rng.choice(names).format(number))
            info.mtime = rng.choice((0, 1_700_000_000, 1_700_000_000.5))  # a fraction needs a header of its own
            info.size = rng.choice((0, 1, 511, 512, 513, rng.randrange(3000)))
            data = rng.randbytes(info.size)
            if rng.random() < 0.1:
                info.type, info.linkname, info.size = rng.choice((tarfile.SYMTYPE, tarfile.DIRTYPE)), "other", 0
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def damage(rng: random.Random, whole: bytes) -> bytes:
    """The bytes after one to three accidents: flips, cuts, zeros, lost, doubled and exchanged parts."""
    data = bytearray(whole)
    for _ in range(rng.randint(1, 3)):
        at, length = rng.randrange(len(data) + 1), rng.choice((1, 8, 100, 512, 1024, rng.randrange(4000)))
        if rng.random() < 0.5:  # most of a small tar is padding; blocks are where headers are
            at, length = at // 512 * 512, -(-length // 512) * 512
        kind = rng.randrange(7)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del data[at:]
        elif kind == 2:
            data[at : at + length] = bytes(len(data[at : at + length]))
        elif kind == 3:
            del data[at : at + length]
        elif kind == 4:
            data[at:at] = data[at : at + length]
        elif kind == 5:
            data[at : at + 1] = rng.choice(INTERESTING)
        else:
            data += rng.choice((bytes(512), bytes(20_480), data[:1024], b"x"))
    return bytes(data)


def read(path: Path) -> list[tuple[str, int | None, bytes | None]] | None:
    """(name, offset, data) of the members of a tar that is whole; None for one that is refused."""
    with TarReader(Shard(name="s", url=str(path), size=path.stat().st_size)) as tar:
        try:
            return [(member.name, member.offset, member.data) for member in tar]
        except ShardError as error:
            assert str(error).startswith("s: ") and "\n" not in str(error)
            return None


def read_by_tarfile(data: bytes) -> list[tuple[str, int | None, bytes | None]]:
    """The same by tarfile, which finds the members by seeking and does not care how the archive ends."""
    found: list[tuple[str, int | None, bytes | None]] = []
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        for info in tar:
            if not info.isdir():
                file = tar.extractfile(info) if info.isreg() else None
                found.append((text_of(info.name), info.offset_data, None if file is None else file.read()))
    return found


def images_in(data: bytes) -> int:
    """The number of images that shards.json would state."""
    return sum(is_image(Path(name)) for name, _, _ in read_by_tarfile(data))


def check(rng: random.Random, folder: Path, outcomes: Outcomes) -> None:
    """One damaged tar: read alone, then beside a shards.json with the number of images, then with the hash too."""
    path, plan = folder / "s.tar", folder / PLAN
    plan.unlink(missing_ok=True)
    whole = random_tar(rng)
    path.write_bytes(whole)
    assert read(path) == read_by_tarfile(whole)

    damaged = damage(rng, whole)
    path.write_bytes(damaged)
    started = time.monotonic()
    found = read(path)
    assert time.monotonic() - started < SECONDS_OF_ONE
    if found is not None:
        assert found == read_by_tarfile(damaged)
    outcomes.whole += found is not None
    outcomes.refused += found is None

    entry: dict[str, object] = {"file": "s.tar", "images": images_in(whole)}
    plan.write_text(json.dumps({"shards": [entry]}))
    counted = read(path)
    if counted is not None:
        assert sum(is_image(Path(name)) for name, _, _ in counted) >= images_in(whole)
    entry["sha256"] = hashlib.sha256(whole).hexdigest()
    plan.write_text(json.dumps({"shards": [entry], "version": 2}))  # another size, so that it is read again
    assert (read(path) is not None) == (damaged == whole)


@pytest.mark.parametrize("cases", [CASES, pytest.param(MANY_CASES, marks=pytest.mark.slow)])
def test_what_is_read_as_whole_is_what_tarfile_finds(tmp_path: Path, cases: int) -> None:
    outcomes = Outcomes()
    for seed in range(cases):
        try:
            check(random.Random(seed), tmp_path, outcomes)
        except BaseException as error:
            error.add_note(f"seed {seed}") if hasattr(error, "add_note") else None
            raise
    print(f"{cases} damaged tars: {outcomes.whole} read as whole, {outcomes.refused} refused")
    assert outcomes.refused > cases // 3 and outcomes.whole > cases // 20  # the damage is neither fatal nor idle


@pytest.mark.parametrize("cases", [CASES // 4, pytest.param(MANY_CASES // 10, marks=pytest.mark.slow)])
def test_a_damaged_compressed_tar_is_refused(tmp_path: Path, cases: int) -> None:
    """A checksum ends a gzip stream, so no damage of its content is read as whole."""
    path = tmp_path / "s.tar.gz"
    for seed in range(cases):
        rng = random.Random(seed)
        whole = random_tar(rng)
        packed = bytearray(gzip.compress(whole, mtime=0))
        path.write_bytes(packed)
        members = [(name, data) for name, _, data in read_by_tarfile(whole)]
        assert [(name, data) for name, _, data in read(path) or ()] == members
        at = rng.randrange(len(packed))
        if rng.random() < 0.5:
            packed[at] ^= 1 << rng.randrange(8)
        else:
            del packed[at:]
        path.write_bytes(packed)
        found = read(path)
        # Some bits concern no byte of the content: the header's time, and which of two equal runs is repeated.
        assert found is None or [(name, data) for name, _, data in found] == members, f"seed {seed}"
