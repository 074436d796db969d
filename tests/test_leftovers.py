"""What killed processes leave, swept by the next; and file systems and users as they are."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jobs import leftovers
from jobs.atomic import exclusive, make_folder, sync_folder, write_once, write_whole
from jobs.errors import UserError
from jobs.leftovers import in_use, remove_leftovers, scratch_folder
from jobs.system_errors import naming, reason_of

HOLD_FOLDER = """
import sys, time
from pathlib import Path
from jobs.leftovers import scratch_folder
with scratch_folder(Path(sys.argv[1]), "sort") as folder:
    (folder / "spilled").write_bytes(b"x" * 1000)
    print(folder, flush=True)
    time.sleep(60)
"""


def hold_folder(parent: Path) -> tuple[subprocess.Popen[str], Path]:
    """A process that uses a temporary folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD_FOLDER, str(parent)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fail(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, code: int) -> None:
    def refuse(*args: object, **_: object) -> None:
        raise OSError(code, os.strerror(code), *[str(args[0])][: isinstance(args[0], (str, Path))])

    monkeypatch.setattr(module, name, refuse)


def test_the_folder_of_a_killed_process_is_swept_and_that_of_a_live_one_is_not(tmp_path: Path) -> None:
    dead, _ = hold_folder(tmp_path)
    living, used = hold_folder(tmp_path)
    try:
        dead.send_signal(signal.SIGKILL)
        dead.wait()
        assert len(names(tmp_path)) == 4  # two folders, each with the file of its owner
        with scratch_folder(tmp_path, "sort") as folder:
            assert folder.is_dir() and used.is_dir() and (used / "spilled").exists()
            assert len(names(tmp_path)) == 4 and len(in_use(tmp_path)) == 2
        assert names(tmp_path) == sorted([used.name, used.name.removesuffix(".d")])
    finally:
        living.kill()
        living.wait()
    make_folder(tmp_path)
    assert names(tmp_path) == []


def test_files_of_other_programs_are_left_alone(tmp_path: Path) -> None:
    for name in (".notes.tmp", ".a.b.tmp", ".x.host.12.nothex.tmp"):
        (tmp_path / name).touch()
    assert remove_leftovers(tmp_path) == [] and len(names(tmp_path)) == 3


def test_what_cannot_be_removed_is_said_and_is_not_a_live_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    left = tmp_path / ".s.h5.host.12.0123abcd.tmp"
    left.touch()
    fail(monkeypatch, Path, "unlink", errno.EPERM)  # another user's, in a folder with the sticky bit
    with caplog.at_level(logging.WARNING):
        make_folder(tmp_path)
    assert caplog.messages == [f"cannot remove {left}, left by an attempt that died: Operation not permitted"]
    assert in_use(tmp_path) == []


def test_without_hard_links_one_of_two_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for code in (errno.EPERM, errno.ENOTSUP):
        fail(monkeypatch, os, "link", code)
        final = tmp_path / f"{code}.json"
        assert write_once(final, b"1") and not write_once(final, b"2")
        assert final.read_bytes() == b"1"
    assert not [name for name in names(tmp_path) if name.startswith(".")]


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EBADF])
def test_without_locks_files_are_written_and_only_old_leftovers_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    old, new = tmp_path / ".a.host.1.0123abcd.tmp", tmp_path / ".a.host.2.0123abcd.tmp"
    for path in (old, new):
        path.touch()
    os.utime(old, (1e9, 1e9))
    fail(monkeypatch, fcntl, "flock", code)
    with exclusive(tmp_path / "lock"):
        write_whole(tmp_path / "file", b"x")
    assert remove_leftovers(tmp_path) == [old]
    assert names(tmp_path) == sorted([new.name, "file", "lock"])


def test_a_folder_that_cannot_be_synced_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail(monkeypatch, os, "fsync", errno.EINVAL)
    sync_folder(tmp_path)
    fail(monkeypatch, os, "fsync", errno.EIO)
    with pytest.raises(OSError, match="Input/output error") as caught:
        sync_folder(tmp_path)
    assert caught.value.filename == str(tmp_path)


def test_another_users_lock_file_that_may_only_be_read_is_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock_file, real = tmp_path / "lock", os.open
    lock_file.touch()

    def only_reading(path: Any, flags: int, *more: Any) -> int:
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, flags, *more)

    monkeypatch.setattr(os, "open", only_reading)
    with exclusive(lock_file):
        other = real(lock_file, os.O_RDONLY)
        assert not leftovers.lock(other, wait=False)
        os.close(other)


def test_an_error_without_a_name_gets_one_and_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space") as caught, naming(tmp_path / "a"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(tmp_path / "a")
    assert reason_of(caught.value).startswith("No space left on device; free some room there")
    with pytest.raises(OSError, match="twice") as caught, naming(tmp_path / "a"):
        raise OSError(errno.EEXIST, "twice", "b")
    assert caught.value.filename == "b" and reason_of(caught.value) == "File exists"


def test_no_temporary_folder_is_one_line(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match=r"cannot create a temporary folder in .*/none: No such file"),
        scratch_folder(tmp_path / "none"),
    ):
        pass
