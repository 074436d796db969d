"""The headers that nearly all members of a tar have, read in little time, and the stream below them (no torch).

Whatever is not exactly such a header is left to tarfile, so that what is accepted and refused is tarfile's decision.
"""

from __future__ import annotations

import re
import tarfile
import zlib
from typing import IO

_READ_AT_ONCE = tarfile.RECORDSIZE  # as tarfile reads streams
_HALF = tarfile.BLOCKSIZE // 2
# POSIX.1-1988 (ustar): mode, uid, gid, size, time, checksum, type "0" from byte 100 on, where the name ends; from byte
# 329 on the numbers of the device, then the prefix.
_NUMBERS = re.compile(
    rb"(?:[0-7]{7}[\0 ]){3}([0-7]{11})[\0 ][0-7]{11}[\0 ]([0-7]{6})\0 0(?s:.{172})(?:\0{16}|(?:0000000\0){2})\0"
)
_NAME_BYTES, _CHECKSUM = 100, slice(148, 156)


class Forward:
    """A stream that is read and skipped, but never read again; it shows what comes next."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._ahead = b""
        self._used = 0  # of what is ahead
        self._position = 0

    def tell(self) -> int:
        """The bytes that were read or skipped."""
        return self._position

    def seek(self, position: int) -> None:
        """Skips to a position further on, or to the end. Raises StreamError for one before."""
        if position < self._position:
            raise tarfile.StreamError("seeking backwards is not allowed")
        if (used := self._used + position - self._position) <= len(self._ahead):
            self._used, self._position = used, position
            return
        while position > self._position and self.read(min(position - self._position, 1 << 20)):
            pass

    def peek(self, size: int) -> bytes:
        """The next bytes; fewer only at the end."""
        if self._used + size > len(self._ahead):
            self._fill(size)
        return self._ahead[self._used : self._used + size]

    def read(self, size: int) -> bytes:
        """The next bytes; fewer only at the end."""
        data = self.peek(size)
        self._used += len(data)
        self._position += len(data)
        return data

    def _fill(self, size: int) -> None:
        missing = size - (len(self._ahead) - self._used)
        parts = [self._ahead[self._used :]]
        self._used = 0
        while missing > 0 and (more := self._stream.read(-(-missing // _READ_AT_ONCE) * _READ_AT_ONCE)):
            parts.append(more)
            missing -= len(more)
        self._ahead = b"".join(parts)


def plain_member(header: bytes) -> tuple[bytes, int] | None:
    """(name, size) of a regular file, from a header without anything special; None for all others.

    Its numbers are octal and its checksum is right. It has no prefix and stands for no device.
    """
    numbers = _NUMBERS.match(header, _NAME_BYTES)
    if numbers is None or len(header) < tarfile.BLOCKSIZE:
        return None
    size, checksum = numbers.groups()
    blank = sum(b" " * 8) - sum(header[_CHECKSUM])  # the checksum counts itself as spaces
    if _sum(header[:_HALF]) + _sum(header[_HALF:]) + blank != int(checksum, 8):
        return None
    return header[:_NAME_BYTES].partition(b"\0")[0], int(size, 8)


def _sum(part: bytes) -> int:
    """The sum of 256 bytes: the lower half of Adler-32 less one, as long as the sum is below 65,521."""
    return (zlib.adler32(part) & 0xFFFF) - 1
