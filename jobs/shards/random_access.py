"""The original images' bytes for rows of the metadata, read from the shards by offset: those bytes and no others.

No torch. A compressed shard, or one that comes through a pipe, has no offsets: it is read from start to end once, and
the wanted images are kept in a scratch file with offsets of its own.
"""

from __future__ import annotations

import io
import logging
import os
import re
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import ExifTags, Image

from jobs.errors import UserError
from jobs.shards.samples import read_samples
from jobs.shards.tar import TarReader
from jobs.shards.urls import Shard

if TYPE_CHECKING:
    from jobs.runs.run import Run

logger = logging.getLogger(__name__)
# Pillow would refuse large images by its own limit; mining had one, and a row's size is checked from the header.
Image.MAX_IMAGE_PIXELS = None
Row = Mapping[str, Any]
ROW_COLUMNS = ("shard", "key", "tar_index", "image_offset", "image_size", "width", "height")
# What Pillow's plugins raise on damage.
IMAGE_ERRORS = (OSError, ValueError, RuntimeError, SyntaxError, EOFError, LookupError, ArithmeticError, struct.error)
_SCHEME = re.compile(r"^[a-z][a-z0-9+.-]*:", re.IGNORECASE)
_TRANSPOSED = (5, 6, 7, 8)  # EXIF orientations that swap width and height


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the images of one shard are read: a path or an address for fsspec.

    `offsets` is tar_index -> offset in `url` where that is a scratch file, None where the rows' own offsets hold.
    """

    shard: str
    url: str
    is_local: bool
    offsets: Mapping[int, int] | None = None


@dataclass(frozen=True)
class Header:
    """What an image's header says: `width` and `height` of the upright image; `plain` for an upright 8-bit JPEG."""

    width: int
    height: int
    plain: bool


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

    def read(self, rows: Sequence[Row]) -> Iterator[bytes]:
        """The bytes of each row's image, in the rows' order, exactly `image_size` of them from each shard.

        Raises UserError naming the shard where it cannot be read or is not what was mined.
        """
        remote = [row for row in rows if not self.sources[row["shard"]].is_local]
        fetched = dict(self._fetch(remote))
        for row in rows:
            source = self.sources[row["shard"]]
            data = fetched[_id(row)] if not source.is_local else self._read_local(source, row)
            if len(data) != row["image_size"]:
                raise changed(source, row, f"it ends {row['image_size'] - len(data)} bytes before the image does")
            yield data

    def _read_local(self, source: Source, row: Row) -> bytes:
        if source.shard not in self._files:
            if len(self._files) >= 64:
                self.close()
            self._files[source.shard] = os.open(source.url, os.O_RDONLY)
        return os.pread(self._files[source.shard], row["image_size"], _offset(source, row))

    def _fetch(self, rows: Sequence[Row]) -> Iterator[tuple[tuple[str, int], bytes]]:
        """((shard, tar_index), bytes) by range requests, all of one shard's together."""
        by_shard: dict[str, list[Row]] = {}
        for row in rows:
            by_shard.setdefault(row["shard"], []).append(row)
        for shard, wanted in by_shard.items():
            source = self.sources[shard]
            starts = [_offset(source, row) for row in wanted]
            ends = [start + row["image_size"] for start, row in zip(starts, wanted, strict=True)]
            try:
                system, path = _file_system(source.url)
                found = system.cat_ranges([path] * len(wanted), starts, ends, on_error="raise")
            except Exception as error:  # each file system has errors of its own
                raise UserError(f"cannot read the shard {shard} at {source.url}: {_reason(error)}") from error
            yield from ((_id(row), bytes(data)) for row, data in zip(wanted, found, strict=True))


def locate(run: Run, rows: Sequence[Row], shards_root: str | Path | None, scratch: Path) -> dict[str, Source]:
    """Where the images of the rows can be read: shard -> Source; shards without offsets are unpacked below `scratch`.

    Raises UserError for a shard that is not there, or has another size than when it was mined.
    """
    shards = {shard.name: shard for shard in run.manifest.shards}
    by_shard: dict[str, list[Row]] = {}
    for row in rows:
        by_shard.setdefault(row["shard"], []).append(row)
    sources, to_scan = {}, []
    for name, wanted in by_shard.items():
        shard = _moved(shards[name], shards_root)
        if shard.is_local:
            _check_size(shard, shards[name].size)
        if shard.url.startswith("pipe:") or any(row["image_offset"] is None for row in wanted):
            to_scan.append((shard, wanted))
        else:
            sources[name] = Source(shard=name, url=shard.url, is_local=shard.is_local)
    if to_scan:
        count, size = sum(len(rows) for _, rows in to_scan), sum(shard.size or 0 for shard, _ in to_scan)
        cost = f"{size:,} bytes" if size else "all of them"
        logger.warning(
            "%d shards are compressed or come through a pipe: reading %s to get %d images; plain tars would need only "
            "the images' own bytes",
            len(to_scan), cost, count,
        )  # fmt: skip
    return sources | {shard.name: unpack(shard, wanted, scratch / f"{shard.name}.images") for shard, wanted in to_scan}


