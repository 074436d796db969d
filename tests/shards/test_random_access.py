"""Images by offset: the bytes of each row, from files, pipes and compressed tars, and shards that moved or changed."""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from jobs.errors import UserError
from jobs.shards.access import ShardAccess
from jobs.shards.locate import locate
from jobs.shards.random_access import SourceImages, SourceRow, check_header
from jobs.shards.samples import read_samples
from jobs.shards.tar import TarReader
from jobs.shards.urls import Shard, expand_shards, moved_shard
from tests.support.shard_files import image_bytes, sample_members, write_tar


def made_shard(path: Path, first: int, count: int = 3) -> dict[str, bytes]:
    """Writes a shard and returns key -> image."""
    images = {f"k{n}": image_bytes(n, (8 + n % 8, 16)) for n in range(first, first + count)}
    write_tar(path, [member for key, image in images.items() for member in sample_members(key, image)])
    return images


def rows_of(shard: Shard) -> list[SourceRow]:
    """The rows of a shard, as mining writes them down."""
    with TarReader(shard) as tar:
        return [
            {
                "shard": shard.name, "key": sample.key, "tar_index": sample.tar_index,
                "image_offset": sample.image_offset, "image_size": len(data or b""),
                "width": 16, "height": 8 + int(sample.key[1:]) % 8,
            }
            for sample, data in read_samples(tar, shard.name)
        ]  # fmt: skip


def test_images_come_in_the_order_of_the_rows_over_several_shards(tmp_path: Path) -> None:
    images = made_shard(tmp_path / "a.tar", 0) | made_shard(tmp_path / "b.tar", 10)
    shards = expand_shards([str(tmp_path)])
    a, b = (rows_of(shard) for shard in shards)
    rows = [b[2], a[0], b[0], a[2]]
    sources = locate(shards, rows, ShardAccess(), tmp_path)
    assert {name: (source.is_local, source.offsets) for name, source in sources.items()} == {
        "a": (True, None), "b": (True, None)}  # fmt: skip
    with SourceImages(sources) as files:
        assert list(files.read(rows)) == [images[row["key"]] for row in rows]
        for row in rows:
            header = check_header(sources[row["shard"]], row, images[row["key"]])
            assert (header.width, header.height, header.plain) == (16, row["height"], True)
    assert list(pickle.loads(pickle.dumps(SourceImages(sources))).read(rows[:1])) == [images["k12"]]


@pytest.mark.parametrize("kind", ["pipe", "gzip"])
def test_shards_without_offsets_are_unpacked_once(tmp_path: Path, kind: str) -> None:
    images = made_shard(tmp_path / "s.tar", 0)
    if kind == "pipe":
        (shard,) = expand_shards([f"pipe:cat {tmp_path}/s.tar"])
    else:
        (tmp_path / "s.tar").write_bytes(gzip.compress((tmp_path / "s.tar").read_bytes()))
        (shard,) = expand_shards([str(tmp_path / "s.tar")])
    rows = rows_of(shard)
    (tmp_path / "scratch").mkdir()
    sources = locate([shard], rows[1:], ShardAccess(), tmp_path / "scratch")
    (scratch,) = (tmp_path / "scratch").iterdir()
    assert scratch.read_bytes() == images["k1"] + images["k2"]
    with SourceImages(sources) as files:
        assert list(files.read([rows[2], rows[1]])) == [images["k2"], images["k1"]]


def test_a_shard_that_changed_is_named_with_what_is_there_now(tmp_path: Path) -> None:
    made_shard(tmp_path / "s.tar", 0)
    (shard,) = expand_shards([str(tmp_path / "s.tar")])
    rows = rows_of(shard)
    sources = locate([shard], rows, ShardAccess(), tmp_path)
    path = tmp_path / "s.tar"
    whole = path.read_bytes()
    path.write_bytes(whole[: rows[2]["image_offset"]])
    with SourceImages(sources) as files, pytest.raises(UserError, match=r"'k2' in .*s\.tar, it ends \d+ bytes before"):
        list(files.read(rows))
    with pytest.raises(UserError, match=rf"has changed since it was mined: .* bytes and had {len(whole):,}"):
        locate([shard], rows, ShardAccess(), tmp_path)
    with pytest.raises(UserError, match=r"k0.*the image there is 16x8 pixels and was 16x99"):
        check_header(sources["s"], {**rows[0], "height": 99}, image_bytes(0, (8, 16)))
    with pytest.raises(UserError, match=r"the bytes there are not an image \(no image format that is known here\)"):
        check_header(sources["s"], rows[0], b"hello")
    path.unlink()
    with pytest.raises(UserError, match=r"the shard s does not exist: .*s\.tar; give the folder .* --shards-root"):
        locate([shard], rows, ShardAccess(), tmp_path)


