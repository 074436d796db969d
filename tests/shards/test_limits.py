"""Samples that ask for more memory than there is: each is its own row or its shard's failure, and never the job's."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs.shards import decoding, limits, samples, tar
from jobs.shards.decoding import Decoding, DecodingFailure, decode_batch
from jobs.shards.reader import Batch, ShardEnd, ShardReader
from jobs.shards.reading import batches
from jobs.shards.samples import Sample, read_samples
from jobs.shards.tar import Member
from jobs.shards.urls import Shard
from promptsg_core.images import decode_pixels
from tests.support.shard_files import image_bytes, tar_bytes

GOOD = [("0001_c1s1_000001_00.jpg", image_bytes(1))]
LAST = [("0002_c1s1_000001_00.jpg", image_bytes(2))]
HOW = Decoding(image_size=(16, 8))


def read(path: Path, batch_size: int = 4) -> tuple[list[Sample], ShardEnd]:
    with ShardReader(image_size=(16, 8), batch_size=batch_size, workers=0) as source:
        *batches, end = source.read([Shard(name="s", url=str(path), size=None)])
    assert isinstance(end, ShardEnd)
    return [sample for batch in batches if isinstance(batch, Batch) for sample in batch.samples], end


def wide_png(width: int) -> bytes:
    """One row of black, one bit each: 100 million of them are 12 kB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, 1, 1, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(1 + (width + 7) // 8), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def test_an_image_that_is_too_wide_is_refused_by_its_header() -> None:
    picture = wide_png(100_000_000)
    assert len(picture) < 13_000
    assert decode_batch([picture], HOW).outcomes == [
        DecodingFailure("image_too_large", "100000000x1 pixels, more than 65535 on a side")
    ]
    assert decode_pixels(wide_png(20_000)).shape == (1, 20_000, 3)


def sparse_member(name: str, size: int) -> bytes:
    """A sparse member of GNU tar that claims `size` bytes and stores five."""
    info = tarfile.TarInfo(name)
    info.size, info.type = 5, tarfile.GNUTYPE_SPARSE
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"00000000000\x00" + b"00000000005\x00"
    header[483:495] = struct.pack(">BxxxQ", 0x80, size)  # base-256, for more than eleven octal digits
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\x00 " % sum(header)
    return bytes(header) + b"hello".ljust(512, b"\0")


def test_a_sparse_member_that_claims_a_terabyte_is_one_row(tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    path.write_bytes(tar_bytes(GOOD, end=False) + sparse_member("k.jpg", 1 << 40) + tar_bytes(LAST))
    found, end = read(path)
    assert end.error is None and [s.status for s in found] == ["ok", "image_too_large", "ok"]
    assert found[1].error == ("member 'k.jpg' has 1,099,511,627,776 bytes, more than the 536,870,912 that are read")


def test_a_member_that_takes_a_terabyte_of_the_tar_is_its_shard_s_failure(tmp_path: Path) -> None:
    info = tarfile.TarInfo("k.jpg")
    info.size = 1 << 40
    path = tmp_path / "s.tar"
    path.write_bytes(tar_bytes(GOOD, end=False) + info.tobuf(tarfile.GNU_FORMAT))
    with path.open("r+b") as file:  # a hole
        file.truncate(1 << 40)
    _, end = read(path)
    assert "member 'k.jpg' has 1,099,511,627,776 bytes" in str(end.error)


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_a_name_of_a_terabyte_is_its_shard_s_failure(tmp_path: Path, kind: bytes) -> None:
    info = tarfile.TarInfo("././@LongLink")
    info.size, info.type = 1 << 40, kind
    path = tmp_path / "s.tar"
    path.write_bytes(tar_bytes(GOOD, end=False) + info.tobuf(tarfile.GNU_FORMAT))
    with path.open("r+b") as file:
        file.truncate(1 << 40)
    _, end = read(path)
    assert "is not a whole tar: a header has 1,099,511,627,776 bytes" in str(end.error)


def test_a_key_of_17_million_characters_is_one_row(tmp_path: Path) -> None:
    key = "x" * 17_000_000
    path = tmp_path / "s.tar"
    path.write_bytes(tar_bytes([*GOOD, (f"{key}.json", b"{"), (f"{key}.jpg", image_bytes(3)), *LAST]))
    found, end = read(path)
    assert end.error is None and [s.status for s in found] == ["ok", "name_unsafe", "ok"]
    assert found[1].error == "the key has 17,000,000 characters, more than 4,096" and len(found[1].key) < 200


def test_an_extension_of_a_million_characters_makes_no_long_error(tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    path.write_bytes(tar_bytes([("k.json", b"{}"), (f"k.{'y' * 1_000_000}", b"?"), *LAST]))
    found, _ = read(path)
    assert found[0].status == "image_missing" and len(found[0].error or "") < 1100


@pytest.mark.parametrize("members", [[("k.jpg", bytes(8 << 20))], []])
def test_a_bomb_is_its_shard_s_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, members: list[tuple[str, bytes]]
) -> None:
    """In a member, or as zeros after the end."""
    monkeypatch.setattr(limits, "_EXPANDED_BYTES", 1 << 20)
    path = tmp_path / "s.tar.gz"
    path.write_bytes(gzip.compress(tar_bytes([*GOOD, *members]) + (b"" if members else bytes(8 << 20))))
    _, end = read(path)
    assert "it expands to more than 200 times its size, which no images do" in str(end.error)
    path.write_bytes(gzip.compress(tar_bytes([*GOOD, ("x.txt", np.random.default_rng(0).bytes(4 << 20))])))
    assert read(path)[1].error is None


def test_metadata_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s.tar"
    path.write_bytes(tar_bytes([("k.json", b"[" + b"0," * (9 << 20) + b"0]"), ("k.jpg", image_bytes(3)), *LAST]))
    found, _ = read(path)
    assert [s.status for s in found] == ["metadata_invalid", "ok"]
    assert found[0].error == "member 'k.json' has 18,874,371 bytes, more than the 16,777,216 that are read"
    monkeypatch.setattr(tar, "MAX_MEMBER_BYTES", 1 << 20)
    found, _ = read(path)
    assert [s.status for s in found] == ["metadata_invalid", "ok"]


def test_the_number_of_samples_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "MAX_SAMPLES", 2)
    path = tmp_path / "s.tar"
    path.write_bytes(tar_bytes([*GOOD, *LAST]))
    assert read(path)[1].error is None
    path.write_bytes(tar_bytes([*GOOD, *LAST, ("k.jpg", image_bytes(3))]))
    assert str(read(path)[1].error) == "s: it has more than 2 samples; pack smaller shards"


def test_a_batch_of_very_large_images_is_closed_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "MAX_BATCH_BYTES", 1000)
    path = tmp_path / "s.tar"
    path.write_bytes(tar_bytes([(f"{number}.jpg", image_bytes(number)) for number in range(5)]))
    with ShardReader(image_size=(16, 8), batch_size=4, workers=0) as source:
        items = list(source.read([Shard(name="s", url=str(path), size=None)]))
    assert [len(item.samples) for item in items if isinstance(item, Batch)] == [2, 2, 1]


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (MemoryError(), "image_too_large", "not enough memory to decode it"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "image_too_large", "not enough memory"),
        (KeyError("odd"), "image_corrupt", "KeyError: 'odd'"),
    ],
)
@pytest.mark.parametrize("step", ["decode_pixels", "resize_image"])
def test_whatever_an_image_makes_a_library_raise_is_its_row(
    monkeypatch: pytest.MonkeyPatch, step: str, error: Exception, status: str, words: str
) -> None:
    calls: Iterator[int] = iter(range(9))
    real = getattr(decoding, step)

    def fail_first(*words: object, **options: object) -> object:
        if next(calls) == 0:
            raise error
        return real(*words, **options)

    monkeypatch.setattr(decoding, step, fail_first)
    batch = decode_batch([image_bytes(1), image_bytes(2, (20, 30))], HOW)
    first, second = batch.outcomes
    assert isinstance(first, DecodingFailure) and first.status == status and words in first.error
    assert not isinstance(second, DecodingFailure) and len(batch.images) == 1


def test_whatever_reading_a_sample_raises_is_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(key: str) -> None:
        if key == "a":
            raise MemoryError

    monkeypatch.setattr(samples, "parse_key", fail)
    members = [Member(name=f"{key}.jpg", offset=0, data=image_bytes(1)) for key in "ab"]
    (first, data), (second, _) = read_samples(members, "s")
    assert (first.status, first.error, data) == (
        "metadata_invalid",
        "reading it failed: MemoryError: MemoryError",
        None,
    )
    assert second.status == "ok"


def test_sixteen_bits_take_little_memory_and_the_same_pixels() -> None:
    grey = np.random.default_rng(0).integers(0, 65536, (1500, 1000), dtype=np.uint16)
    out = io.BytesIO()
    Image.fromarray(grey).save(out, "PNG", compress_level=0)
    tracemalloc.start()
    pixels = decode_pixels(out.getvalue())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (pixels == ((grey.astype(np.int64) * 255 + 32767) // 65535)[..., None]).all() and pixels.dtype == np.uint8
    assert peak < 12 * grey.size  # bytes; all at once they were 35 to a pixel
