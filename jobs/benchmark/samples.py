"""The images to measure with: read from the shards, decoded, repeated to any number, and packed again."""

from __future__ import annotations

import io
import json
import tarfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.errors import UserError
from jobs.mining.config import MineConfig
from jobs.phrases import counted
from jobs.progress import told
from jobs.shards.samples import read_samples
from jobs.shards.tar import TarReader
from jobs.shards.urls import Shard

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class ReadImages:
    """The bytes of the first images of the shards, about how many images there are in all, and the seconds it took."""

    images: list[bytes]
    total: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class DecodedImages:
    """uint8 (n, 3, H, W) of the images that decode, and the seconds that decoding took on one thread."""

    pixels: torch.Tensor
    seconds: float


@told("reading images")
def read_images(shards: Sequence[Shard], limit: int) -> ReadImages:
    """The first `limit` images. The total is exact if there are no more, else it is estimated from the shards' sizes.

    Raises UserError if there is no image.
    """
    images: list[bytes] = []
    read_bytes = finished = 0
    started = time.perf_counter()
    for shard in shards:
        with TarReader(shard) as tar:
            finished += _append_images(images, tar, shard.name, limit)
            read_bytes += tar.bytes_read
        if len(images) == limit:
            break
    seconds = time.perf_counter() - started
    if not images:
        raise UserError(
            f"the {counted(len(shards), 'shard holds', 'shards hold')} no image that could be measured with"
        )
    return ReadImages(images=images, total=_total(len(images), shards, finished, read_bytes), seconds=seconds)


@told("decoding images")
def decode_images(images: Sequence[bytes], size: tuple[int, int], config: MineConfig) -> DecodedImages:
    """Decodes images to (height, width) on one thread, as a decoding process does.

    Raises UserError if none decodes.
    """
    import torch

    from jobs.shards.decoding import Decoding, DecodingFailure, decode_batch

    how = Decoding(image_size=size, interpolation=config.interpolation, max_image_pixels=config.max_image_pixels)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        decode_batch(images[:8], how)  # warms up
        decoded = decode_batch(images, how)
    finally:
        torch.set_num_threads(threads)
    if not len(decoded.images):
        first = decoded.outcomes[0]
        assert isinstance(first, DecodingFailure)
        raise UserError(f"none of the first {counted(len(images), 'image')} decodes; the first says: {first.error}")
    return DecodedImages(pixels=decoded.images, seconds=decoded.seconds)


def repeated(pixels: torch.Tensor, size: int) -> torch.Tensor:
    """(n, 3, H, W) -> (size, 3, H, W): the images over and over."""
    import torch

    return pixels[torch.arange(size) % len(pixels)]


def made_caption(number: int) -> str:
    """A caption of usual length, another for each image: a text tower reads equal texts once."""
    return f"person {number} wears a red coat, black trousers and white shoes, and carries a bag"


def pack(path: Path, images: Sequence[bytes], count: int, *, captions: bool = False) -> None:
    """A tar of `count` samples: the images over and over, each time under a new key, with `captions` each with one."""
    with tarfile.open(path, "w") as tar:
        for number, data in enumerate(islice(cycle(images), count)):
            _add(tar, f"{number:08d}.jpg", data)  # the decoder looks at the bytes, not at the name
            if captions:
                _add(tar, f"{number:08d}.json", json.dumps({"caption": made_caption(number)}).encode())


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def _append_images(images: list[bytes], tar: TarReader, shard: str, limit: int) -> bool:
    """Appends the images of a shard, up to `limit` in all. Returns whether the shard was read to its end."""
    for _, data in read_samples(tar, shard):
        if data is not None:
            images.append(data)
        if len(images) == limit:
            return False
    return True


def _total(images: int, shards: Sequence[Shard], finished: int, read_bytes: int) -> int:
    """About how many images the shards hold, when so many images were in the bytes that were read."""
    if finished == len(shards):
        return images
    if any(shard.size is None for shard in shards):  # remote: as if every shard held as many as those that were read
        return round(images / max(1, finished + 1) * len(shards))
    return max(images, round(images * sum(shard.size or 0 for shard in shards) / max(1, read_bytes)))
