"""Which decoder of JPEGs is the fastest that gives Pillow's pixels: `python -m tests.bench.bench_decode FOLDER`.

One process and one thread. First the pixels of every image are compared with Pillow's: an arm that differs is named,
and not recommended. Then the arms take turns over all images, in an order that rotates by one in each repetition.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg

from promptsg_core.images import Pixels, decode_pixels, plain_jpeg

Decoder = Callable[[bytes], Pixels]


def pillow(data: bytes) -> Pixels:
    """Pillow alone."""
    return np.array(Image.open(io.BytesIO(data)).convert("RGB"))


def opencv_after_pillow(data: bytes) -> Pixels:
    """OpenCV, with Pillow opening the image to check its size and kind: what this project did before."""
    with Image.open(io.BytesIO(data)) as image:
        if image.format != "JPEG" or image.mode not in ("RGB", "L") or image.getexif().get(0x0112, 1) != 1:
            raise ValueError("not a plain JPEG")
        return plain_jpeg(data)


def opencv_alone(data: bytes) -> Pixels:
    """OpenCV without any check: the least that OpenCV can take."""
    return plain_jpeg(data)


def torchvision_io(data: bytes) -> Pixels:
    """torchvision.io.decode_jpeg, which gives separate planes."""
    encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    pixels: Pixels = decode_jpeg(encoded, ImageReadMode.RGB).permute(1, 2, 0).numpy()
    return pixels


ARMS: dict[str, Decoder] = {
    "pillow": pillow,
    "opencv-after-pillow": opencv_after_pillow,
    "ours": decode_pixels,
    "opencv-alone": opencv_alone,
    "torchvision": torchvision_io,
}


def differing(images: Sequence[bytes], decode: Decoder) -> int:
    """How many images do not have Pillow's pixels."""
    return sum(not np.array_equal(decode(data), pillow(data)) for data in images)


def microseconds(images: Sequence[bytes], repetitions: int) -> dict[str, list[float]]:
    """Processor time for an image, of each arm in each repetition."""
    found: dict[str, list[float]] = {name: [] for name in ARMS}
    names = list(ARMS)
    for repetition in range(repetitions):
        first = repetition % len(names)
        for name in names[first:] + names[:first]:
            decode, started = ARMS[name], time.process_time()
            for data in images:
                decode(data)
            found[name].append(1e6 * (time.process_time() - started) / len(images))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="A folder of JPEGs; its subfolders count too.")
    parser.add_argument("--repetitions", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    warnings.simplefilter("ignore")  # torchvision announces the end of its decoders
    images = [path.read_bytes() for path in sorted(options.folder.rglob("*.jpg"))]
    differences = {name: differing(images, decode) for name, decode in ARMS.items()}
    times = microseconds(images, options.repetitions)
    ratios = {name: statistics.median(a / b for a, b in zip(times[name], times["ours"], strict=True)) for name in times}
    for name in ARMS:
        low, median, high = statistics.quantiles(times[name], n=4)
        print(
            f"{name:20} {median:7.1f} us ({low:.1f} to {high:.1f}), {ratios[name]:.2f} of ours, "
            f"{differences[name]} of {len(images)} images differ from Pillow"
        )
    print(json.dumps({"microseconds": times, "differ": differences, "load": os.getloadavg()}))


if __name__ == "__main__":
    main()
