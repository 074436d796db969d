"""Keys: as WebDataset reads them from a member's name, and unique within a split."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import webdataset

from jobs.datasets.keys import base_key, member_suffix
from jobs.datasets.listing import Record
from jobs.datasets.names import ParsedKey
from jobs.datasets.packing import ShardConfig, pack
from jobs.datasets.repeated_names import with_folders
from jobs.shards.samples import read_samples
from jobs.shards.tar import TarReader
from jobs.shards.urls import expand_shards
from tests.support.shard_files import image_bytes


@pytest.mark.parametrize(
    ("name", "key", "suffix"),
    [
        ("0002_c1s1_000451_03.jpg", "0002_c1s1_000451_03", ".jpg"),
        ("1488_c1s1_000123_00.jpg.jpg", "1488_c1s1_000123_00", ".jpg"),
        ("1488_c1s1_000123_00.JPG.jpeg", "1488_c1s1_000123_00", ".jpeg"),
        ("a_0.93.jpg", "a_0_93", ".jpg"),
        ("a.rgb.PNG", "a_rgb", ".png"),
        ("a.jfif", "a", ".jpg"),
        ("a.jpe", "a", ".jpg"),
        ("a.TIF", "a", ".tif"),
        (os.fsdecode(b"\xd0\xd0_1.jpg"), r"\xd0\xd0_1", ".jpg"),
        ("a\nb.jpg", r"a\nb", ".jpg"),
        ("__meta__.jpg", "_meta", ".jpg"),
        ("..jpg", "_", ".jpg"),
    ],
)
def test_the_key_of_a_file_name(name: str, key: str, suffix: str) -> None:
    assert base_key(Path("folder.jpg") / name) == key
    assert member_suffix(Path(name)) == suffix


def record(path: str, split: str) -> Record:
    return Record(path=Path("/data") / path, split=split, parsed=ParsedKey(pid=1, camid=0))


def keys(*records: tuple[str, str]) -> list[str]:
    return [one.key for one in with_folders([record(path, split) for path, split in records])]


def test_only_where_names_repeat_keys_carry_folders() -> None:
    assert keys(("a/1.jpg", "train"), ("b/2.jpg", "train")) == ["1", "2"]
    assert keys(("a/1.jpg", "train"), ("b/1.jpg", "query")) == ["1", "1"]  # splits never share a shard
    assert keys(("a/1.jpg", "train"), ("b/1.jpg", "train"), ("b/2.jpg", "train"), ("b/1.jpg", "query")) == [
        "a/1", "b/1", "b/2", "1"]  # fmt: skip


def test_keys_carry_as_many_folders_as_tell_the_images_apart_also_across_such_splits() -> None:
    sysu = [
        (f"rgb/cam{cam}/{pid:04d}/0001.jpg", "query" if cam == 1 else "gallery") for cam in (1, 2) for pid in (1, 2)
    ]
    assert keys(*sysu) == ["cam1/0001/0001", "cam1/0002/0001", "cam2/0001/0001", "cam2/0002/0001"]
    assert keys(*sysu[:2]) == ["0001/0001", "0002/0001"]
    assert keys(*reversed(sysu)) == ["cam2/0002/0001", "cam2/0001/0001", "cam1/0002/0001", "cam1/0001/0001"]


def test_folders_do_not_help_two_images_of_one_name_in_one_folder() -> None:
    assert keys(("a/1.jpg", "train"), ("a/1.png", "train"), ("b/2.jpg", "train")) == ["1", "1", "2"]


def test_webdataset_and_our_reader_read_these_keys(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for number, folder in enumerate((b"cam1/0001", b"cam1/0002.x", b"cam2/0001", b"\xd0\xd0/0001")):
        path = source / os.fsdecode(folder)
        path.mkdir(parents=True)
        (path / "0001_0.93.jpg.jpg").write_bytes(image_bytes(number))
    pattern = r"(?P<folder>.*)/(?P<pid>\d+)_.*"
    report = pack(ShardConfig(source=source, dest=tmp_path / "out", pattern=pattern, camid=3))
    wanted = [r"\xd0\xd0/0001/0001_0_93", "cam1/0001/0001_0_93", "cam1/0002.x/0001_0_93", "cam2/0001/0001_0_93"]
    dataset = webdataset.WebDataset([str(path) for path in report.shards], shardshuffle=False, empty_check=False)
    assert [(sample["__key__"], sample["jpg"]) for sample in dataset] == [
        (key, image_bytes(number)) for key, number in zip(wanted, (3, 0, 1, 2), strict=True)
    ]
    (shard,) = expand_shards([str(tmp_path / "out")])
    with TarReader(shard) as tar:
        samples = [sample for sample, _ in read_samples(tar, shard.name)]
    assert [(sample.key, sample.status, sample.pid, sample.camid) for sample in samples] == [
        (key, "ok", 1, 3) for key in wanted
    ]
