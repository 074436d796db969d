"""What tells a shard's bytes from any others: its size, when it was written, a hash of parts of it, and of the whole.

A tar's size says little: it is a multiple of 10,240 bytes. The hash of parts covers the beginning, the middle and the
end. Members that were added, left out, put into another order or replaced by longer ones change at least one of them.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from jobs.atomic import sha256_of
from jobs.shards.urls import Shard

_PART = 1 << 16  # bytes


@dataclass(frozen=True, kw_only=True)
class ShardBytes:
    """The bytes of a shard that was read to its end.

    `size` is in bytes and `sha256` is of all of them. `modified_ns` (nanoseconds since 1970) and `parts_sha256` are
    None where the shard is not a local file.
    """

    size: int
    sha256: str
    modified_ns: int | None = None
    parts_sha256: str | None = None


def parts_sha256(path: Path, size: int) -> str:
    """The SHA-256 of 64 KiB each at the beginning, the middle and the end of a file. Raises OSError."""
    digest = hashlib.sha256()
    descriptor = os.open(path, os.O_RDONLY)
    try:
        for start in sorted({0, max(0, size // 2 - _PART // 2), max(0, size - _PART)}):
            digest.update(os.pread(descriptor, _PART, start))
    finally:
        os.close(descriptor)
    return digest.hexdigest()


def change_since(shard: Shard, read: ShardBytes, *, trust_time: bool = True, whole: bool = False) -> str | None:
    """How a local shard's file differs from the bytes that were read; None where it is the same or cannot be looked at.

    Where the file was written at the same time and has the same size, it counts as the same if `trust_time`. Otherwise
    parts of it are compared, or with `whole` all of it.
    """
    path = Path(shard.url)
    if not shard.is_local or read.parts_sha256 is None:
        return None
    try:
        facts = path.stat()
        if facts.st_size != read.size:
            return f"{read.size:,} bytes then, {facts.st_size:,} now"
        if trust_time and not whole and facts.st_mtime_ns == read.modified_ns:
            return None
        if parts_sha256(path, read.size) != read.parts_sha256:
            return "other bytes at its beginning, middle or end"
        if whole and sha256_of(path) != read.sha256:
            return "other bytes"
    except OSError:
        return None
    return None