def unpack(shard: Shard, rows: Iterable[Row], scratch: Path) -> Source:
    """Reads a shard from start to end and writes the wanted images, back to back, to a scratch file."""
    wanted = {row["tar_index"]: row for row in rows}
    offsets: dict[int, int] = {}
    source = Source(shard=shard.name, url=shard.url, is_local=shard.is_local)
    with TarReader(shard) as tar, scratch.open("wb") as file:
        for sample, data in read_samples(tar, shard.name):
            row = wanted.get(sample.tar_index)
            if row is None or data is None:
                continue
            if sample.key != row["key"] or len(data) != row["image_size"]:
                raise changed(source, row, f"its sample {sample.tar_index} is {sample.key!r} of {len(data)} bytes")
            offsets[sample.tar_index] = file.tell()
            file.write(data)
    if missing := wanted.keys() - offsets.keys():
        raise changed(source, wanted[min(missing)], "the image is no longer in it")
    return Source(shard=shard.name, url=str(scratch), is_local=True, offsets=offsets)


def check_header(source: Source, row: Row, data: bytes) -> Header:
    """The image's header, which must fit the row's width and height. Raises UserError naming the shard."""
    try:
        header = read_header(data)
    except IMAGE_ERRORS as error:
        raise changed(source, row, f"what lies there is no image ({_reason(error)})") from error
    if (header.width, header.height) != (row["width"], row["height"]):
        was = f"{row['width']}x{row['height']}"
        raise changed(source, row, f"the image there is {header.width}x{header.height} pixels and was {was}")
    return header


def read_header(data: bytes) -> Header:
    """An image's size without decoding it. Raises one of IMAGE_ERRORS for bytes that are no image."""
    if (size := _plain_jpeg_size(data)) is not None:
        return Header(*size, plain=True)
    with Image.open(io.BytesIO(data)) as image:
        width, height = image.size
        if image.getexif().get(ExifTags.Base.Orientation, 1) in _TRANSPOSED:
            width, height = height, width
    return Header(width, height, plain=False)


def _plain_jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) of a whole JPEG of 8 bits, grey or colour, without EXIF data; None for anything else.

    Twenty times as fast as Pillow's parser (ITU-T T.81, B.1 and B.2.2): segments up to the frame header.
    """
    if not (data.startswith(b"\xff\xd8") and data.endswith(b"\xff\xd9")):
        return None
    at = 2
    while at + 9 < len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker in (0xC0, 0xC1, 0xC2):  # baseline, extended, progressive
            bits, height, width, components = struct.unpack_from(">BHHB", data, at + 4)
            return (width, height) if bits == 8 and components in (1, 3) and width and height else None
        if marker == 0xE1 or (0xC3 <= marker <= 0xCF and marker != 0xC4) or marker in (0xFF, 0xDA):
            return None  # EXIF may turn the image; other frames and fill bytes are left to Pillow
        at += 2 + length
    return None


def _moved(shard: Shard, root: str | Path | None) -> Shard:
    """The shard under its base name in `root`, or where it was."""
    if root is None:
        return shard
    base = shard.url.partition("?")[0].rstrip("/").rsplit("/", 1)[-1]
    if shard.url.startswith("pipe:"):
        base = f"{shard.name}.tar"
    text = str(root).rstrip("/") or "/"
    return Shard(name=shard.name, url=f"{text}/{base}", size=shard.size)


def _check_size(shard: Shard, mined: int | None) -> None:
    try:
        size = Path(shard.url).stat().st_size
    except OSError as error:
        reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        raise UserError(
            f"the shard {shard.name} {reason}: {shard.url}; give the folder that has it with --shards-root"
        ) from error
    if mined is not None and size != mined:
        raise UserError(
            f"the shard {shard.name} has changed since it was mined: {shard.url} has {size:,} bytes and had {mined:,}; "
            "give the folder of the original with --shards-root, or mine again"
        )


def changed(source: Source, row: Row, how: str) -> UserError:
    """What to tell a user whose shard does not hold a row's image where it did."""
    return UserError(
        f"the shard {source.shard} has changed since it was mined: at the place of {row['key']!r} in {source.url}, "
        f"{how}; give the folder of the original with --shards-root, or mine again"
    )


def _offset(source: Source, row: Row) -> int:
    return int(row["image_offset"] if source.offsets is None else source.offsets[row["tar_index"]])


def _id(row: Row) -> tuple[str, int]:
    return row["shard"], row["tar_index"]


def _file_system(url: str) -> tuple[Any, str]:
    import fsspec

    system, path = fsspec.core.url_to_fs(url)
    return system, path


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
