"""Publishing files so that a reader sees a whole file or none: temporary file, fsync, rename, fsync of the folder."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType

from jobs.errors import UserError
from jobs.leftovers import create_locked, lock, remove_leftovers
from jobs.phrases import json_text
from jobs.progress import LongTask
from jobs.system_errors import name_file, naming, reason_of

# What file systems say that have no hard links, and those that do not force a folder to the disk.
_NO_LINKS = (errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)
_HASHED_AT_ONCE = 1 << 18  # bytes, which stay in a processor's cache
_NO_FOLDER_SYNC = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EACCES)


class StagedFile:
    """A private temporary file beside `final`. Nothing has the final name before `publish`.

    Use as a context manager: leaving it removes what was not published, and an error of the system that leaves it names
    `final`. Without a buffer, each write goes to the file at once, which takes less time where there is only one.
    """

    def __init__(self, final: Path, *, buffered: bool = True) -> None:
        self.final = final
        self.path, self.file = create_locked(final, buffered)
        self._renamed = False

    def __enter__(self) -> StagedFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, OSError):
            name_file(error, self.final)
        self.discard()

    def sync(self) -> None:
        """Flushes to the disk. Call it before the file is checked or published."""
        with naming(self.final):
            self.file.flush()
            os.fsync(self.file.fileno())

    def publish(self, *, durable: bool = True) -> None:
        """Gives the synced file its final name, and replaces a file that has that name.

        Without `durable` neither the file nor its name is forced to the disk.
        """
        with naming(self.final):
            if not durable:
                self.file.flush()
            self._rename()
            if durable:
                sync_folder(self.final.parent)
            self.file.close()

    def publish_new(self) -> bool:
        """Gives the synced file its final name if no file has it yet. Returns whether it did."""
        try:
            os.link(self.path, self.final)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                name_file(error, self.final)
                raise
            return self._publish_new_without_links()
        sync_folder(self.final.parent)
        return True

    def discard(self) -> None:
        """Removes the temporary file if it was not published. One that cannot be removed is left to later commands."""
        with contextlib.suppress(OSError):  # closing flushes, which a full disk refuses again
            self.file.close()
        if not self._renamed:
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)

    def _rename(self) -> None:
        try:
            self.path.replace(self.final)
        except OSError as error:  # its own file name is the temporary one
            raise OSError(error.errno, error.strerror, str(self.final)) from error
        self._renamed = True

    def _publish_new_without_links(self) -> bool:
        """As `publish_new`, under a lock of the folder. Only where the folder has no locks either, two may both win."""
        with _locked_folder(self.final.parent):
            if self.final.exists():
                return False
            self._rename()
            sync_folder(self.final.parent)
        return True


def publish_together(
    first: StagedFile,
    last: StagedFile,
    lock_file: Path,
    *,
    replace: bool = False,
    check: Callable[[], object] = lambda: None,
) -> bool:
    """Publishes two synced files, of which `last` is the commit. Returns False, and does nothing, if it exists already.

    The lock keeps two attempts at the same shard from mixing their files: the first one wins. With `replace` the old
    commit is removed first: a reader or a crash in between finds a pair without its commit, never a mixed pair.
    `check` is called while the lock is held. What it raises keeps both files from being published.
    """
    with exclusive(lock_file):
        check()
        if last.final.is_file():
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
    write_whole(final, (json_text(content) + "\n").encode())


def write_lines(final: Path, lines: Iterable[str]) -> None:
    """Writes texts, such as keys, each on a line of its own, atomically."""
    write_whole(final, "".join(f"{line}\n" for line in lines).encode())


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
    with naming(lock_file):
        try:
            descriptor = os.open(lock_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        except PermissionError:  # another user's, in a run that a group shares: reading it is enough for most locks
            descriptor = os.open(lock_file, os.O_RDONLY)
    with _held(descriptor, lock_file):
        yield


@contextlib.contextmanager
def _locked_folder(folder: Path) -> Iterator[None]:
    with _held(os.open(folder, os.O_RDONLY), folder):
        yield


@contextlib.contextmanager
def _held(descriptor: int, path: Path) -> Iterator[None]:
    """Locks an open file or folder, and closes it in the end, which frees the lock also where it reports an error."""
    try:
        with naming(path):
            lock(descriptor, wait=True)
        yield
    finally:
        with contextlib.suppress(OSError):
            os.close(descriptor)


def sha256_of(path: Path) -> str:
    """The hexadecimal SHA-256 of a file's bytes."""
    with naming(path), path.open("rb", buffering=0) as file, LongTask(f"hashing {path.name}"):
        digest = hashlib.sha256()
        block = memoryview(bytearray(_HASHED_AT_ONCE))  # used again: new memory takes longer than hashing from it
        while count := file.readinto(block):
            digest.update(block[:count])
    return digest.hexdigest()


def sync_folder(folder: Path) -> None:
    """Makes renames in a folder durable, where the file system can do that."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            name_file(error, folder)
            raise


def make_folder(folder: Path) -> None:
    """Creates a folder for output, with its parents, and removes what killed commands left in it.

    Raises UserError naming it where it cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot create the folder {folder}: {reason_of(error)}") from error
    remove_leftovers(folder)
