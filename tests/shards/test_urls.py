"""From patterns to the list of shards."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.errors import UserError
from jobs.shards.samples import split_of
from jobs.shards.urls import Shard, expand_shards, moved_shard
from tests.support.shard_files import write_tar


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b-1.tar", "b-0.tar", "a-0.tar", "odd[1].tar", "note.txt"):
        write_tar(tmp_path / name, [])
    return tmp_path


def names(*patterns: str) -> list[str]:
    return [shard.name for shard in expand_shards(patterns)]


def test_every_way_to_name_shards(folder: Path) -> None:
    assert names(f"{folder}/b-*.tar") == ["b-0", "b-1"]
    assert names(f"{folder}/b-{{0..1}}.tar") == ["b-0", "b-1"]
    assert names(f"{folder}/b-1.tar::{folder}/a-0.tar") == ["a-0", "b-1"]
    assert names(str(folder)) == ["a-0", "b-0", "b-1", "odd[1]"]
    assert names(f"{folder}/odd[1].tar") == ["odd[1]"]
    assert names(f"{folder}/b-0.tar", f"{folder}/*.tar") == ["a-0", "b-0", "b-1", "odd[1]"]


def test_urls_and_pipes_are_named_after_their_tar() -> None:
    shards = expand_shards(["https://host/data/s-{00..01}.tar?sign=x", "pipe:curl -s 'http://h/q-{3}.tar.gz' | cat"])
    assert [(s.name, s.size) for s in shards] == [("q-{3}", None), ("s-00", None), ("s-01", None)]
    assert shards[1].url == "https://host/data/s-00.tar?sign=x" and not shards[1].is_local


def test_local_shards_are_absolute_and_know_their_size(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (shard,) = expand_shards(["a-0.tar"])
    assert shard.url == str(folder / "a-0.tar") and shard.size == 10240 and shard.is_local


def test_what_cannot_be_a_list(folder: Path) -> None:
    write_tar(folder / "other" / "a-0.tar", [])
    (folder / "link").symlink_to(folder)
    for patterns, message in (
        ([f"{folder}/none-*.tar"], "no file matches"),
        ([f"{folder}/c-0.tar"], r"c-0\.tar does not exist \(in its folder: a-0.tar, b-0.tar"),
        ([f"{folder}/nowhere/c.tar"], "nor does the folder"),
        ([f"pipe:cat {folder}/a-0.tar", f"pipe:cat {folder}/other/a-0.tar"], "two shards are called a-0"),
        ([f"{folder}/a-0.tar", f"{folder}/link/a-0.tar"], r"link/a-0.tar.* are the same file; list it once"),
        (["pipe:cat something"], "names no .tar"),
        ([f"{folder}/b-{{0..1.tar"], "b-"),
    ):
        with pytest.raises(UserError, match=message):
            expand_shards(patterns)


def test_tars_of_one_stem_are_named_by_their_folders(tmp_path: Path) -> None:
    for place in ("train/00000.tar", "train/00001.tar", "query/00000.tar", "gallery/7.tar"):
        write_tar(tmp_path / place, [])
    shards = expand_shards([f"{tmp_path}/{split}" for split in ("query", "train", "gallery")])
    assert [(shard.name, shard.url) for shard in shards] == [
        ("00001", f"{tmp_path}/train/00001.tar"),  # no other tar has the stem, so the name stays
        ("7", f"{tmp_path}/gallery/7.tar"),
        ("query-00000", f"{tmp_path}/query/00000.tar"),
        ("train-00000", f"{tmp_path}/train/00000.tar"),
    ]
    assert shards == expand_shards([f"{tmp_path}/*/*.tar"])
    assert [split_of(shard.name) for shard in shards] == [None, None, "query", "train"]


def test_as_many_folders_as_needed_make_a_name(tmp_path: Path) -> None:
    places = ("market/train/0.tar", "duke/train/0.tar", "duke/query/0.tar", ".hidden/x/1.tar", "b/x/1.tar", "c-1.tar")
    for place in (*places, "c/1.tar"):
        write_tar(tmp_path / place, [])
    found = names(*(f"{tmp_path}/{place}" for place in places))
    assert found == ["_hidden-x-1", "b-x-1", "c-1", "duke-query-0", "duke-train-0", "market-train-0"]
    assert [split_of(name) for name in found] == [None, None, None, "query", "train", "train"]
    # c/1.tar would be c-1, as another tar is called, so both get one folder more
    found = names(f"{tmp_path}/b/x/1.tar", f"{tmp_path}/c/1.tar", f"{tmp_path}/c-1.tar")
    assert sorted(found) == sorted(["c-1", f"{tmp_path.name}-c-1", "b-x-1"])


def test_addresses_of_one_stem_are_named_by_their_folders() -> None:
    shards = expand_shards(["https://host/data/{train,query}/0.tar?sign=a/b"])
    assert [shard.name for shard in shards] == ["query-0", "train-0"]
    assert [split_of(name) for name in ("train-000001", "Query_3", "my-train", "contest-1", "detest")] == [
        "train", "query", "train", None, None]  # fmt: skip


def test_names_with_a_colon_or_braces_are_files_where_they_exist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for place in ("cam:1.tar", "{a}/x.tar", "{b,c}/y.tar", "{open/z.tar", "a::b.tar", "d:e/w.tar"):
        write_tar(tmp_path / place, [])
    assert names("cam:1.tar") == names("cam:*.tar") == ["cam:1"]
    assert names("{a}/x.tar") == names("{a}/*.tar") == names("{a}") == ["x"]
    assert names("{b,c}/y.tar") == names("{b,c}/*.tar") == names("{b,c}") == ["y"]
    assert names("{open/z.tar") == ["z"] and names("a::b.tar") == ["a::b"] and names("d:e") == ["w"]
    assert names("cam:1.tar::{a}/x.tar") == ["cam:1", "x"]
    (shard,) = expand_shards(["cam:1.tar"])
    assert shard.is_local and shard.url == f"{tmp_path}/cam:1.tar" and shard.size == 10240
    assert moved_shard(shard, "d:e").url == f"{tmp_path}/d:e/cam:1.tar"
    with pytest.raises(UserError, match="the scheme 'cam' is not known"):
        expand_shards(["cam:2.tar"])


def test_a_shard_that_is_named_by_folders_is_found_where_it_moved(tmp_path: Path) -> None:
    shard = Shard(name="train-0", url="/old/train/0.tar", size=1)
    assert moved_shard(shard, tmp_path).url == f"{tmp_path}/train/0.tar"  # where it should be, if it is nowhere
    write_tar(tmp_path / "train-0.tar", [])
    assert moved_shard(shard, tmp_path).url == f"{tmp_path}/train-0.tar"
    for place in ("train/0.tar", "query/0.tar", "0.tar"):
        write_tar(tmp_path / place, [])
        assert moved_shard(shard, tmp_path).url == f"{tmp_path}/train/0.tar"
    assert moved_shard(shard, tmp_path / "train").url == f"{tmp_path}/train/0.tar"
    assert moved_shard(shard, tmp_path / "query").url == f"{tmp_path}/query/train/0.tar"  # never another one's file
    assert moved_shard(shard, "s3://bucket/a").url == "s3://bucket/a/train/0.tar"
    plain = Shard(name="s-3", url="/old/part/s-3.tar", size=1)
    write_tar(tmp_path / "part/s-3.tar", [])
    assert moved_shard(plain, tmp_path).url == f"{tmp_path}/part/s-3.tar"
