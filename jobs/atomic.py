"""Publishing files so that a reader sees a whole one or none: temporary file, fsync, rename, fsync of the folder.

Knows nothing of attention. Every temporary file is locked by its owner for as long as that lives, so leftovers of
dead attempts can be told from files of live ones, on this host or another.
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
# Only where the file system has no locks: an attempt that wrote nothing for so long is taken for dead.
STALE_SECONDS = 6 * 3600
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class StagedFile:
    """A private temporary file beside `final`; nothing is seen under the final name before `publish`.

    Use as a context manager: whatever was not published is removed on the way out.
    """

    def __init__(self, final: Path) -> None:
        self.final = final
        # A long shard name must still leave room for the attempt's own suffix (255 bytes in most file systems).
        stem = final.name.encode()[:200].decode(errors="ignore")
        self.file: IO[bytes]
        while True:  # a sweeper may take the file for a leftover before it is locked: then begin again
            attempt = f"{os.uname().nodename[:24]}.{os.getpid()}.{secrets.token_hex(4)}"
            self.path = final.with_name(f".{stem}.{attempt}{TEMPORARY}")
            self.file = self.path.open("x+b")
            if _lock(self.file, block=False) and os.fstat(self.file.fileno()).st_nlink:
                break
            self.file.close()
            self.path.unlink(missing_ok=True)

    def __enter__(self) -> StagedFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()

    def sync(self) -> None:
        """Flushes to the disk; call before checking or publishing."""
        self.file.flush()
        os.fsync(self.file.fileno())

    def publish(self, *, durable: bool = True) -> None:
        """Gives the synced file its final name, over a file that may stand there."""
        if not durable:
            self.file.flush()
        self.path.replace(self.final)
        if durable:
            sync_folder(self.final.parent)
        self.file.close()

    def publish_new(self) -> bool:
        """Gives the synced file its final name if nothing has it yet; says whether it did."""
        try:
            os.link(self.path, self.final)
        except FileExistsError:
            return False
        sync_folder(self.final.parent)
        return True

    def discard(self) -> None:
        """Removes the temporary file if it was not published."""
        with contextlib.suppress(OSError):  # closing flushes, which a full disk refuses once more
            self.file.close()
        self.path.unlink(missing_ok=True)


def publish_together(first: StagedFile, last: StagedFile, lock_file: Path, *, replace: bool = False) -> bool:
    """Publishes two synced files of which `last` is the commit; False, and nothing done, if it is there already.

    The lock keeps two attempts at the same shard from mixing their halves: the first one wins. To `replace` a pair, its
    commit is taken back first: a reader or a crash in between finds an uncommitted pair, never a mixed one.
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
    """Writes a small file under its final name, atomically, over what stands there.

    Without `durable` it is not forced to the disk, which can take longer than computing it: a crash of the machine may
    then leave an empty file under the final name.
    """
    with StagedFile(final) as staged:
        staged.file.write(content)
        if durable:
            staged.sync()
        staged.publish(durable=durable)


def write_json(final: Path, content: object) -> None:
    """Writes a value as readable JSON, atomically."""
    write_whole(final, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def write_once(final: Path, content: bytes) -> bool:
    """Writes a small file atomically unless it exists; says whether this call made it, also among many at once."""
    with StagedFile(final) as staged:
        staged.file.write(content)
        staged.sync()
        return staged.publish_new()


@contextlib.contextmanager
def exclusive(lock_file: Path) -> Iterator[None]:
    """Holds an exclusive lock, freed by the kernel also if this process is killed."""
    with lock_file.open("ab") as file:
        _lock(file, block=True)
        yield


def remove_leftovers(folder: Path) -> list[Path]:
    """Removes the temporary files of dead attempts, never those of live ones; returns what was removed."""
    removed = []
    for path in sorted(folder.glob(f".*{TEMPORARY}")):
        with contextlib.suppress(FileNotFoundError):  # published or removed by its owner meanwhile
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
    """Creates a folder for output. Raises UserError naming it where that is not allowed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot create the folder {folder}: {error.strerror}") from error


def _lock(file: IO[bytes], block: bool) -> bool:
    """Whether the exclusive lock was taken; also True where the file system has no locks."""
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | (0 if block else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True


def _remove_if_dead(path: Path) -> bool:
    """Unlinks a file whose owner is gone, holding its lock meanwhile, so that no owner takes it in between."""
    with path.open("r+b") as file:
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            # By the file system's own clock, not this host's: the two may differ, and either may jump.
            if _now_of(path.parent) - path.stat().st_mtime <= STALE_SECONDS:
                return False
        path.unlink()
    return True


def _now_of(folder: Path) -> float:
    probe = folder / f".clock.{os.getpid()}.{secrets.token_hex(4)}"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        probe.unlink(missing_ok=True)
