"""Tars and images that tests build: a picture's colour carries a number, so that a wrong pairing shows."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Member = tuple[str, bytes]


def colour_of(number: int) -> tuple[int, int, int]:
    """A colour per number below 512, far enough apart to survive JPEG."""
    return 16 + 32 * (number % 8), 16 + 32 * (number // 8 % 8), 16 + 32 * (number // 64 % 8)


def number_of(pixels: np.ndarray) -> int:
    """The number behind a (3, H, W) image of one colour."""
    r, g, b = (round((float(channel.mean()) - 16) / 32) for channel in pixels)
    return r + 8 * g + 64 * b


def image_bytes(number: int = 0, size: tuple[int, int] = (32, 16), form: str = "JPEG", mode: str = "RGB") -> bytes:
    """An image of one colour; `size` is (height, width)."""
    picture = Image.new("RGB", (size[1], size[0]), colour_of(number)).convert(mode)
    out = io.BytesIO()
    picture.save(out, form, **({"quality": 95} if form == "JPEG" else {}))
    return out.getvalue()


def textured_image(seed: int, size: tuple[int, int] = (32, 16)) -> bytes:
    """A JPEG with structure, for maps that should not be flat; `size` is (height, width)."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (4, 2, 3), dtype=np.uint8)).resize((size[1], size[0]))
    out = io.BytesIO()
    coarse.save(out, "JPEG", quality=90)
    return out.getvalue()


def tar_bytes(members: Sequence[Member], end: bool = True) -> bytes:
    """A plain tar of regular files; without `end` it lacks the end-of-archive blocks."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        length = tar.offset
    return out.getvalue() if end else out.getvalue()[:length]


def write_tar(path: Path, members: Sequence[Member], end: bool = True) -> Path:
    """Writes a tar and returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar_bytes(members, end))
    return path


def sample_members(key: str, image: bytes, **metadata: Any) -> list[Member]:
    """A `.json` and a `.jpg` member of one sample."""
    return [(f"{key}.json", json.dumps(metadata).encode()), (f"{key}.jpg", image)]


def market_key(pid: int, camid: int, number: int) -> str:
    """A key as Market-1501 names images; `camid` is 0-based."""
    return f"{pid:04d}_c{camid + 1}s1_{number:06d}_00"


def market_shard(path: Path, count: int, first: int = 0, size: tuple[int, int] = (32, 16)) -> list[str]:
    """Writes a shard of textured images with Market names, 5 to an identity, and returns its keys."""
    keys, members = [], []
    for number in range(first, first + count):
        key = market_key(1 + number // 5, number % 6, number)
        keys.append(key)
        members += sample_members(key, textured_image(number, size), pid=1 + number // 5, camid=number % 6)
    write_tar(path, members)
    return keys
