"""The footer of a shard's Parquet file: which run it belongs to, and what it holds."""

from __future__ import annotations

import json
import os
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from jobs.errors import UserError
from jobs.phrases import one_line
from jobs.shards.shard_bytes import ShardBytes
from jobs.system_errors import reason_of

if TYPE_CHECKING:
    import pyarrow as pa

_PREFIX = "promptsg."
ADDED_FACT = f"{_PREFIX}added"  # the fact that is there only where maps were added
_TAR = TypeAdapter(ShardBytes)
_KEYS = TypeAdapter(tuple[str, str])
_MAGIC = b"PAR1"  # a Parquet file begins and ends with it
_SHORTEST = 12  # bytes: both, and the length of the footer
_TAIL = 1 << 15  # bytes: mostly the whole footer
# A text in the key-value metadata, as Thrift's compact protocol writes it: this byte, its length, its bytes.
_TEXT = b"\x18"


@dataclass(frozen=True, kw_only=True)
class AddedFile:
    """A further HDF5 file of a shard: the maps that the addition of this `number` added later.

    `h5_size` (bytes) and `h5_sha256` are those of the file. `failed` counts, by reason, the rows that have the maps of
    the run and lack these.
    """

    number: int
    h5_size: int
    h5_sha256: str
    failed: dict[str, int] = field(default_factory=dict)


_ADDED = TypeAdapter(tuple[AddedFile, ...])


@dataclass(frozen=True, kw_only=True)
class ShardFooter:
    """The facts that are committed with a shard.

    `h5_size` (bytes) and `h5_sha256` are those of its HDF5 file. `images` rows have maps. `failed` counts the rows
    without maps by reason. `partial` counts, by reason, the rows that lack only the target's maps. `zero_maps` counts
    the maps that are zero everywhere, by name. `passed_over` counts, by kind, the members of the tar of which nothing
    was made. `done_again` counts the rows that were computed in fp32, since their numbers were not finite in the run's
    precision; it is written only where there are any. `tar` tells the bytes of the tar that was mined from any others.
    `keys` are the smallest and the largest key of the rows. Earlier versions kept neither. `added` are the files of
    maps that were added later, by number. `rows` is the number of rows of the Parquet file.
    """

    fingerprint: str
    shard: str
    h5_size: int
    h5_sha256: str
    images: int
    failed: Mapping[str, int] = field(default_factory=dict)
    partial: Mapping[str, int] = field(default_factory=dict)
    zero_maps: Mapping[str, int] = field(default_factory=dict)
    passed_over: Mapping[str, int] = field(default_factory=dict)
    done_again: int = 0
    tar: ShardBytes | None = None
    keys: tuple[str, str] | None = None
    added: tuple[AddedFile, ...] = ()
    rows: int = 0

    def added_file(self, number: int) -> AddedFile | None:
        """The file of an addition; None where the shard does not have its maps."""
        return next((file for file in self.added if file.number == number), None)

    def may_hold(self, keys: Sequence[str]) -> bool:
        """Whether a row may have one of these keys, which are sorted."""
        if self.keys is None:
            return True
        smallest, largest = self.keys
        place = bisect_left(keys, smallest)
        return place < len(keys) and keys[place] <= largest

    def as_metadata(self) -> dict[str, str]:
        """The key-value metadata of the Parquet schema."""
        facts = {
            "fingerprint": self.fingerprint,
            "shard": self.shard,
            "h5_size": str(self.h5_size),
            "h5_sha256": self.h5_sha256,
            "images": str(self.images),
            "failed": json.dumps(self.failed, sort_keys=True),
            "partial": json.dumps(self.partial, sort_keys=True),
            "zero_maps": json.dumps(self.zero_maps, sort_keys=True),
            "passed_over": json.dumps(self.passed_over, sort_keys=True),
        }
        if self.done_again:
            facts["done_again"] = str(self.done_again)
        if self.tar is not None:
            facts["tar"] = json.dumps(asdict(self.tar), sort_keys=True)
        if self.keys is not None:
            facts["keys"] = json.dumps(self.keys)
        if self.added:
            facts["added"] = json.dumps([asdict(file) for file in self.added], sort_keys=True)
        return {_PREFIX + name: value for name, value in facts.items()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[bytes, bytes] | None, rows: int | None = None) -> ShardFooter:
        """Reads them back. Raises KeyError if a fact is missing and ValueError if one is malformed.

        Without `rows` there are as many as have maps or failed.
        """
        facts = {key.decode().removeprefix(_PREFIX): value.decode() for key, value in (metadata or {}).items()}
        return cls.from_facts(facts, rows)

    @classmethod
    def from_facts(cls, facts: Mapping[str, str], rows: int | None = None) -> ShardFooter:
        """Reads them back from their names without the prefix. Otherwise as `from_metadata`."""
        images, failed = int(facts["images"]), json.loads(facts["failed"])
        return cls(
            fingerprint=facts["fingerprint"],
            shard=facts["shard"],
            h5_size=int(facts["h5_size"]),
            h5_sha256=facts["h5_sha256"],
            images=images,
            failed=failed,
            partial=json.loads(facts["partial"]),
            zero_maps=json.loads(facts["zero_maps"]),
            passed_over=json.loads(facts.get("passed_over", "{}")),
            done_again=int(facts.get("done_again", "0")),
            tar=_TAR.validate_json(facts["tar"]) if "tar" in facts else None,
            keys=_KEYS.validate_json(facts["keys"]) if "keys" in facts else None,
            added=_ADDED.validate_json(facts["added"]) if "added" in facts else (),
            rows=images + sum(failed.values()) if rows is None else rows,
        )


