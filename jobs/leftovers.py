"""Temporary files and folders: made, told apart from those of dead processes, and swept when a command starts.

The process that makes a temporary file holds a lock on it until that process ends. So the leftovers of dead processes
differ from the files of live ones, also when those run on another host.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from jobs.errors import UserError
from jobs.system_errors import naming, reason_of

logger = logging.getLogger(__name__)

TEMPORARY = ".tmp"
# Only where the file system has no locks: a process that wrote nothing for so long counts as dead.
STALE_SECONDS = 6 * 3600
# What flock says where there are no locks. EBADF: NFS locks a file only for those who may write it.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF)
_OURS = re.compile(r"\..+\.\d+\.[0-9a-f]{8}\.tmp")  # no other program's files are swept
_FOLDER = ".d"  # a temporary folder has the name of its locked file, and this


def create_locked(final: Path, buffered: bool = True) -> tuple[Path, IO[bytes]]:
    """A new temporary file beside `final`, open and locked."""
    while True:
        path = _temporary_name(final)
        with naming(final):
            file = path.open("x+b", buffering=-1 if buffered else 0)
        try:
            # `remove_leftovers` of another process may have removed the file before it was locked: then start again.
            if lock(file.fileno(), wait=False) and os.fstat(file.fileno()).st_nlink:
                return path, file
        except OSError:
            _discard(path, file)
            raise
        _discard(path, file)


@contextlib.contextmanager
def scratch_folder(parent: Path | None = None, purpose: str = "promptsg") -> Iterator[Path]:
    """A folder for files that nobody needs afterwards, by default where the system has such folders.

    What killed processes left of the same kind is removed first. Raises UserError where it cannot be made.
    """
    parent = parent or Path(tempfile.gettempdir())
    remove_leftovers(parent, purpose)
    try:
        owner, file = create_locked(parent / purpose)
    except OSError as error:
        raise UserError(f"cannot create a temporary folder in {parent}: {reason_of(error)}") from error
    folder = _folder_of(owner)
    try:
        with naming(folder):
            folder.mkdir(mode=0o700)
        yield folder
    finally:
        with contextlib.suppress(OSError):  # `ignore_errors` lets one of closing a folder through
            shutil.rmtree(folder, ignore_errors=True)
        if folder.exists():
            logger.warning("cannot remove the temporary folder %s; the next command tries again", folder)
            file.close()  # the file stays beside it, so that both are found
        else:
            _discard(owner, file)


def remove_leftovers(folder: Path, of: str | None = None) -> list[Path]:
    """Removes what dead processes left in a folder, never what live ones use. Returns what was removed.

    With `of`, only what was temporary for that final name, and is this user's. What cannot be removed, as another
    user's in a folder of a group, is left, and said.
    """
    removed = []
    for path in _temporary_files(folder, of):
        with contextlib.suppress(FileNotFoundError):  # its owner has published or removed it in the meantime
            try:
                if not _remove_if_dead(path):
                    continue
            except OSError as error:
                reason = os.strerror(error.errno or 0)
                logger.warning("cannot remove %s, left by an attempt that died: %s", path, reason)
                continue
            logger.info("removed %s, left by an attempt that died", path)
            removed.append(path)
    return removed


def in_use(folder: Path) -> list[Path]:
    """The temporary files in a folder that live processes write."""
    found = []
    for path in _temporary_files(folder):
        with contextlib.suppress(FileNotFoundError), _open_any(path) as file:
            if not _is_dead(path, file):
                found.append(path)
    return found


def lock(descriptor: int, *, wait: bool) -> bool:
    """Takes the exclusive lock of an open file. Returns whether it did; also True where there are no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    return True


def _temporary_name(final: Path) -> Path:
    # The name of a shard may be long: 255 bytes are the most in most file systems, and the suffix needs room too.
    stem = final.name.encode()[:200].decode(errors="ignore")
    attempt = f"{os.uname().nodename[:24]}.{os.getpid()}.{secrets.token_hex(4)}"
    return final.with_name(f".{stem}.{attempt}{TEMPORARY}")


def _temporary_files(folder: Path, of: str | None = None) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            found = [entry for entry in entries if entry.name.endswith(TEMPORARY) and _OURS.fullmatch(entry.name)]
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []
    if of is not None:  # in /tmp there may be those of many users
        found = [entry for entry in found if entry.name.startswith(f".{of}.") and _is_own(entry)]
    return [folder / entry.name for entry in sorted(found, key=lambda entry: entry.name)]


def _is_own(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.stat(follow_symlinks=False).st_uid == os.getuid()
    except OSError:
        return False


def _folder_of(owner: Path) -> Path:
    return owner.with_name(owner.name + _FOLDER)


def _discard(path: Path, file: IO[bytes]) -> None:
    with contextlib.suppress(OSError):
        file.close()
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def _open_any(path: Path) -> IO[bytes]:
    """A file opened for writing, which locks need on some file systems; another user's for reading."""
    try:
        return path.open("r+b")
    except PermissionError:
        return path.open("rb")


def _is_dead(path: Path, file: IO[bytes]) -> bool:
    """Whether a file's owner has ended. If so, this process has the lock: no owner can take it as long as it does."""
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        # The file system's clock decides, not this host's: the two may differ, and either may jump.
        return _now_of(path.parent) - path.stat().st_mtime > STALE_SECONDS
    return True


def _remove_if_dead(path: Path) -> bool:
    """Removes a file, and the folder that belongs to it, if its owner has ended."""
    with _open_any(path) as file:
        if not _is_dead(path, file):
            return False
        if (folder := _folder_of(path)).is_dir():
            shutil.rmtree(folder)
        path.unlink()
    return True


def _now_of(folder: Path) -> float:
    """The time by the clock of the folder's file system, in seconds since 1970."""
    probe = _temporary_name(folder / "clock")
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
