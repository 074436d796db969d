"""Images to measure with: drawn pedestrians of 64x128 pixels, as JPEGs, as pixels, and in tar shards."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from jobs.pedestrians.crowd import Crowd
from jobs.pedestrians.photo import take
from jobs.shards.decoding import Decoding, decode_batch

_IMAGES_EACH = 18  # of an identity: 6 cameras, 3 images each


def drawn_jpegs(count: int) -> list[bytes]:
    """Distinct images as JPEG."""
    shots = Crowd(train=0, test=count // _IMAGES_EACH + 1, distractors=0, junk=0).shots()
    return [take(shot, 0).jpeg for shot in shots[:count]]


def decoded(jpegs: Sequence[bytes], size: tuple[int, int]) -> Tensor:
    """uint8 RGB (n, 3, *size)."""
    return decode_batch(jpegs, Decoding(image_size=size)).images


def many(pixels: Tensor, count: int) -> Tensor:
    """(n, 3, H, W) -> (count, 3, H, W): the images again and again."""
    return pixels[torch.arange(count) % len(pixels)].contiguous()


def write_shards(folder: Path, jpegs: Sequence[bytes], shards: int, images_each: int) -> None:
    """Shards `train-0000.tar` ...: one file under many names, since what is in them does not matter for the time."""
    folder.mkdir(parents=True)
    first = folder / "train-0000.tar"
    with tarfile.open(first, "w") as tar:
        for number in range(images_each):
            key = f"{1 + number // 6:04d}_c{1 + number % 6}s1_{number:06d}_00"
            facts = {"pid": 1 + number // 6, "camid": number % 6, "split": "train"}
            _add(tar, f"{key}.json", json.dumps(facts).encode())
            _add(tar, f"{key}.jpg", jpegs[number % len(jpegs)])
    for number in range(1, shards):
        os.link(first, folder / f"train-{number:04d}.tar")


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))
