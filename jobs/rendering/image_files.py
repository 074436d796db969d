"""Image files: bytes to pixels, pixels to bytes, pixels at another size, and writing (no torch).

Pixels are uint8 RGB (H, W, 3), sizes (height, width).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from cam.overlay import Picture
from cam.panels import fitting
from jobs.atomic import write_whole
from jobs.errors import UserError
from jobs.rendering.drawing.entry import ImageRow
from jobs.rendering.drawing.style import Size
from jobs.shards.random_access import Source, changed_error, check_header
from jobs.system_errors import reason_of
from promptsg_core.images import IMAGE_ERRORS, ImageHeader, open_image, plain_jpeg, upright_rgb

FORMATS = {
    "png": [cv2.IMWRITE_PNG_COMPRESSION, 3],
    "jpg": [cv2.IMWRITE_JPEG_QUALITY, 92],
    "webp": [cv2.IMWRITE_WEBP_QUALITY, 90],
}
# The most pixels of a side that the format, or the library that writes it, can hold.
_LONGEST = {"png": 1_000_000, "jpg": 65_500, "webp": 16_383}


def decode(data: bytes, header: ImageHeader) -> Picture:
    """Image bytes -> (H, W, 3), upright: the pixels that the model was given before resizing.

    Raises one of IMAGE_ERRORS for bytes that do not decode.
    """
    if header.plain:
        return plain_jpeg(data)
    with open_image(data) as image:
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
    """The bytes of an image file, `form` one of FORMATS. The picture is one that `fits`."""
    done, data = cv2.imencode(f".{form}", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), FORMATS[form])
    if not done:
        raise ValueError(f"a picture of {picture.shape[1]}x{picture.shape[0]} pixels cannot be written as {form}")
    return data.tobytes()


def fits(picture: Picture, form: str) -> bool:
    """Whether a file of this format can hold the picture."""
    return bool(max(picture.shape[:2]) <= _LONGEST[form])


def sized(image: Picture, size: Size | None) -> Picture:
    """The image at another size: smooth where it grows, averaged where it shrinks.

    Without a width it keeps its proportions, and one that would be very wide becomes lower (`cam.panels.fitting`).
    """
    if size is None:
        return image
    own_height, own_width = image.shape[:2]
    height, width = fitting((own_height, own_width), size[0]) if size[1] is None else (size[0], size[1])
    if (height, width) == (own_height, own_width):
        return image
    shrinks = height * width < own_height * own_width
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
        raise UserError(f"cannot write {path}: {reason_of(error)}") from error
