"""Strict streaming over a tar: every member, or an error that says where the archive breaks off (no torch).

tarfile ends in silence at a damaged header and at a file cut between two members; both would lose images unnoticed.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import IO, cast

from jobs.errors import ShardError
from jobs.phrases import one_line
from jobs.shards.opening import open_shard
from jobs.shards.remote import RemoteError
from jobs.shards.urls import Shard

_BLOCK = tarfile.BLOCKSIZE
_UNREADABLE = (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError, ValueError)


@dataclass(frozen=True, kw_only=True)
class Member:
    """One regular file, or a link or device, which is not followed (`data` None).

    `offset` is where `data` starts in the tar, None if the tar is compressed.
    """

    name: str
    offset: int | None
    data: bytes | None


class TarReader:
    """Iterates over the members of a shard in tar order; a context manager.

    Raises ShardError, naming the shard, the place and what to do, for a tar that is truncated, damaged, unreadable,
    no tar at all, or followed by another one. `bytes_read` counts what came from the file or stream.
    """

    def __init__(self, shard: Shard) -> None:
        self.shard = shard
        self._stream: IO[bytes] | None = None
        self._source: _Source | None = None
        self._last = "the start"

    def __enter__(self) -> TarReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is not None:
            with contextlib.suppress(OSError):  # it was read as far as it was wanted
                self._stream.close()

    @property
    def bytes_read(self) -> int:
        """Bytes taken so far, before decompression."""
        return self._source.count if self._source else 0

    def __iter__(self) -> Iterator[Member]:
        try:
            yield from self._members()
        except RemoteError as error:
            message = f"{self.shard.name}: reading {self.shard.url} broke off: {error} ({self._place()}); try again"
            raise ShardError(message) from error
        except _UNREADABLE as error:
            raise self._broken_error(one_line(error)) from error

    def _members(self) -> Iterator[Member]:
        self._stream = self._open()
        self._source = source = _Source(self._stream)
        if not source.start:
            raise self._broken_error("the file is empty")
        decompress = _decompression(source.start)
        plain = cast(IO[bytes], source) if decompress is None else decompress(source)
        with _StrictTarFile.open(fileobj=plain, mode="r|", tarinfo=_StrictTarInfo) as tar:
            for info in tar:
                vars(tar)["members"] = []  # or the archive's whole index stays in memory
                if not info.isdir():
                    yield self._member(tar, info, has_offsets=decompress is None)
            self._check_end(tar)

    def _open(self) -> IO[bytes]:
        try:
            return open_shard(self.shard.url)
        except OSError as error:
            reason = error.strerror or one_line(error)
            raise ShardError(f"{self.shard.name}: cannot open {self.shard.url}: {reason}") from error

    def _member(self, tar: tarfile.TarFile, info: tarfile.TarInfo, *, has_offsets: bool) -> Member:
        file = tar.extractfile(info) if info.isreg() else None
        data = None if file is None else file.read()
        if data is not None and len(data) != info.size:
            raise self._broken_error(f"member {info.name!r} breaks off")
        name = info.name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        self._last = f"member {name!r}"
        return Member(name=name, offset=info.offset_data if has_offsets else None, data=data)

    def _check_end(self, tar: _StrictTarFile) -> None:
        """The archive must end in two zero blocks, and nothing but zeros may follow."""
        ended_by = type(tar.ended_by).__name__
        if ended_by != "EOFHeaderError":  # tarfile's name for a zero block
            damaged = ended_by == "InvalidHeaderError"
            raise self._broken_error("a header is damaged" if damaged else "the end-of-archive blocks are missing")
        if tar.fileobj.read(_BLOCK) != bytes(_BLOCK):
            raise self._broken_error("the second end-of-archive block is missing")
        while rest := tar.fileobj.read(1 << 16):  # a `pipe:` command that failed says so at its end
            if rest.strip(b"\0"):
                raise self._broken_error("more data follows the end of the archive (several tars in one file?)")

    def _broken_error(self, reason: str) -> ShardError:
        problem = f"{self.shard.url} is not a whole tar: {reason} ({self._place()})"
        return ShardError(f"{self.shard.name}: {problem}; copy or pack it again")

    def _place(self) -> str:
        return f"after {self._last}, {self.bytes_read:,} bytes read"


class _StrictTarFile(tarfile.TarFile):
    """A TarFile that knows why reading headers ended."""

    fileobj: IO[bytes]
    ended_by: tarfile.HeaderError | None = None


class _StrictTarInfo(tarfile.TarInfo):
    """Tells its _StrictTarFile why reading headers ended."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> _StrictTarInfo:
        try:
            return super().fromtarfile(tar)
        except tarfile.HeaderError as error:
            cast(_StrictTarFile, tar).ended_by = error
            raise


class _Source(io.RawIOBase):
    """Counts the bytes of a stream, and shows its first ones without consuming them."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._ahead = stream.read(6)
        self.start = self._ahead
        self.count = 0

    def read(self, size: int = -1) -> bytes:
        ahead, self._ahead = self._ahead, b""
        if size is None or size < 0:
            data = ahead + self._stream.read()
        else:
            data, self._ahead = ahead[:size], ahead[size:]
            while len(data) < size and (more := self._stream.read(size - len(data))):
                data += more
        self.count += len(data)
        return data

    def readable(self) -> bool:
        return True


def _gunzip(source: _Source) -> IO[bytes]:
    return cast(IO[bytes], gzip.GzipFile(fileobj=source))


def _bunzip2(source: _Source) -> IO[bytes]:
    return cast(IO[bytes], bz2.BZ2File(cast(IO[bytes], source)))


def _unxz(source: _Source) -> IO[bytes]:
    return cast(IO[bytes], lzma.LZMAFile(cast(IO[bytes], source)))


def _decompression(start: bytes) -> Callable[[_Source], IO[bytes]] | None:
    """What decompresses a stream that begins so; None for one that is not compressed."""
    known = ((b"\x1f\x8b", _gunzip), (b"BZh", _bunzip2), (b"\xfd7zXZ\x00", _unxz))
    return next((decompress for magic, decompress in known if start.startswith(magic)), None)
