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
from jobs.shards.plan_beside import listed_tar
from jobs.shards.urls import Shard

_PART = 1 << 16  # bytes


@dataclass(frozen=True, kw_only=True)
class ShardBytes:
    """The bytes of a shard that was read.

    `size` is in bytes and `sha256` is of all of them; it is None where only the first images were read. `modified_ns`
    (nanoseconds since 1970) and `parts_sha256` are None where the shard is not a local file.
    """

    size: int
    sha256: str | None
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


@dataclass(frozen=True, kw_only=True)
class ShardComparison:
    """How a shard's file compares with the bytes that were read: `how` it differs, None where no difference was found.

    `is_partial`: it was written again since, and only its size and parts of it were compared.
    """

    how: str | None = None
    is_partial: bool = False


def compare_bytes(shard: Shard, read: ShardBytes, *, thorough: bool = False, whole: bool = False) -> ShardComparison:
    """Compares a local shard's file with the bytes that were read. One that cannot be looked at counts as the same.

    A file of the same size and time of writing counts as the same, unless `thorough`. Of any other, parts are compared,
    and what shards.json beside it lists. All its bytes are read with `whole`, and with `thorough` where it was written
    again since.
    """
    path = Path(shard.url)
    if not shard.is_local or read.parts_sha256 is None:
        return ShardComparison()
    try:
        facts = path.stat()
        if facts.st_size != read.size:
            return ShardComparison(how=f"{read.size:,} bytes then, {facts.st_size:,} now")
        rewritten = facts.st_mtime_ns != read.modified_ns
        if not (rewritten or thorough or whole):
            return ShardComparison()
        if parts_sha256(path, read.size) != read.parts_sha256:
            return ShardComparison(how="other bytes at its beginning, middle or end")
        if read.sha256 is not None and (whole or (thorough and rewritten)):
            return ShardComparison(how="other bytes" if sha256_of(path) != read.sha256 else None)
    except OSError:
        return ShardComparison()
    if not rewritten:
        return ShardComparison()
    listed = None if read.sha256 is None else listed_tar(path)
    if listed is not None and listed.sha256 == read.sha256:
        return ShardComparison()
    if listed is not None and listed.sha256 is not None:
        return ShardComparison(how=f"{listed.plan.name} beside it lists other bytes")
    return ShardComparison(is_partial=True)