@pytest.mark.parametrize(
    ("url", "root", "expected"),
    [
        ("/old/s-0.tar", None, "/old/s-0.tar"),
        ("/old/s-0.tar", "/new/", "/new/s-0.tar"),
        ("/old/s-0.tar", Path("new"), "new/s-0.tar"),
        ("/old/s-0.tar", "/", "/s-0.tar"),
        ("https://host/a/s-0.tar.gz?sign=x/y", "/new", "/new/s-0.tar.gz"),
        ("/old/s-0.tar", "s3://bucket/a", "s3://bucket/a/s-0.tar"),
        ("pipe:curl http://h/s-0.tar | cat", "/new", "/new/s-0.tar"),
    ],
)
def test_where_a_shard_is_that_moved(url: str, root: str | Path | None, expected: str) -> None:
    moved = moved_shard(Shard(name="s-0", url=url, size=7), root)
    assert moved == Shard(name="s-0", url=expected, size=7)


def test_another_image_of_the_same_size_at_the_same_place_is_never_handed_out(tmp_path: Path) -> None:
    """Two tars with the same keys, sizes and offsets: only the bytes of the images differ."""
    images = [b"\xff\xd8\xff" + bytes([n]) * 997 for n in range(2)]
    for name, order in (("s", (0, 1)), ("t", (1, 0))):
        members = [(f"k{n}.jpg", images[which]) for n, which in enumerate(order)]
        write_tar(tmp_path / f"{name}.tar", members)
    (shard,) = expand_shards([str(tmp_path / "s.tar")])
    with TarReader(shard) as tar:
        samples = [sample for sample, _ in read_samples(tar, "s")]
    rows: list[SourceRow] = [
        {
            "shard": "s", "key": sample.key, "tar_index": sample.tar_index, "image_offset": sample.image_offset,
            "image_size": 1000, "width": 8, "height": 8, "image_crc32": sample.image_crc32,
        }
        for sample in samples
    ]  # fmt: skip
    (tmp_path / "s.tar").write_bytes((tmp_path / "t.tar").read_bytes())
    sources = locate([shard], rows, ShardAccess(), tmp_path)
    with SourceImages(sources) as files, pytest.raises(UserError, match=r"s has changed .* 'k0' .* CRC-32 differs"):
        list(files.read(rows))
    old = [cast(SourceRow, {key: value for key, value in row.items() if key != "image_crc32"}) for row in rows]
    with SourceImages(sources) as files:
        assert list(files.read(old)) == images[::-1]  # runs of earlier versions cannot tell
    (tmp_path / "s.tar").write_bytes(gzip.compress((tmp_path / "t.tar").read_bytes()))
    (tmp_path / "scratch").mkdir()
    unplaced = [cast(SourceRow, {**row, "image_offset": None}) for row in rows]
    with pytest.raises(UserError, match=r"'k0' .* CRC-32 differs"):
        locate([replace(shard, size=None)], unplaced, ShardAccess(), tmp_path / "scratch")


def test_the_tar_header_before_an_image_must_bear_its_key(tmp_path: Path) -> None:
    picture = image_bytes(1)
    write_tar(tmp_path / "s.tar", [("d/a.rgb.jpg", picture), ("b.jpg", picture)])
    (shard,) = expand_shards([str(tmp_path / "s.tar")])
    with TarReader(shard) as tar:
        offsets = [member.offset for member in tar]

    def read(key: str, offset: int | None, size: int = len(picture)) -> bytes:
        row: SourceRow = {"shard": "s", "key": key, "tar_index": 0, "image_offset": offset, "image_size": size,
                          "width": 16, "height": 32}  # fmt: skip
        with SourceImages(locate([shard], [row], ShardAccess(), tmp_path)) as files:
            return next(files.read([row]))

    assert read("d/a", offsets[0]) == read("b", offsets[1]) == picture
    with pytest.raises(UserError, match=r"the tar header is of 'b\.jpg'"):
        read("d/a", offsets[1])
    with pytest.raises(UserError, match=r"the tar header is of 'b\.jpg', \d+ bytes"):
        read("b", offsets[1], len(picture) - 1)
    with pytest.raises(UserError, match="there is no tar header before it"):
        read("d/a", (offsets[0] or 0) + 8)


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_headers_of_long_and_foreign_names_are_understood(tmp_path: Path, form: int) -> None:
    names = ["x" * 99 + ".jpg", "d/" * 60 + "k.jpg"]
    names += [] if form == tarfile.USTAR_FORMAT else ["x" * 250 + ".jpg", "Zürich/人.jpg", "\udcff.jpg"]
    names = [name for name in names if form != tarfile.USTAR_FORMAT or "/" in name]
    with tarfile.open(tmp_path / "s.tar", "w", format=form) as tar:
        for number, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size = len(image_bytes(number))
            tar.addfile(info, io.BytesIO(image_bytes(number)))
    (shard,) = expand_shards([str(tmp_path / "s.tar")])
    with TarReader(shard) as reader:
        rows: list[SourceRow] = [
            {
                "shard": "s", "key": sample.key, "tar_index": sample.tar_index, "image_offset": sample.image_offset,
                "image_size": sample.image_size or 0, "width": 16, "height": 32,
            }
            for sample, _ in read_samples(reader, "s")
        ]  # fmt: skip
    with SourceImages(locate([shard], rows, ShardAccess(), tmp_path)) as files:
        assert list(files.read(rows)) == [image_bytes(number) for number in range(len(names))]
