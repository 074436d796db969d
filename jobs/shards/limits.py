"""What a shard may ask of the memory, before anything is decoded: far above what data sets have (no torch)."""

from __future__ import annotations

import io
import tarfile
from typing import IO, Protocol

MAX_MEMBER_BYTES = 512 << 20  # an uncompressed image of 100 million pixels has 300 MB
MAX_NOTE_BYTES = 16 << 20
MAX_HEADER_BYTES = 64 << 20  # of a name or of attributes
MAX_STORED_BYTES = 64 << 30  # a larger member takes minutes to pass over, and no shard has one
MAX_KEY_LENGTH = 4096
MAX_SAMPLES = 10_000_000
MAX_BATCH_BYTES = 256 << 20  # past this a batch is closed, though more images would fit into it
# What is compressed to less than a two-hundredth is no image.
MAX_EXPANSION, _EXPANDED_BYTES = 200, 1 << 30
_SHORT = 100


class Counted(Protocol):
    """Something that counts the bytes that were taken from it."""

    count: int


class Expanding(io.RawIOBase):
    """What a compressed stream expands to. Raises tarfile.ReadError where that is out of all proportion."""

    def __init__(self, expanded: IO[bytes], source: Counted) -> None:
        self._expanded, self._source = expanded, source
        self._count = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def read(self, size: int = -1) -> bytes:
        """The next bytes, or all; fewer only at the end."""
        data = self._expanded.read(size)
        self._count += len(data)
        if self._count > max(_EXPANDED_BYTES, MAX_EXPANSION * self._source.count):
            raise tarfile.ReadError(f"it expands to more than {MAX_EXPANSION} times its size, which no images do")
        return data


def shortened(name: str) -> str:
    """A name for messages: its beginning, where it is very long."""
    return name if len(name) <= 2 * _SHORT else f"{name[:_SHORT]}... ({len(name):,} characters)"
