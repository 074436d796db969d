"""Strict streaming over a tar: every member, or an error that says where the archive breaks off.

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
from typing import IO, Any, cast

from jobs.errors import ShardError
from jobs.shards.urls import Shard

_BLOCK = tarfile.BLOCKSIZE
# The first bytes of a compressed stream, and what undoes it.
_COMPRESSION: tuple[tuple[bytes, Callable[[Any], Any]], ...] = (
    (b"\x1f\x8b", lambda source: gzip.GzipFile(fileobj=source)),
    (b"BZh", bz2.BZ2File),
    (b"\xfd7zXZ\x00", lzma.LZMAFile),
)
_UNREADABLE = (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError, ValueError)


@dataclass(frozen=True, kw_only=True)
class Member:
    """One regular file, or a link or device that is not followed (`data` None).

    `offset` is where `data` starts in the tar, None if the tar is compressed.
    """

    name: str
    offset: int | None
    data: bytes | None


class _StrictTarInfo(tarfile.TarInfo):
    """Remembers, on the TarFile, why reading headers ended."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> _StrictTarInfo:
        try:
            return super().fromtarfile(tar)
        except tarfile.HeaderError as error:
            tar.ended_by = error  # type: ignore[attr-defined]
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
            # A `pipe:` command is cut off by our closing; one that failed by itself was heard in `_check_end`.
            with contextlib.suppress(OSError):
                self._stream.close()

    @property
    def bytes_read(self) -> int:
        """Bytes taken so far, before decompression."""
        return self._source.count if self._source else 0

    def __iter__(self) -> Iterator[Member]:
        try:
            yield from self._members()
        except _UNREADABLE as error:
            raise self._broken(str(error) or type(error).__name__) from error

    def _members(self) -> Iterator[Member]:
        self._stream = _open(self.shard)
        self._source = source = _Source(self._stream)
        plain, compressed = _decompressed(source)
        if not source.start:
            raise self._broken("the file is empty")
        with tarfile.open(fileobj=plain, mode="r|", tarinfo=_StrictTarInfo) as tar:
            for info in tar:
                vars(tar)["members"] = []  # or the archive's whole index stays in memory
                if info.isdir():
                    continue
                file = tar.extractfile(info) if info.isreg() else None
                data = None if file is None else file.read()
                if data is not None and len(data) != info.size:
                    raise self._broken(f"member {info.name!r} breaks off")
                name = info.name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
                self._last = f"member {name!r}"
                yield Member(name=name, offset=None if compressed else info.offset_data, data=data)
            self._check_end(tar)

    def _check_end(self, tar: Any) -> None:
        """The archive must end in two zero blocks, and nothing but zeros may follow."""
        ended_by = type(getattr(tar, "ended_by", None)).__name__
        if ended_by != "EOFHeaderError":  # tarfile's name for a zero block
            damaged = ended_by == "InvalidHeaderError"
            raise self._broken("a header is damaged" if damaged else "the end-of-archive blocks are missing")
        if tar.fileobj.read(_BLOCK) != bytes(_BLOCK):
            raise self._broken("the second end-of-archive block is missing")
        while rest := tar.fileobj.read(1 << 16):
            if rest.strip(b"\0"):
                raise self._broken("more data follows the end of the archive (several tars in one file?)")
        if self._stream is not None:
            self._stream.close()  # a `pipe:` command that failed says so here

    def _broken(self, reason: str) -> ShardError:
        where = f"after {self._last}, {self.bytes_read:,} bytes read"
        return ShardError(
            f"{self.shard.name}: {self.shard.url} is not a whole tar: {reason} ({where}); copy or pack it again"
        )


def _open(shard: Shard) -> IO[bytes]:
    if shard.is_local:
        return open(shard.url, "rb")  # noqa: PTH123 -- a stream that the reader closes
    from webdataset.gopen import gopen  # imports torch, which local shards do not need

    return cast(IO[bytes], gopen(shard.url))


def _decompressed(source: _Source) -> tuple[IO[bytes], bool]:
    """(plain bytes, whether they were compressed), by the first bytes of the content."""
    for magic, opener in _COMPRESSION:
        if source.start.startswith(magic):
            return opener(source), True
    return cast(IO[bytes], source), False
