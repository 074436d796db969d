"""Images by offset: the bytes of each row, from files, pipes and compressed tars, and shards that moved or changed."""

from __future__ import annotations

import gzip
import pickle
from pathlib import Path

import pytest

from jobs.errors import UserError
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
    sources = locate(shards, rows, None, tmp_path)
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
    sources = locate([shard], rows[1:], None, tmp_path / "scratch")
    (scratch,) = (tmp_path / "scratch").iterdir()
    assert scratch.read_bytes() == images["k1"] + images["k2"]
    with SourceImages(sources) as files:
        assert list(files.read([rows[2], rows[1]])) == [images["k2"], images["k1"]]


def test_a_shard_that_changed_is_named_with_what_is_there_now(tmp_path: Path) -> None:
    made_shard(tmp_path / "s.tar", 0)
    (shard,) = expand_shards([str(tmp_path / "s.tar")])
    rows = rows_of(shard)
    sources = locate([shard], rows, None, tmp_path)
    path = tmp_path / "s.tar"
    whole = path.read_bytes()
    path.write_bytes(whole[: rows[2]["image_offset"]])
    with SourceImages(sources) as files, pytest.raises(UserError, match=r"'k2' in .*s\.tar, it ends \d+ bytes before"):
        list(files.read(rows))
    with pytest.raises(UserError, match=rf"has changed since it was mined: .* bytes and had {len(whole):,}"):
        locate([shard], rows, None, tmp_path)
    with pytest.raises(UserError, match=r"k0.*the image there is 16x8 pixels and was 16x99"):
        check_header(sources["s"], {**rows[0], "height": 99}, image_bytes(0, (8, 16)))
    with pytest.raises(UserError, match=r"the bytes there are not an image \(no image format that is known here\)"):
        check_header(sources["s"], rows[0], b"hello")
    path.unlink()
    with pytest.raises(UserError, match=r"the shard s does not exist: .*s\.tar; give the folder .* --shards-root"):
        locate([shard], rows, None, tmp_path)


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
