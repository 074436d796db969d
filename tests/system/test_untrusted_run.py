"""A run from anybody is data: no command of promptsg runs a program, asks a server or leaves the folders for it."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from jobs.cli import main
from jobs.errors import UserError
from jobs.rendering.render import RenderConfig, render
from jobs.runs.request import canonical_sha256
from jobs.runs.run import open_run
from jobs.shards.access import ShardAccess
from jobs.shards.tar import TarReader
from jobs.shards.urls import Shard
from tests.support.http_files import FileServer, serving
from tests.support.shard_files import market_shard
from tests.support.tiny import tiny_checkpoint

REOPENING = ("render", "gallery", "faithfulness")
COMMANDS = ("status", "verify", "verify --tars", "finalize", "stats", "evaluate", "mine", *REOPENING)


def signed(content: dict[str, Any]) -> dict[str, Any]:
    """The content of a run.json with a hash that fits: whoever made it up can write that too."""
    rest = {name: value for name, value in content.items() if name != "sha256"}
    return {**rest, "sha256": canonical_sha256(rest)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint m.pth, two shards in tars/, and RUN over them."""
    folder = tmp_path_factory.mktemp("untrusted")
    tiny_checkpoint(folder / "m.pth", image_size=(64, 32))
    for number, (name, count) in enumerate((("query-0", 6), ("gallery-0", 8))):
        market_shard(folder / f"tars/{name}.tar", count, first=100 * number)
    done = promptsg("mine", "RUN", folder, folder / "RUN")
    assert done.exit_code == 0, done.output
    return folder


@pytest.fixture
def server(folder: Path) -> Iterator[FileServer]:
    with serving(folder / "tars") as files:
        yield files


def promptsg(command: str, name: str, folder: Path, run: Path, *words: object) -> Result:
    """Runs a command on `run`, with the options that it needs; `name` is for its output."""
    output = run.parent / f"{name}-{command.split()[0]}"
    mined = ("--checkpoint", folder / "m.pth", "--device", "cpu", "--precision", "fp32")
    options: dict[str, tuple[object, ...]] = {
        "mine": (*mined, "--shards", folder / "tars/*.tar", "--workers", 0, "--maps", "mim_attention", "--output", run),
        "render": (run, "--output", output),
        "gallery": (run, "--output", output),
        "faithfulness": (
            run,
            *mined,
            "--limit",
            4,
            "--steps",
            2,
            "--resamples",
            100,
            "--no-sanity",
            "--output",
            output,
        ),
    }
    arguments = [*command.split(), *options.get(command, (run,)), *words]
    return CliRunner().invoke(main, [str(word) for word in arguments])


def tampered(folder: Path, copy: Path, *urls: str) -> Path:
    """A copy of RUN whose run.json names these addresses for gallery-0 and query-0."""
    shutil.copytree(folder / "RUN", copy)
    content = json.loads((copy / "run.json").read_text())
    for shard, url in zip(content["shards"], urls, strict=True):
        shard["url"] = url
    (copy / "run.json").write_text(json.dumps(signed(content)))
    return copy


def assert_one_line(result: Result, text: str) -> None:
    """After the lines of the log there is one of the error."""
    errors = [line for line in result.output.splitlines() if not re.match(r"\d\d:\d\d:\d\d ", line)]
    assert result.exit_code == 1 and len(errors) == 1 and text in errors[0], result.output


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_in_run_json_is_never_run(folder: Path, tmp_path: Path, command: str) -> None:
    proof = tmp_path / "PWNED"
    run = tampered(
        folder, tmp_path / "RUN", f"pipe:touch {proof}; cat gallery-0.tar", f"pipe:touch {proof} query-0.tar"
    )
    result = promptsg(command, "out", folder, run)
    assert not proof.exists()
    if command in REOPENING:
        assert_one_line(result, "a command in run.json is run only with --allow-pipes")
        assert f"pipe:touch {proof}" in result.output
    else:
        assert result.exit_code == 0, result.output


