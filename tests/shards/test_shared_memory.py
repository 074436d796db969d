"""Little shared memory, as containers have it: the room is counted, and the pixels are the same by another way."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from jobs.shards import shared_memory
from jobs.shards.reader import Batch, ShardReader
from jobs.shards.shared_memory import has_room
from jobs.shards.urls import Shard
from tests.support.shard_files import image_bytes, market_key, number_of, sample_members, write_tar

SCRIPT = """
import subprocess, sys
from jobs.errors import UserError
from jobs.shards import reader
from jobs.shards.urls import Shard
from tests.support.shard_files import number_of
def read():
    source = reader.ShardReader(image_size=(256, 128), batch_size=4, workers=1)
    with source:
        items = [i for i in source.read([Shard(name="s", url=sys.argv[1], size=None)]) if isinstance(i, reader.Batch)]
    print(*(number_of(image.numpy()) for item in items for image in item.images))
if __name__ == "__main__":
    read()
    reader.has_room = lambda *_: True  # others fill the room after it was counted
    read()
    subprocess.run(["mount", "-o", "remount,ro", "/dev/shm"], check=True)
    try:
        read()
    except UserError as error:
        print(error)
"""


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    members = [m for n in range(24) for m in sample_members(market_key(1, n % 6, n), image_bytes(n, (128, 64)))]
    return write_tar(tmp_path_factory.mktemp("shm") / "s.tar", members)


def with_small_memory(script: Path, shard: Path) -> subprocess.CompletedProcess[str]:
    """The script where /dev/shm has one megabyte, which only this process sees."""
    if os.name != "posix" or os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("mounting a small /dev/shm needs root and unshare")
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine does not allow mount namespaces")
    words = 'mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "$@"'
    return subprocess.run(
        ["unshare", "--mount", "bash", "-c", words, "bash", sys.executable, str(script), str(shard)],
        capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip


def free(size: int) -> object:
    return lambda _: SimpleNamespace(f_bavail=size // 4096, f_frsize=4096)


def test_the_room_of_all_ranks_and_batches_is_counted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    batch = (64, 3, 256, 128)  # 6.29 MB
    monkeypatch.setattr(shared_memory.os, "statvfs", free(64 << 20))
    assert has_room(batch, 10, 8) and not caplog.records
    assert not has_room(batch, 11, 8) and not has_room(batch, 3, 1, ranks_on_node=4)
    assert caplog.records[0].getMessage() == (
        "/dev/shm has 67 MB of room and 8 decoding processes may need 69 MB: pixels go through pipes, which is slower. "
        "A larger one (--shm-size of a container), fewer --workers or a smaller --batch-size avoid that"
    )
    assert "4 decoding processes may need 75 MB" in caplog.records[1].getMessage()


def test_without_dev_shm_nothing_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_memory, "SHARED_MEMORY", "/no/such/folder")
    assert has_room((65536, 3, 999, 999), 99, 8)


def test_pixels_through_pipes_are_the_same(
    shard: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shared_memory.os, "statvfs", free(4096))
    with caplog.at_level(logging.WARNING), ShardReader(image_size=(16, 8), batch_size=5, workers=2) as source:
        items = [item for item in source.read([Shard(name="s", url=str(shard), size=None)]) if isinstance(item, Batch)]
    numbers = [number_of(image.numpy()) for item in items for image in item.images]
    assert numbers == list(range(24)) and "pixels go through pipes" in caplog.text


def test_a_memory_of_one_megabyte_and_one_that_cannot_be_written(shard: Path, tmp_path: Path) -> None:
    """Up to six batches of 393 kB wait at a time."""
    (tmp_path / "script.py").write_text(SCRIPT)
    done = with_small_memory(tmp_path / "script.py", shard)
    numbers = " ".join(str(number) for number in range(24))
    counted, uncounted, refused = done.stdout.splitlines()
    assert counted == uncounted == numbers, done.stderr
    assert (
        done.stderr.count("\n") == 1 and "/dev/shm has 1 MB of room and 1 decoding process may need 2 MB" in done.stderr
    )
    assert "they need a writable /dev/shm with a little room; mount one, or give --workers 0" in refused
