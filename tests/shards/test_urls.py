"""From patterns to the list of shards."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.errors import UserError
from jobs.shards.urls import expand_shards
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
    for patterns, message in (
        ([f"{folder}/none-*.tar"], "no file matches"),
        ([f"{folder}/c-0.tar"], r"c-0\.tar does not exist \(in its folder: a-0.tar, b-0.tar"),
        ([f"{folder}/nowhere/c.tar"], "nor does the folder"),
        ([f"{folder}/a-0.tar", f"{folder}/other/a-0.tar"], "two shards are called a-0"),
        (["pipe:cat something"], "names no .tar"),
        ([f"{folder}/b-{{0..1.tar"], "b-"),
    ):
        with pytest.raises(UserError, match=message):
            expand_shards(patterns)
