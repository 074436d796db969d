"""The original images' bytes for rows of the metadata, read from the shards by offset: those bytes and no others.

No torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypedDict

from jobs.errors import UserError
from jobs.shards.remote import RemoteError, read_ranges
from promptsg_core.images import IMAGE_ERRORS, ImageHeader, problem_of, read_header

_MOST_OPEN = 64  # files


class SourceRow(TypedDict):
    """The columns of a metadata row that say where its image lies in the shard, and what it is."""

    shard: str
    key: str
    tar_index: int
    image_offset: int | None
    image_size: int
    width: int
    height: int


ROW_COLUMNS = tuple(SourceRow.__annotations__)


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the images of one shard are read: a path or a remote address.

    `offsets` is tar_index -> offset in `url` where that is a scratch file, None where the rows' own offsets hold.
    """

    shard: str
    url: str
    is_local: bool
    offsets: Mapping[int, int] | None = None

    def offset_of(self, row: SourceRow) -> int:
        """Where the row's image begins in `url`."""
        offset = row["image_offset"] if self.offsets is None else self.offsets[row["tar_index"]]
        assert offset is not None, f"{self.shard} was not unpacked"
        return offset


@dataclass
class SourceImages:
    """Reads images from the located shards; open files are kept until `close`. May be sent to another process."""

    sources: dict[str, Source]
    _files: dict[str, int] = field(default_factory=dict)

    def __enter__(self) -> SourceImages:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the files that were opened."""
        while self._files:
            os.close(self._files.popitem()[1])

    def read(self, rows: Sequence[SourceRow]) -> Iterator[bytes]:
        """The bytes of each row's image, in the rows' order, exactly `image_size` of them from each shard.

        Raises UserError naming the shard where it cannot be read or is not what was mined.
        """
        remote = self._fetch([row for row in rows if not self.sources[row["shard"]].is_local])
        for row in rows:
            source = self.sources[row["shard"]]
            data = self._read_local(source, row) if source.is_local else remote[row["shard"], row["tar_index"]]
            if len(data) != row["image_size"]:
                raise changed_error(source, row, f"it ends {row['image_size'] - len(data)} bytes before the image does")
            yield data

    def _read_local(self, source: Source, row: SourceRow) -> bytes:
        if source.shard not in self._files:
            if len(self._files) >= _MOST_OPEN:
                self.close()
            self._files[source.shard] = os.open(source.url, os.O_RDONLY)
        return os.pread(self._files[source.shard], row["image_size"], source.offset_of(row))

    def _fetch(self, rows: Sequence[SourceRow]) -> dict[tuple[str, int], bytes]:
        """(shard, tar_index) -> bytes by range requests, all of one shard's together."""
        found: dict[tuple[str, int], bytes] = {}
        for shard, wanted in rows_by_shard(rows).items():
            source = self.sources[shard]
            starts = [source.offset_of(row) for row in wanted]
            ends = [start + row["image_size"] for start, row in zip(starts, wanted, strict=True)]
            try:
                ranges = read_ranges(source.url, starts, ends)
            except RemoteError as error:
                raise UserError(f"cannot read the shard {shard} at {source.url}: {error}") from error
            found |= {(shard, row["tar_index"]): data for row, data in zip(wanted, ranges, strict=True)}
        return found


def rows_by_shard(rows: Sequence[SourceRow]) -> dict[str, list[SourceRow]]:
    """shard -> its rows, in their order."""
    found: dict[str, list[SourceRow]] = {}
    for row in rows:
        found.setdefault(row["shard"], []).append(row)
    return found


def check_header(source: Source, row: SourceRow, data: bytes) -> ImageHeader:
    """The image's header, which must fit the row's width and height. Raises UserError naming the shard."""
    try:
        header = read_header(data)
    except IMAGE_ERRORS as error:
        raise changed_error(source, row, f"the bytes there are not an image ({problem_of(error, data)})") from error
    if (header.width, header.height) != (row["width"], row["height"]):
        was = f"{row['width']}x{row['height']}"
        raise changed_error(source, row, f"the image there is {header.width}x{header.height} pixels and was {was}")
    return header


def changed_error(source: Source, row: SourceRow, how: str) -> UserError:
    """The error for a shard that does not hold a row's image where it did."""
    return UserError(
        f"the shard {source.shard} has changed since it was mined: at the place of {row['key']!r} in {source.url}, "
        f"{how}; give the folder of the original with --shards-root, or mine again"
    )
