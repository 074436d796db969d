"""The original images' bytes for rows of the metadata, read from the shards by offset: those bytes and no others.

No torch.
"""

from __future__ import annotations

import contextlib
import os
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

from jobs.errors import UserError
from jobs.shards.groups import key_of
from jobs.shards.limits import MAX_MEMBER_BYTES
from jobs.shards.remote import RemoteError, read_ranges
from jobs.shards.tar import text_of
from jobs.system_errors import naming
from promptsg_core.images import IMAGE_ERRORS, ImageHeader, problem_of, read_header

CRC_COLUMN = "image_crc32"
_MOST_OPEN = 64  # files
_HEADER = tarfile.BLOCKSIZE  # bytes before a member's own
_LONGEST_NAME = 100  # bytes of a name in a tar header


class _OptionalColumns(TypedDict, total=False):
    image_crc32: int | None  # runs of earlier versions do not have it


class SourceRow(_OptionalColumns):
    """The columns of a metadata row that say where its image lies in the shard, and what it is."""

    shard: str
    key: str
    tar_index: int
    image_offset: int | None
    image_size: int
    width: int
    height: int


ROW_COLUMNS = tuple(name for name in SourceRow.__annotations__ if name in SourceRow.__required_keys__)


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

    def header_size(self, row: SourceRow) -> int:
        """How many bytes before the row's image are read too, as its tar header.

        Only rows of earlier versions need it, which have no CRC-32. A scratch file has none, and of a remote shard only
        the image's own bytes are requested.
        """
        return _HEADER if self.is_local and self.offsets is None and CRC_COLUMN not in row else 0


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
            with contextlib.suppress(OSError):  # what was read was read
                os.close(self._files.popitem()[1])

    def read(self, rows: Sequence[SourceRow]) -> Iterator[bytes]:
        """The bytes of each row's image, in the rows' order. Only these are read, and of local files their tar headers.

        Raises UserError naming the shard where it cannot be read or is not what was mined: the header is of another
        member, or the image has another CRC-32 than its row says.
        """
        for row in rows:
            if not 0 <= row["image_size"] <= MAX_MEMBER_BYTES or (row["image_offset"] or 0) < 0:
                raise changed_error(self.sources[row["shard"]], row, "no image can be")
        remote = self._fetch([row for row in rows if not self.sources[row["shard"]].is_local])
        for row in rows:
            source = self.sources[row["shard"]]
            data = self._read_local(source, row) if source.is_local else remote[row["shard"], row["tar_index"]]
            size = source.header_size(row)
            header, image = data[:size], data[size:]
            if len(image) != row["image_size"]:
                missing = row["image_size"] - len(image)
                raise changed_error(source, row, f"it ends {missing} bytes before the image does")
            if header:
                _check_member(source, row, header)
            check_crc(source, row, image)
            yield image

    def _read_local(self, source: Source, row: SourceRow) -> bytes:
        if source.shard not in self._files:
            if len(self._files) >= _MOST_OPEN:
                self.close()
            self._files[source.shard] = os.open(source.url, os.O_RDONLY)
        before = source.header_size(row)
        start = source.offset_of(row) - before
        if start < 0:
            raise changed_error(source, row, "no image can begin there")
        with naming(Path(source.url)):
            return os.pread(self._files[source.shard], before + row["image_size"], start)

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


def check_crc(source: Source, row: SourceRow, data: bytes) -> None:
    """Raises UserError, naming the shard, where an image is not the one that was mined. Earlier runs cannot tell."""
    if (wanted := row.get(CRC_COLUMN)) is not None and zlib.crc32(data) != wanted:
        raise changed_error(source, row, "another image is there (its CRC-32 differs)")


def _check_member(source: Source, row: SourceRow, header: bytes) -> None:
    """The tar header before an image must be of a member with the row's key and of the image's size."""
    try:
        info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise changed_error(source, row, "there is no tar header before it") from error
    # A long or foreign name is in a header of its own. This one has only what fits, and ? for what is not ASCII.
    name = header[:_LONGEST_NAME].rstrip(b"\0")
    safe = row["key"].isascii() and ".." not in row["key"].split("/")  # no row of an unsafe name was ever mined
    is_whole = safe and len(name) < _LONGEST_NAME and b"?" not in name
    if info.size != row["image_size"] or (is_whole and key_of(text_of(info.name)) != row["key"]):
        raise changed_error(source, row, f"the tar header is of {text_of(info.name)!r}, {info.size:,} bytes")


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