_FACTS = tuple(one.name for one in fields(ShardFooter) if one.name != "rows")


def read_facts(path: Path) -> ShardFooter:
    """The footer of a published shard's Parquet file, without what it says of the columns.

    That is many times as fast as `read_footer`, which parses the facts of every column. Raises UserError as that does.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            _, footer = parquet_footer(descriptor)
        finally:
            os.close(descriptor)
        first = footer.rfind(_as_text(_PREFIX + _FACTS[0]))  # they are written one after the other
        places = {name: find_value(footer, _PREFIX + name, first) for name in _FACTS}
        return ShardFooter.from_facts({name: footer[at].decode() for name, at in places.items() if at is not None})
    except KeyError:
        return read_footer(path)  # which knows every way to write a footer, or says what is wrong
    except (OSError, ValueError, TypeError) as error:
        raise damaged_error(path, error) from error


def parquet_footer(descriptor: int) -> tuple[int, bytes]:
    """The position and the bytes of the footer of an open Parquet file.

    Raises ValueError where the file does not end as such a file, and OSError.
    """
    size = os.fstat(descriptor).st_size
    tail = os.pread(descriptor, _TAIL, max(0, size - _TAIL))
    length = int.from_bytes(tail[-8:-4], "little")
    if size < _SHORTEST or tail[-4:] != _MAGIC or length > size - _SHORTEST:
        raise ValueError(f"its {size} bytes do not end as those of a Parquet file")
    start = size - 8 - length
    return start, tail[-8 - length : -8] if length + 8 <= len(tail) else os.pread(descriptor, length, start)


def find_value(footer: bytes, name: str, start: int = -1) -> slice | None:
    """Where the value of a key of the key-value metadata is in a Parquet footer; None where it is not there.

    The first one from `start` on is taken; without a start the last one, since the metadata come after the columns.
    """
    key = _as_text(name) + _TEXT
    place = footer.rfind(key) if start < 0 else footer.find(key, start)
    if place < 0:
        return None
    place += len(key)
    length = shift = 0
    for byte in footer[place : place + 5]:  # a length has seven bits in each byte, the lowest first
        length |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return slice(place, place + length) if place + length <= len(footer) else None
    return None


def _as_text(name: str) -> bytes:
    """A short text as it is in the footer."""
    return _TEXT + bytes([len(name)]) + name.encode()


def read_footer(path: Path) -> ShardFooter:
    """The footer of a published shard's Parquet file.

    Raises UserError, with what to do, if the file is damaged or does not belong to a shard.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        found = pq.read_metadata(path)
        return ShardFooter.from_metadata(found.metadata, found.num_rows)
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise damaged_error(path, error) from error


def read_rows(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of a published shard's Parquet file, with all columns or those named. Raises UserError as above."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path).read(columns=None if columns is None else list(columns))
    except (pa.ArrowException, OSError) as error:
        raise damaged_error(path, error) from error


def damaged_error(path: Path, error: Exception) -> UserError:
    """The error for a metadata file that cannot be read, and what to do."""
    if isinstance(error, OSError) and error.errno is not None:  # the system does not give it, which says nothing of it
        return UserError(f"cannot read {path}: {reason_of(error)}")
    reason = f"its footer has no {error.args[0]}" if isinstance(error, KeyError) else one_line(error)
    return UserError(f"{path} is damaged ({reason}); delete it and run the same `promptsg mine` again")