def test_commands_are_run_on_request(folder: Path, tmp_path: Path) -> None:
    proof, tars = tmp_path / "ran", folder / "tars"
    urls = [f"pipe:touch {proof}; cat {tars}/{name}.tar" for name in ("gallery-0", "query-0")]
    run = tampered(folder, tmp_path / "RUN", *urls)
    assert_one_line(promptsg("render", "no", folder, run, "--allow-remote"), "--allow-pipes")
    assert not proof.exists()
    assert promptsg("render", "root", folder, run, "--shards-root", tars).exit_code == 0
    assert not proof.exists()
    assert promptsg("render", "yes", folder, run, "--allow-pipes").exit_code == 0
    assert proof.exists()
    assert (
        len(list((tmp_path / "yes-render").glob("*.png"))) == len(list((tmp_path / "root-render").glob("*.png"))) == 14
    )
    refused = promptsg("render", "words", folder, run, "--shards-root", "pipe:cat")
    assert_one_line(refused, "--shards-root is a folder or an address, not a command")


@pytest.mark.parametrize("command", COMMANDS)
def test_an_address_in_run_json_is_never_asked(folder: Path, tmp_path: Path, server: FileServer, command: str) -> None:
    secret = server.address.replace("http://", "http://user:secret@")
    run = tampered(folder, tmp_path / "RUN", f"{server.address}/gallery-0.tar", f"{secret}/query-0.tar")
    result = promptsg(command, "out", folder, run)
    assert (server.whole, server.ranges) == ([], [])
    if command in REOPENING:
        assert_one_line(result, f"came from {server.address}: an address in run.json is read only with --allow-remote")
        assert "secret" not in result.output
    else:
        assert result.exit_code == 0, result.output


def test_addresses_are_read_on_request_or_below_the_root(folder: Path, tmp_path: Path, server: FileServer) -> None:
    run = tampered(folder, tmp_path / "RUN", *(f"{server.address}/{name}-0.tar" for name in ("gallery", "query")))
    for name, words in (("asked", ["--allow-remote"]), ("root", ["--shards-root", server.address])):
        server.ranges.clear()
        assert promptsg("render", name, folder, run, *words).exit_code == 0
        assert len(server.ranges) == 14 + 2  # the images, and a byte of each shard
    images = [
        sorted(path.read_bytes() for path in (tmp_path / f"{name}-render").glob("*.png")) for name in ("asked", "root")
    ]
    assert images[0] == images[1] and len(images[0]) == 14
    chained = tampered(folder, tmp_path / "CHAIN", *(f"filecache::{server.address}/{x}-0.tar" for x in "ab"))
    assert_one_line(
        promptsg("render", "chain", folder, chained, "--allow-remote"), "an address in run.json that is none"
    )


@pytest.mark.parametrize("command", ["render", "gallery", "verify --tars", "status"])
def test_what_never_ends_is_not_read(folder: Path, tmp_path: Path, command: str) -> None:
    os.mkfifo(tmp_path / "fifo.tar")
    run = tampered(folder, tmp_path / "RUN", str(tmp_path / "fifo.tar"), "/dev/zero")
    result = promptsg(command, "out", folder, run)
    if command in REOPENING:
        assert_one_line(result, f"is not a file: {tmp_path}/fifo.tar")
    else:
        assert result.exit_code == 0, result.output


