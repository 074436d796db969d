"""Publishing files so that a reader sees a whole file or none: temporary file, fsync, rename, fsync of the folder.

The process that writes a temporary file holds a lock on it until that process ends. So the leftovers of dead processes
differ from the files of live ones, also when those run on another host.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO

from jobs.errors import UserError

TEMPORARY = ".tmp"
# Only where the file system has no locks: a process that wrote nothing for so long counts as dead.
STALE_SECONDS = 6 * 3600
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class StagedFile:
    """A private temporary file beside `final`. Nothing has the final name before `publish`.

    Use as a context manager: leaving it removes what was not published. Without a buffer, each write goes to the file
    at once, which takes less time where there is only one.
    """

    def __init__(self, final: Path, *, buffered: bool = True) -> None:
        self.final = final
        self.path, self.file = _create_locked(final, buffered)
        self._renamed = False

    def __enter__(self) -> StagedFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()

    def sync(self) -> None:
        """Flushes to the disk. Call it before the file is checked or published."""
        self.file.flush()
        os.fsync(self.file.fileno())

    def publish(self, *, durable: bool = True) -> None:
        """Gives the synced file its final name, and replaces a file that has that name.

        Without `durable` neither the file nor its name is forced to the disk.
        """
        if not durable:
            self.file.flush()
        self.path.replace(self.final)
        self._renamed = True
        if durable:
            sync_folder(self.final.parent)
        self.file.close()

    def publish_new(self) -> bool:
        """Gives the synced file its final name if no file has it yet. Returns whether it did."""
        try:
            os.link(self.path, self.final)
        except FileExistsError:
            return False
        sync_folder(self.final.parent)
        return True

    def discard(self) -> None:
        """Removes the temporary file if it was not published."""
        with contextlib.suppress(OSError):  # closing flushes, which a full disk refuses again
            self.file.close()
        if not self._renamed:
            self.path.unlink(missing_ok=True)


def publish_together(first: StagedFile, last: StagedFile, lock_file: Path, *, replace: bool = False) -> bool:
    """Publishes two synced files, of which `last` is the commit. Returns False, and does nothing, if it exists already.

    The lock keeps two attempts at the same shard from mixing their files: the first one wins. With `replace` the old
    commit is removed first: a reader or a crash in between finds a pair without its commit, never a mixed pair.
    """
    with exclusive(lock_file):
        if last.final.exists():
            if not replace:
                return False
            last.final.unlink()
            sync_folder(last.final.parent)
        first.publish()
        last.publish()
        return True


def write_whole(final: Path, content: bytes, *, durable: bool = True) -> None:
    """Writes a small file atomically, and replaces a file that has that name.

    Without `durable` it is not forced to the disk, which can take longer than computing the content. A crash of the
    machine may then leave an empty file under the final name.
    """
    with StagedFile(final, buffered=False) as staged:
        left = memoryview(content)
        while left:  # a nearly full disk may take only a part
            left = left[staged.file.write(left) :]
        if durable:
            staged.sync()
        staged.publish(durable=durable)


def write_json(final: Path, content: object) -> None:
    """Writes a value as readable JSON, atomically."""
    write_whole(final, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def write_once(final: Path, content: bytes) -> bool:
    """Writes a small file atomically unless it exists. Returns whether this call made it.

    Of many calls at the same time, exactly one makes it.
    """
    with StagedFile(final) as staged:
        staged.file.write(content)
        staged.sync()
        return staged.publish_new()


@contextlib.contextmanager
def exclusive(lock_file: Path) -> Iterator[None]:
    """Holds an exclusive lock. The kernel frees it if this process is killed."""
    with lock_file.open("ab") as file:
        _lock(file, block=True)
        yield


def remove_leftovers(folder: Path) -> list[Path]:
    """Removes the temporary files of dead processes, never those of live ones. Returns what was removed."""
    removed = []
    for path in sorted(folder.glob(f".*{TEMPORARY}")):
        with contextlib.suppress(FileNotFoundError):  # its owner has published or removed it in the meantime
            if _remove_if_dead(path):
                removed.append(path)
    return removed


def sha256_of(path: Path) -> str:
    """The hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sync_folder(folder: Path) -> None:
    """Makes renames in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Creates a folder for output, with its parents. Raises UserError naming it where that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot create the folder {folder}: {error.strerror}") from error


def _create_locked(final: Path, buffered: bool) -> tuple[Path, IO[bytes]]:
    """A new temporary file beside `final`, open and locked."""
    # The name of a shard may be long: 255 bytes are the most in most file systems, and the suffix needs room too.
    stem = final.name.encode()[:200].decode(errors="ignore")
    while True:
        attempt = f"{os.uname().nodename[:24]}.{os.getpid()}.{secrets.token_hex(4)}"
        path = final.with_name(f".{stem}.{attempt}{TEMPORARY}")
        file = path.open("x+b", buffering=-1 if buffered else 0)
        # `remove_leftovers` of another process may have removed the file before it was locked: then start again.
        if _lock(file, block=False) and os.fstat(file.fileno()).st_nlink:
            return path, file
        file.close()
        path.unlink(missing_ok=True)


def _lock(file: IO[bytes], block: bool) -> bool:
    """Takes the exclusive lock. Returns whether it did; also True where the file system has no locks."""
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | (0 if block else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True


def _remove_if_dead(path: Path) -> bool:
    """Removes a file whose owner has ended. Holds the file's lock while it does, so that no owner can lock it."""
    with path.open("r+b") as file:
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            # The file system's clock decides, not this host's: the two may differ, and either may jump.
            if _now_of(path.parent) - path.stat().st_mtime <= STALE_SECONDS:
                return False
        path.unlink()
    return True


def _now_of(folder: Path) -> float:
    """The time by the clock of the folder's file system, in seconds since 1970."""
    probe = folder / f".clock.{os.getpid()}.{secrets.token_hex(4)}"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        probe.unlink(missing_ok=True)
