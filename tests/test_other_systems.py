"""Systems without what only Linux has, such as macOS: nothing that is missing there is needed."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from jobs.launch.drain import Drain
from jobs.mining.config import build_config
from jobs.mining.mine import mine
from jobs.processes import available_cores
from jobs.rendering.render import render
from jobs.rendering.render_config import RenderConfig
from jobs.runs.status import status
from jobs.runs.verify import verify
from promptsg_core.precision import resolve_device, resolve_precision
from tests.support.shard_files import market_shard
from tests.support.tiny import tiny_checkpoint

# What Python has on Linux and not on macOS.
ONLY_LINUX = {
    os: (
        "sched_getaffinity", "sched_setaffinity", "posix_fallocate", "posix_fadvise", "fdatasync", "copy_file_range",
        "pipe2", "memfd_create", "pidfd_open", "getrandom", "splice", "eventfd", "O_TMPFILE", "O_PATH", "O_DIRECT",
        "getxattr", "setxattr", "listxattr", "sched_getscheduler", "unshare", "setns",
    ),
    signal: ("pidfd_send_signal", "sigtimedwait", "sigwaitinfo", "SIGRTMIN", "SIGRTMAX", "SIGPOLL", "SIGPWR"),
    time: ("CLOCK_BOOTTIME",),
}  # fmt: skip


@pytest.fixture
def like_macos(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, names in ONLY_LINUX.items():
        for name in names:
            monkeypatch.delattr(module, name, raising=False)
    exists, stat, read_text = Path.exists, os.statvfs, Path.read_text

    def gone(path: object) -> bool:
        return str(path).startswith(("/proc", "/dev/shm"))

    def read(path: Path, *words: object, **options: object) -> str:
        if gone(path):
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return read_text(path, *words, **options)  # type: ignore[arg-type]

    def statvfs(path: object) -> os.statvfs_result:
        if gone(path):
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return stat(path)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "exists", lambda path, **options: not gone(path) and exists(path, **options))
    monkeypatch.setattr(Path, "read_text", read)
    monkeypatch.setattr(os, "statvfs", statvfs)


@pytest.mark.usefixtures("like_macos")
def test_a_run_is_mined_drawn_and_verified(tmp_path: Path) -> None:
    tiny_checkpoint(tmp_path / "m.pth", image_size=(64, 32))
    market_shard(tmp_path / "s.tar", 6)
    values = {"shards": str(tmp_path / "s.tar"), "checkpoint": tmp_path / "m.pth", "output": tmp_path / "RUN"}
    assert mine(build_config(None, {**values, "maps": ("mim_attention",), "workers": 1})).exit_status == 0
    assert status(tmp_path / "RUN").images == 6 and not verify(tmp_path / "RUN").problems
    drawn = render(RenderConfig(run=tmp_path / "RUN", workers=1))
    assert len(list(drawn.folder.rglob("*.png")) + list(drawn.folder.rglob("*.jpg"))) == 6


@pytest.mark.usefixtures("like_macos")
def test_cores_memory_devices_and_requests() -> None:
    from jobs.benchmark.timing import available_memory

    assert available_cores() == os.cpu_count() and available_memory() is None
    assert resolve_precision("auto", resolve_device("cpu")) == "fp32"
    with Drain() as drain:
        os.kill(os.getpid(), signal.SIGTERM)
        assert drain.requested == "SIGTERM" and drain.allows(1)
