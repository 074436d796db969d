"""The seal of a Parquet file: the SHA-256 of all its other bytes, written into the file's own footer.

Page checksums cover the values, and nothing covers the footer: the statistics in it decide which rows a query skips. A
hash in a file of its own would double the number of files in metadata/, and could be there without its shard or the
other way round. A hash in the event log would be missing where a worker died between the commit and the log. In the
file, it comes and goes with the commit.

The hash is taken with 64 zeros in its own place.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import IO

from jobs.runs.footer import find_value, parquet_footer

KEY = "promptsg.sha256"  # of the file's key-value metadata
UNSEALED = "0" * 64
_BLOCK = 1 << 20


def seal(file: IO[bytes]) -> None:
    """Seals a Parquet file that was written whole, with the metadata `KEY`: `UNSEALED`. The file is open for both ways.

    Raises ValueError where it has no such metadata.
    """
    file.flush()
    place = _place(file)
    if place is None:
        raise ValueError("the Parquet file has no place for its hash")
    digest = _sha256_without(file, place)
    file.seek(place)
    file.write(digest.encode())
    file.seek(0, os.SEEK_END)


def seal_problem(path: Path, *, required: bool) -> str | None:
    """How a file differs from the one that was sealed; None where it is the same.

    Files of earlier versions have no seal, which is a problem only where one is `required`. Raises OSError.
    """
    with path.open("rb") as file:
        place = _place(file)
        if place is None:
            return f"{path.name} has no hash of itself, or has lost it" if required else None
        file.seek(place)
        written = file.read(len(UNSEALED)).decode(errors="replace")
        if written != _sha256_without(file, place):
            return f"{path.name} has other bytes than were written (SHA-256 differs)"
    return None


def _place(file: IO[bytes]) -> int | None:
    """The position in the file of the 64 digits; None where it has none, or does not end as a Parquet file."""
    start, footer = parquet_footer(file.fileno())
    found = find_value(footer, KEY)
    return None if found is None or found.stop - found.start != len(UNSEALED) else start + found.start


def _sha256_without(file: IO[bytes], place: int) -> str:
    """The SHA-256 of the file's bytes with zeros at the place of the seal."""
    digest = hashlib.sha256()
    file.seek(0)
    left = place
    while left and (block := file.read(min(left, _BLOCK))):
        digest.update(block)
        left -= len(block)
    digest.update(UNSEALED.encode())
    file.seek(place + len(UNSEALED))
    while block := file.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest()
