"""Errors of the operating system for users: which file, why, and what to do, in one line."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from jobs.phrases import one_line

_NO_RIGHT = "ask its owner for the right to do so, or name another folder"
_NO_ROOM = "free some room there, or name another folder, and give the same command again"
_REMEDIES = {
    errno.ENOSPC: _NO_ROOM,
    errno.EDQUOT: _NO_ROOM,
    errno.EIO: "the disk or the connection to it fails: give the same command again, or name another folder",
    errno.ESTALE: "the file system was away: give the same command again",
    errno.EPERM: _NO_RIGHT,
    errno.EACCES: _NO_RIGHT,
    errno.EROFS: "that file system is read-only: name another folder",
    errno.EISDIR: "a folder has the name of a file: move it away",
    errno.EMFILE: "allow more open files with `ulimit -n`",
}


def reason_of(error: OSError) -> str:
    """Why an operation on a file failed, and what to do: `No space left on device; free some room ...`."""
    reason = cause_of(error)
    return f"{reason}; {remedy}" if (remedy := _REMEDIES.get(error.errno or 0)) else reason


def cause_of(error: Exception) -> str:
    """What the system says of an operation on a file, or what any other error says, on one line."""
    # HDF5 puts the time and the numbers of its own call around what the system said.
    return os.strerror(error.errno) if isinstance(error, OSError) and error.errno else one_line(error)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Around lines that work on one file: an error of the system that leaves them has a file name, by default `path`.

    The system gives no name where the file was open already, as on a full disk.
    """
    try:
        yield
    except OSError as error:
        name_file(error, path)
        raise


def name_file(error: OSError, path: Path) -> None:
    """Writes the file's name into an error of the system that has none."""
    if error.filename is None and error.errno is not None:
        error.filename = str(path)
