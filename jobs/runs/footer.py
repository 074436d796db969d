"""The footer of a shard's Parquet file: which run it belongs to, and what it holds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

_PREFIX = "promptsg."


@dataclass(frozen=True, kw_only=True)
class ShardFooter:
    """The facts that are committed with a shard.

    `h5_size` (bytes) and `h5_sha256` are those of its HDF5 file. `images` rows have maps. `failed` counts the rows
    without maps by reason. `partial` counts, by reason, the rows that lack only the target's maps. `zero_maps` counts
    the maps that are zero everywhere, by name. `rows` is the number of rows of the Parquet file.
    """

    fingerprint: str
    shard: str
    h5_size: int
    h5_sha256: str
    images: int
    failed: Mapping[str, int] = field(default_factory=dict)
    partial: Mapping[str, int] = field(default_factory=dict)
    zero_maps: Mapping[str, int] = field(default_factory=dict)
    rows: int = 0

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
        }
        return {_PREFIX + name: value for name, value in facts.items()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[bytes, bytes] | None, rows: int = 0) -> ShardFooter:
        """Reads them back. Raises KeyError if a fact is missing and ValueError if one is malformed."""
        facts = {key.decode().removeprefix(_PREFIX): value.decode() for key, value in (metadata or {}).items()}
        return cls(
            fingerprint=facts["fingerprint"],
            shard=facts["shard"],
            h5_size=int(facts["h5_size"]),
            h5_sha256=facts["h5_sha256"],
            images=int(facts["images"]),
            failed=json.loads(facts["failed"]),
            partial=json.loads(facts["partial"]),
            zero_maps=json.loads(facts["zero_maps"]),
            rows=rows,
        )


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
        return UserError(f"cannot read {path}: {error.strerror}")
    return UserError(f"{path} is damaged ({error}); delete it and run the same `promptsg mine` again")
