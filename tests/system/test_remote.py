"""Shards on a server: mined and rendered over HTTP, with byte ranges and without, and every error as one line."""

from __future__ import annotations

import gzip
import hashlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner, Result

from jobs.cli import main
from jobs.errors import ShardError, UserError
from jobs.runs.run import open_run
from jobs.shards import locate, remote
from jobs.shards.tar import TarReader
from jobs.shards.urls import Shard, expand_shards
from tests.support.http_files import FileServer, serving
from tests.support.shard_files import market_shard, write_tar
from tests.support.tiny import tiny_checkpoint

COUNTS = {"query-0": 12, "gallery-0": 8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint m.pth, and two shards in tars/."""
    folder = tmp_path_factory.mktemp("remote")
    tiny_checkpoint(folder / "m.pth", image_size=(64, 32))
    for number, (name, count) in enumerate(COUNTS.items()):
        market_shard(folder / f"tars/{name}.tar", count, first=100 * number)
    return folder


@pytest.fixture
def server(folder: Path) -> Iterator[FileServer]:
    with serving(folder / "tars") as files:
        yield files


def promptsg(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def mine(folder: Path, output: Path, *words: object) -> Result:
    options = ("--checkpoint", folder / "m.pth", "--device", "cpu", "--precision", "fp32", "--workers", 0)
    return promptsg("mine", *options, "--output", output, "--maps", "mim_attention", *words)


@pytest.fixture(scope="module")
def mined_here(folder: Path) -> Path:
    """A run of the shards as local files."""
    assert mine(folder, folder / "LOCAL", "--shards", folder / "tars/*.tar").exit_code == 0
    return folder / "LOCAL"


def digests(folder: Path, pattern: str) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob(pattern))}


def test_mines_and_renders_over_http(folder: Path, mined_here: Path, server: FileServer, tmp_path: Path) -> None:
    result = mine(folder, tmp_path / "RUN", "--shards", f"{server.address}/{{query,gallery}}-0.tar")
    assert result.exit_code == 0, result.output
    assert "20 images in 2 shards" in result.output
    here, there = (open_run(run).metadata().to_table() for run in (mined_here, tmp_path / "RUN"))
    assert there.equals(here)
    for name in COUNTS:  # the files differ, since they name their run
        with h5py.File(mined_here / f"maps/{name}.h5") as one, h5py.File(tmp_path / f"RUN/maps/{name}.h5") as other:
            np.testing.assert_array_equal(other["maps/mim_attention"][:], one["maps/mim_attention"][:])
    assert sorted(server.whole) == ["gallery-0.tar", "query-0.tar"]  # each was downloaded once

    server.whole.clear()
    server.ranges.clear()
    where = ("--where", "split = 'query' AND camid < 2")
    for run in (mined_here, tmp_path / "RUN"):
        words = (*where, "--allow-remote", "--output", tmp_path / run.name)
        assert promptsg("render", run, *words).exit_code == 0
    assert digests(tmp_path / "RUN", "*.png") == digests(tmp_path / "LOCAL", "*.png") != {}
    rows = open_run(mined_here).metadata().to_table().to_pylist()
    wanted = {
        ("query-0.tar", row["image_offset"], row["image_offset"] + row["image_size"] - 1)
        for row in rows
        if row["split"] == "query" and row["camid"] < 2
    }
    assert len(wanted) == 4 and set(server.ranges) == {*wanted, ("query-0.tar", 0, 0)}
    assert server.whole == []  # the images' own bytes, and one byte to see whether there are ranges


def test_renders_from_shards_that_moved_to_a_server(mined_here: Path, server: FileServer, tmp_path: Path) -> None:
    for name, root in (("local", ()), ("remote", ("--shards-root", f"{server.address}/"))):
        result = promptsg("gallery", mined_here, *root, "--output", tmp_path / name)
        assert result.exit_code == 0, result.output
    assert digests(tmp_path / "remote", "*.jpg") == digests(tmp_path / "local", "*.jpg") != {}
    assert {name for name, _, _ in server.ranges} == {"query-0.tar", "gallery-0.tar"}


def test_a_server_without_ranges_is_read_from_start_to_end(
    folder: Path, mined_here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(locate.logger, "warning", lambda text, *values: warnings.append(text % values))
    with serving(folder / "tars", with_ranges=False) as server:
        shards = f"{server.address}/query-0.tar"
        assert mine(folder, tmp_path / "RUN", "--shards", shards).exit_code == 0
        server.whole.clear()
        words = ("--where", "camid = 1", "--allow-remote", "--output", tmp_path / "remote")
        result = promptsg("render", tmp_path / "RUN", *words)
        assert result.exit_code == 0, result.output
        assert server.whole == ["query-0.tar"] * 2  # the first was only asked for its first byte
        assert len(warnings) == 1 and "a server without byte ranges: reading all of them to get 2 images" in warnings[0]
    where = ("--where", "camid = 1 AND split = 'query'")
    assert promptsg("render", mined_here, *where, "--output", tmp_path / "local").exit_code == 0
    assert digests(tmp_path / "remote", "*.png") == digests(tmp_path / "local", "*.png") != {}


def test_a_remote_shard_of_another_size_is_not_drawn(folder: Path, mined_here: Path, tmp_path: Path) -> None:
    write_tar(tmp_path / "tars/query-0.tar", [("x.txt", b"x" * 50_000)])
    with serving(tmp_path / "tars") as server:
        words = ("render", mined_here, "--where", "split = 'query'", "--output", tmp_path / "out")
        result = promptsg(*words, "--shards-root", server.address)
        size = (folder / "tars/query-0.tar").stat().st_size
        assert_one_line(result, f"{server.address}/query-0.tar has 61,440 bytes and had {size:,}")
        server.refuse = 403
        assert_one_line(promptsg(*words, "--shards-root", server.address), "the server answers 403 Forbidden")
        missing = promptsg(*words, "--shards-root", f"{server.address}/none")
        assert_one_line(missing, f"cannot read the shard query-0 at {server.address}/none/query-0.tar: the server")


def assert_one_line(result: Result, words: str) -> None:
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    lines = [line for line in result.stderr.splitlines() if line.startswith("promptsg: ")]
    assert len(lines) == 1 and words in lines[0], result.output


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_shards_that_cannot_be_read_are_named_and_the_others_go_on(
    folder: Path, server: FileServer, tmp_path: Path
) -> None:
    silent = f"http://127.0.0.1:{unused_port()}/train-0.tar"
    words = ("--shards", f"{server.address}/{{none,query-0}}.tar", "--shards", silent)
    result = mine(folder, tmp_path / "RUN", *words)
    assert result.exit_code == 3, result.output
    failed = [line for line in result.stderr.splitlines() if line.startswith("failed: ")]
    assert failed[0] == f"failed: none: cannot open {server.address}/none.tar: the server answers 404 Not Found"
    assert failed[1].startswith(f"failed: train-0: cannot open {silent}: Cannot connect to host 127.0.0.1")
    assert len(failed) == 2 and "12 images in 1 shard," in result.stdout


def read(url: str) -> list[str]:
    with TarReader(Shard(name="s", url=url, size=None)) as tar:
        return [member.name for member in tar]


def test_a_download_that_breaks_off_is_an_error_with_the_address(server: FileServer) -> None:
    assert len(read(f"{server.address}/query-0.tar")) == 24
    server.cut_after = 6000
    with pytest.raises(ShardError, match=rf"s: reading {server.address}/query-0\.tar broke off: .* bytes read"):
        read(f"{server.address}/query-0.tar")


def test_bytes_arrive_as_they_are_stored(folder: Path, tmp_path: Path) -> None:
    """Names with spaces and percent signs, queries, compressed tars, and a stream that is closed early."""
    tar = (folder / "tars/query-0.tar").read_bytes()
    (tmp_path / "a b%20c.tar").write_bytes(tar)
    (tmp_path / "z.tar.gz").write_bytes(gzip.compress(tar))
    with serving(tmp_path) as server:
        assert len(read(f"{server.address}/a%20b%2520c.tar?X-Sign=a%2Fb")) == 24
        assert len(read(f"{server.address}/z.tar.gz")) == 24
        with TarReader(Shard(name="s", url=f"{server.address}/z.tar.gz", size=None)) as reader:
            assert next(iter(reader)).name.endswith(".json")
    (tmp_path / "plain name.tar").write_bytes(tar)
    with serving(tmp_path) as server:
        assert len(read(f"{server.address}/plain name.tar")) == 24


def test_other_file_systems_are_read_by_the_same_opener(folder: Path) -> None:
    import fsspec

    content = (folder / "tars/query-0.tar").read_bytes()
    fsspec.filesystem("memory").pipe_file("/bucket/query-0.tar", content)
    (shard,) = expand_shards(["memory://bucket/query-0.tar"])
    assert shard.name == "query-0" and read(shard.url) == read(str(folder / "tars/query-0.tar"))
    assert read(f"file://{folder}/tars/query-0.tar") == read(shard.url)
    assert remote.describe(shard.url) == remote.FileFacts(size=len(content), has_ranges=True)
    assert remote.read_ranges(shard.url, [0, 512], [4, 515]) == [content[:4], content[512:515]]
    with pytest.raises(ShardError, match=r"s: cannot open memory://bucket/none\.tar: it does not exist"):
        read("memory://bucket/none.tar")


def test_what_is_missing_is_named_before_anything_is_read() -> None:
    with pytest.raises(UserError, match=r"htpps://h/s\.tar: the scheme 'htpps' is not known; did you mean https"):
        expand_shards(["htpps://h/s.tar"])
    code = (
        "import sys; sys.modules.update(aiohttp=None, s3fs=None)  # as if they were not installed\n"
        "from jobs.shards.urls import expand_shards\n"
        "for scheme in ('http', 'https', 's3'):\n"
        "    try: expand_shards([f'{scheme}://host/s.tar'])\n"
        "    except Exception as error: print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        f"UserError {scheme}://host/s.tar: reading {scheme} addresses needs packages that are not installed: "
        "pip install 'promptsg-attention[remote]'"
        for scheme in ("http", "https", "s3")
    ]


def test_remote_shards_are_read_without_torch(server: FileServer) -> None:
    code = (
        "import sys; from jobs.shards.tar import TarReader; from jobs.shards.urls import Shard\n"
        "from jobs.shards.locate import locate\n"
        "with TarReader(Shard(name='s', url=sys.argv[1], size=None)) as tar: print(len(list(tar)))\n"
        "print(sorted({'torch', 'webdataset'} & set(sys.modules)))"
    )
    words = [sys.executable, "-c", code, f"{server.address}/query-0.tar"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["24", "[]"]
