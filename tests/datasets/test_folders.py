"""Links: to folders they are followed, to files elsewhere only on request, and loops are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.datasets.folders import files_below, links_out
from jobs.datasets.packing import ShardConfig, pack
from jobs.errors import UserError
from tests.support.shard_files import image_bytes

PATTERN = r"(?P<split>\w+)/(?P<pid>\d+)_c(?P<camid>\d)\.jpg"


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """Two splits elsewhere, three images each."""
    for split in ("query", "test"):
        (tmp_path / "storage" / split).mkdir(parents=True)
        for pid in range(3):
            (tmp_path / "storage" / split / f"{pid:04d}_c1.jpg").write_bytes(image_bytes(pid))
    return tmp_path / "storage"


def test_splits_that_are_links_to_folders(storage: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "query").symlink_to(storage / "query")
    (data / "gallery").symlink_to(storage / "test")
    report = pack(ShardConfig(source=data, dest=tmp_path / "out", pattern=PATTERN))
    assert [(split.split, split.images) for split in report.splits] == [("gallery", 3), ("query", 3)]
    assert report.links_out == ()


def test_known_layouts_follow_links_to_their_folders_and_name_a_broken_one(storage: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for name in ("bounding_box_train", "query", "bounding_box_test"):
        real = storage / f"real_{name}"
        real.mkdir()
        (real / "0001_c1s1_000001_00.jpg").write_bytes(image_bytes(1))
        (data / name).symlink_to(real)
    assert pack(ShardConfig(source=data, dest=tmp_path / "out")).images == 3
    (data / "query").unlink()
    (data / "query").symlink_to("nowhere")
    with pytest.raises(UserError, match="query is a link to nowhere, which is not a folder"):
        pack(ShardConfig(source=data, dest=tmp_path / "out"))


@pytest.mark.parametrize("target", ["..", ".", "self"])
def test_a_loop_of_links_is_one_line(tmp_path: Path, target: str) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "self").symlink_to(target)
    with pytest.raises(UserError, match=r"^a loop of links: .*/a/b/self leads to [^\n]*; remove this link$"):
        list(files_below(tmp_path))


def test_two_links_to_one_folder_are_no_loop(tmp_path: Path) -> None:
    (tmp_path / "z").mkdir()
    (tmp_path / "z" / "1.jpg").touch()
    for name in ("a", "b"):
        (tmp_path / name).symlink_to("z")
    assert [path.relative_to(tmp_path).as_posix() for path in files_below(tmp_path)] == [
        "a/1.jpg",
        "b/1.jpg",
        "z/1.jpg",
    ]


def test_a_link_to_an_image_elsewhere_is_packed_only_on_request(storage: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "query").mkdir(parents=True)
    (data / "query" / "0007_c1.jpg").write_bytes(image_bytes(7))
    (data / "query" / "0008_c1.jpg").symlink_to("0007_c1.jpg")  # within the data set
    (data / "query" / "0009_c1.jpg").symlink_to(storage / "query" / "0000_c1.jpg")
    (data / "query" / "0010_c1.jpg").symlink_to("nowhere.jpg")
    (data / "test").symlink_to(storage / "test")
    (storage / "test" / "0011_c1.jpg").symlink_to("0000_c1.jpg")  # within a folder that was put in
    (storage / "test" / "0012_c1.jpg").symlink_to(storage / "query" / "0000_c1.jpg")
    report = pack(ShardConfig(source=data, dest=tmp_path / "out", pattern=PATTERN))
    assert [(split.split, split.images) for split in report.splits] == [("query", 2), ("test", 4)]
    assert [path.name for path in report.links_out] == ["0009_c1.jpg", "0012_c1.jpg"]
    assert [path.name for path in report.missing] == ["0010_c1.jpg"]
    report = pack(ShardConfig(source=data, dest=tmp_path / "all", pattern=PATTERN, follow_links=True))
    assert report.images == 8 and report.links_out == ()


def test_a_data_set_of_links_alone(storage: Path, tmp_path: Path) -> None:
    (tmp_path / "data" / "query").mkdir(parents=True)
    (tmp_path / "data" / "query" / "0001_c1.jpg").symlink_to(storage / "query" / "0001_c1.jpg")
    with pytest.raises(UserError, match=r"each of 1 image is a link that leads out of .*; --follow-links packs"):
        pack(ShardConfig(source=tmp_path / "data", dest=tmp_path / "out", pattern=PATTERN))
    assert links_out([storage / "query" / "0001_c1.jpg"], storage) == []
