"""Where masks are found: beside the images in the shards, or in folders (no torch)."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from jobs.errors import UserError
from jobs.image_names import MASK_SUFFIX
from jobs.shards.access import ShardAccess
from jobs.shards.groups import Group, read_groups
from jobs.shards.limits import MAX_NOTE_BYTES
from jobs.shards.tar import TarReader
from jobs.shards.urls import Shard
from jobs.system_errors import reason_of

MAX_MASK_BYTES = MAX_NOTE_BYTES
_ELSEWHERE = "give the folder of the original with --shards-root, or the masks with --masks"


@dataclass(frozen=True, kw_only=True)
class MaskedImage:
    """An image whose mask is wanted: its upright size in pixels, None where unknown, and what its bytes were.

    Runs of earlier versions have no `crc32`.
    """

    key: str
    width: int | None
    height: int | None
    size: int | None
    crc32: int | None


@dataclass(frozen=True)
class FoundMask:
    """The bytes of an image's mask; or why they cannot be read; or neither, where there is none."""

    data: bytes | None = None
    problem: str | None = None


class MaskFiles(Protocol):
    """Where masks are found."""

    def read(self, shard: str, images: Sequence[MaskedImage]) -> Iterator[tuple[MaskedImage, FoundMask]]:
        """The mask of each image of a shard; the images are in the order of the tar."""


@dataclass(frozen=True)
class MaskFolders:
    """Folders with `<key>.png`; the first that has the file counts."""

    folders: tuple[Path, ...]

    def __post_init__(self) -> None:
        for folder in self.folders:
            if not folder.is_dir():
                raise UserError(f"--masks {folder} is not a folder")

    def read(self, shard: str, images: Sequence[MaskedImage]) -> Iterator[tuple[MaskedImage, FoundMask]]:
        """As MaskFiles has it. A key that leads out of the folders has no mask."""
        for image in images:
            name = PurePosixPath(f"{image.key}.png")
            is_safe = not name.is_absolute() and ".." not in name.parts and "\0" not in image.key
            yield image, self._find(name) if is_safe else FoundMask()

    def _find(self, name: PurePosixPath) -> FoundMask:
        for folder in self.folders:
            path = folder / name
            try:
                if path.is_file():
                    return _bounded(path.read_bytes() if path.stat().st_size <= MAX_MASK_BYTES else None)
            except OSError as error:
                return FoundMask(problem=reason_of(error))
        return FoundMask()


@dataclass(frozen=True)
class ShardMasks:
    """The members `<key>.mask.png` of the shards. Each tar is read once, from the start to the last image.

    `shards` are those that the run was mined from, by name.
    """

    shards: Mapping[str, Shard]
    access: ShardAccess

    def read(self, shard: str, images: Sequence[MaskedImage]) -> Iterator[tuple[MaskedImage, FoundMask]]:
        """As MaskFiles has it. Raises UserError where a shard is not there, or holds other images than were mined."""
        (found,) = self.access.find([self.shards[shard]])
        if found.is_local and not Path(found.url).exists():
            raise UserError(f"the shard {shard} does not exist: {found.url}; {_ELSEWHERE}")
        waiting = iter(images)
        image = next(waiting, None)
        with TarReader(found) as tar:
            for group in read_groups(tar):
                if image is None:
                    return
                if group.key == image.key:
                    _check_image(found, image, group)
                    yield image, _mask_of(group)
                    image = next(waiting, None)
        if image is not None:
            raise UserError(
                f"the shard {shard} has changed since it was mined: {image.key!r} is not in it, or not in its place; "
                f"{_ELSEWHERE}"
            )


def _check_image(shard: Shard, image: MaskedImage, group: Group) -> None:
    """Raises UserError where the group's image is another one than was mined."""
    data = group.images[0].data if group.images else None
    was_mined = data is not None and (
        zlib.crc32(data) == image.crc32 if image.crc32 is not None else image.size in (None, len(data))
    )
    if not was_mined:
        raise UserError(
            f"the shard {shard.name} has changed since it was mined: {image.key!r} in {shard.url} is another image; "
            f"{_ELSEWHERE}"
        )


def _mask_of(group: Group) -> FoundMask:
    masks = {name: member for name, member in group.members if f".{name}".endswith(MASK_SUFFIX)}
    if not masks:
        return FoundMask()
    member = masks.get(MASK_SUFFIX.removeprefix(".")) or masks[min(masks)]
    if member.data is None and member.too_large is None:
        return FoundMask(problem="a link or a device, which are not followed")
    return _bounded(member.data)


def _bounded(data: bytes | None) -> FoundMask:
    """The bytes of a mask, unless they are too many, or more than were kept (None)."""
    if data is None or len(data) > MAX_MASK_BYTES:
        return FoundMask(problem=f"more than {MAX_MASK_BYTES:,} bytes")
    return FoundMask(data=data)