def test_local_files_are_read_as_tars_only(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("private\n" * 2000)
    run = tampered(folder, tmp_path / "RUN", str(tmp_path / "notes.txt"), str(tmp_path / "a\0b"))
    result = promptsg("render", "one", folder, run, "--where", "shard = 'gallery-0'")
    assert_one_line(result, "the shard gallery-0 has changed since it was mined")
    assert "private" not in result.output
    assert_one_line(promptsg("render", "two", folder, run, "--where", "shard = 'query-0'"), r"a path that is none: ")


@pytest.mark.parametrize("name", ["../../outside", "a/b", ".hidden", "", "a\0b", "x" * 300])
def test_names_do_not_lead_out_of_the_run(folder: Path, tmp_path: Path, name: str) -> None:
    run = tmp_path / "RUN"
    shutil.copytree(folder / "RUN", run)
    content = json.loads((run / "run.json").read_text())
    content["shards"][0]["name"] = name
    (run / "run.json").write_text(json.dumps(signed(content)))
    with pytest.raises(UserError, match=r"run.json: shards.0.name: .*cannot be the name of a shard's files"):
        open_run(run)
    opened = open_run(folder / "RUN")
    for read in (opened.read_keys, opened.read_features):
        with pytest.raises(UserError, match="cannot be the name of its files"):
            read(name)


def test_rows_do_not_lead_out_of_the_run(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "RUN"
    shutil.copytree(folder / "RUN", run)
    path = run / "metadata/gallery-0.parquet"
    table = pq.read_table(path)
    for name, problem in (("../../x", "cannot be the name of its files"), ("other", "is not done in")):
        names = pa.array([name] * len(table), pa.string())
        pq.write_table(table.set_column(0, table.schema.field("shard"), names), path)
        result = promptsg("render", "out", folder, run, "--where", "split = 'gallery'", "--style", "overlay")
        assert_one_line(result, problem)
    rows = table.set_column(
        table.schema.get_field_index("image_offset"), table.schema.field("image_offset"), pa.array([-5] * len(table))
    )
    pq.write_table(rows, path)
    result = promptsg("render", "place", folder, run, "--where", "split = 'gallery'")
    assert_one_line(result, "no image can be")


def test_nothing_opens_a_recorded_address_past_the_rule(tmp_path: Path) -> None:
    """Also code that forgets to ask."""
    for url, option in (
        (f"pipe:touch {tmp_path}/PWNED a.tar", "--allow-pipes"),
        ("http://127.0.0.1:9/a.tar", "--allow-remote"),
    ):
        shard = Shard(name="a", url=url, size=None, recorded=True)
        with pytest.raises(UserError, match=option), TarReader(shard) as tar:
            list(tar)
        for access in (ShardAccess(), ShardAccess(allow_remote=url[0] == "p", allow_pipes=url[0] == "h")):
            with pytest.raises(UserError, match=option):
                access.find([shard])
        (found,) = ShardAccess(allow_remote=True, allow_pipes=True).find([shard])
        assert (found.url, found.recorded) == (url, False)
    assert not (tmp_path / "PWNED").exists()


@pytest.mark.parametrize("url", ["https://h/a/../../x.tar", "/data/..", "https://h/a/..", "../x.tar"])
def test_a_recorded_address_does_not_lead_out_of_the_root(tmp_path: Path, url: str) -> None:
    shard = Shard(name="s", url=url, size=None, recorded=True)
    for root in (str(tmp_path), "https://host/here"):
        (found,) = ShardAccess(shards_root=root).find([shard])
        assert found.url == f"{root}/s.tar"


def test_python_has_the_same_rule(folder: Path, tmp_path: Path) -> None:
    run = tampered(folder, tmp_path / "RUN", *(f"pipe:cat {folder}/tars/{x}-0.tar" for x in ("gallery", "query")))
    with pytest.raises(UserError, match="--allow-pipes"):
        render(RenderConfig(run=run, output=tmp_path / "no"))
    assert render(RenderConfig(run=run, output=tmp_path / "yes", allow_pipes=True)).written == 14


def test_maps_are_read_from_the_runs_own_files_only(folder: Path, tmp_path: Path) -> None:
    """HDF5 can link to other files, and take raw bytes of any file for numbers."""
    run, name = tmp_path / "RUN", "maps/mim_attention"
    shutil.copytree(folder / "RUN", run)
    path, secret = run / "maps/gallery-0.h5", tmp_path / "secret"
    secret.write_bytes(bytes(1 << 16))
    whole = path.read_bytes()

    def external_link(file: h5py.File) -> None:
        file[name] = h5py.ExternalLink(str(folder / "RUN/maps/gallery-0.h5"), name)

    def external_group(file: h5py.File) -> None:
        del file["maps"]
        file["maps"] = h5py.ExternalLink(str(folder / "RUN/maps/gallery-0.h5"), "maps")

    def external_storage(file: h5py.File) -> None:
        file.create_dataset(name, (8, 16, 8), np.float32, external=[(str(secret), 0, h5py.h5f.UNLIMITED)])

    def virtual(file: h5py.File) -> None:
        layout = h5py.VirtualLayout((8, 16, 8), np.float32)
        layout[:] = h5py.VirtualSource(str(folder / "RUN/maps/gallery-0.h5"), name, (8, 16, 8))
        file.create_virtual_dataset(name, layout)

    for damage in (external_link, external_group, external_storage, virtual):
        path.write_bytes(whole)
        with h5py.File(path, "r+") as file:
            del file[name]
            damage(file)
        for command in ("render", "gallery", "stats", "verify"):
            result = promptsg(command, damage.__name__, folder, run)
            assert result.exit_code == 1 and "Traceback" not in result.output, result.output
            if command != "verify":  # which compares the hash of the file first
                assert_one_line(result, f"{path}: {name} leads to another file")
