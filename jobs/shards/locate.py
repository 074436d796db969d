"""Finds where the images of metadata rows can be read now, before any of them is read (no torch).

Three kinds of shards have no usable offsets: compressed ones, those that come through a pipe, and those on a server
without byte ranges. Such a shard is read from start to end once, and the wanted images are kept in a scratch file.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.errors import UserError
from jobs.phrases import counted
from jobs.progress import told
from jobs.shards.access import ShardAccess
from jobs.shards.random_access import Source, SourceRow, changed_error, check_crc, rows_by_shard
from jobs.shards.remote import FileFacts, RemoteError, describe
from jobs.shards.samples import read_samples
from jobs.shards.tar import TarReader
from jobs.shards.urls import PIPE, Shard

logger = logging.getLogger(__name__)
_ELSEWHERE = "give the folder of the original with --shards-root, or mine again"


@dataclass(frozen=True)
class _Unpacking:
    """A shard that must be read from start to end, and the rows that are wanted of it."""

    shard: Shard
    rows: list[SourceRow]


@told("looking for the shards")
def locate(
    shards: Iterable[Shard], rows: Sequence[SourceRow], access: ShardAccess, scratch: Path | None
) -> dict[str, Source]:
    """Where the images of the rows can be read: shard -> Source. `shards` are those that the run was mined from.

    `access` says where they are now, and which of them may be opened. Shards without offsets are unpacked into the
    folder `scratch`; without one they are an error. Raises UserError for a shard that may not be opened, does not
    exist, or has another size than when it was mined.
    """
    mined = {shard.name: shard for shard in shards}
    sources: dict[str, Source] = {}
    to_unpack: list[_Unpacking] = []
    by_shard = rows_by_shard(rows)
    for shard in access.find(_of_run(mined, name) for name in by_shard):
        name, wanted = shard.name, by_shard[shard.name]
        has_ranges = _check(shard)
        if has_ranges and all(row["image_offset"] is not None for row in wanted):
            sources[name] = Source(shard=name, url=shard.url, is_local=shard.is_local)
        else:
            to_unpack.append(_Unpacking(shard, wanted))
    if to_unpack:
        if scratch is None:
            raise UserError(
                f"the shard {to_unpack[0].shard.name} is compressed, behind a pipe, or on a server without byte "
                "ranges, and only `promptsg render` and `promptsg gallery` read such a shard from start to end"
            )
        _warn(to_unpack)
        for one in to_unpack:
            sources[one.shard.name] = unpack(one.shard, one.rows, scratch / f"{one.shard.name}.images")
    return sources


def _of_run(mined: Mapping[str, Shard], name: str) -> Shard:
    if name not in mined:
        raise UserError(f"a row names the shard {name!r}, which run.json does not list; `promptsg verify` says more")
    return mined[name]


def unpack(shard: Shard, rows: Iterable[SourceRow], scratch: Path) -> Source:
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
                raise changed_error(
                    source, row, f"its sample {sample.tar_index} is {sample.key!r} of {len(data)} bytes"
                )
            check_crc(source, row, data)
            offsets[sample.tar_index] = file.tell()
            file.write(data)
    if missing := wanted.keys() - offsets.keys():
        raise changed_error(source, wanted[min(missing)], "the image is no longer in it")
    return Source(shard=shard.name, url=str(scratch), is_local=True, offsets=offsets)


def _check(shard: Shard) -> bool:
    """Whether parts of the shard can be read. Raises UserError where it does not exist or has another size."""
    if shard.url.startswith(PIPE):
        return False
    now = _describe(shard)
    if shard.size is not None and now.size is not None and now.size != shard.size:
        raise UserError(
            f"the shard {shard.name} has changed since it was mined: {shard.url} has {now.size:,} bytes and had "
            f"{shard.size:,}; {_ELSEWHERE}"
        )
    return now.has_ranges


def _describe(shard: Shard) -> FileFacts:
    """The shard's size and whether parts of it can be read."""
    try:
        if shard.is_local:
            return FileFacts(size=Path(shard.url).stat().st_size, has_ranges=True)
        return describe(shard.url)
    except RemoteError as error:
        raise UserError(f"cannot read the shard {shard.name} at {shard.url}: {error}") from error
    except OSError as error:
        reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        whence = " (as run.json has it)" if shard.recorded else ""
        raise UserError(
            f"the shard {shard.name} {reason}: {shard.url}{whence}; give the folder that has it with --shards-root"
        ) from error


def _warn(unpackings: Sequence[_Unpacking]) -> None:
    images = sum(len(one.rows) for one in unpackings)
    size = sum(one.shard.size or 0 for one in unpackings)
    logger.warning(
        "%s compressed, behind a pipe, or on a server without byte ranges: reading %s to get %s; plain tars would need "
        "only the images' own bytes",
        counted(len(unpackings), "shard is", "shards are"), f"{size:,} bytes" if size else "all of them",
        counted(images, "image"),
    )  # fmt: skip
