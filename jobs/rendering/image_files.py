"""Image files: bytes to pixels, pixels to bytes, pixels at another size, and writing (no torch).

Pixels are uint8 RGB (H, W, 3), sizes (height, width).
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from cam.overlay import Picture
from jobs.atomic import write_whole
from jobs.errors import UserError
from jobs.rendering.drawing.entry import ImageRow
from jobs.rendering.drawing.style import Size
from jobs.shards.random_access import Source, changed_error, check_header
from promptsg_core.images import IMAGE_ERRORS, ImageHeader, plain_jpeg, upright_rgb

FORMATS = {
    "png": [cv2.IMWRITE_PNG_COMPRESSION, 3],
    "jpg": [cv2.IMWRITE_JPEG_QUALITY, 92],
    "webp": [cv2.IMWRITE_WEBP_QUALITY, 90],
}


def decode(data: bytes, header: ImageHeader) -> Picture:
    """Image bytes -> (H, W, 3), upright: the pixels that the model was given before resizing.

    Raises one of IMAGE_ERRORS for bytes that do not decode.
    """
    if header.plain:
        return plain_jpeg(data)
    with Image.open(io.BytesIO(data)) as image:
        return upright_rgb(image)


def decode_row(source: Source, row: ImageRow, data: bytes) -> Picture:
    """The bytes of a row's image -> (H, W, 3), upright.

    Raises UserError naming the shard where they are not the image that was mined.
    """
    header = check_header(source, row, data)
    try:
        return decode(data, header)
    except IMAGE_ERRORS as error:
        raise changed_error(source, row, f"the image there does not decode ({error})") from error


def encode(picture: Picture, form: str) -> bytes:
    """The bytes of an image file, `form` one of FORMATS."""
    done, data = cv2.imencode(f".{form}", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), FORMATS[form])
    if not done:
        raise ValueError(f"a picture of {picture.shape[1]}x{picture.shape[0]} pixels cannot be written as {form}")
    return data.tobytes()


def sized(image: Picture, size: Size | None) -> Picture:
    """The image at another size: smooth where it grows, averaged where it shrinks."""
    if size is None:
        return image
    height, own_width = size[0], image.shape[1]
    width = size[1] if size[1] is not None else max(1, round(own_width * height / image.shape[0]))
    if (height, width) == image.shape[:2]:
        return image
    shrinks = height * width < image.shape[0] * own_width
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (width, height), interpolation=interpolation), np.uint8)


def write_picture(path: Path, data: bytes) -> None:
    """Writes a file under its final name, whole or not at all. Raises UserError naming it, as on a full disk.

    It is not forced to the disk, which would take longer than drawing. Where a crash of the machine leaves an empty
    file, the next command draws the picture again.
    """
    with naming(path):
        write_whole(path, data, durable=False)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turns an error of the operating system into a UserError with the path: a full disk's own does not have it."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
