"""The bytes of a tar as they come: counted and hashed, and what decompresses them (no torch)."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
from collections.abc import Callable
from typing import IO, cast


class HashedStream(io.RawIOBase):
    """Counts and hashes the bytes of a stream, and shows its first ones without consuming them."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._ahead = stream.read(6)
        self.start = self._ahead
        self.count = 0
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """The next bytes, or all; fewer only at the end."""
        ahead, self._ahead = self._ahead, b""
        if size is None or size < 0:
            data = ahead + self._stream.read()
        else:
            data, self._ahead = ahead[:size], ahead[size:]
            while len(data) < size and (more := self._stream.read(size - len(data))):
                data += more
        self.count += len(data)
        self.digest.update(data)
        return data

    def readable(self) -> bool:
        """Always."""
        return True


def _gunzip(source: HashedStream) -> IO[bytes]:
    return cast(IO[bytes], gzip.GzipFile(fileobj=source))


def _bunzip2(source: HashedStream) -> IO[bytes]:
    return cast(IO[bytes], bz2.BZ2File(cast(IO[bytes], source)))


def _unxz(source: HashedStream) -> IO[bytes]:
    return cast(IO[bytes], lzma.LZMAFile(cast(IO[bytes], source)))


def decompression(start: bytes) -> Callable[[HashedStream], IO[bytes]] | None:
    """What decompresses a stream that begins so; None for one that is not compressed."""
    known = ((b"\x1f\x8b", _gunzip), (b"BZh", _bunzip2), (b"\xfd7zXZ\x00", _unxz))
    return next((decompress for magic, decompress in known if start.startswith(magic)), None)
