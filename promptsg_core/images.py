"""Image bytes to uint8 pixels, (H, W, 3) RGB, upright, and the size that an image's header states (no torch).

OpenCV decodes plain JPEGs, which data sets consist of: it gives Pillow's pixels in half of Pillow's time
(tests/bench/bench_decode.py). Pillow decodes everything else.
"""

from __future__ import annotations

import io
import struct
import warnings
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from promptsg_core.errors import ImageError
from promptsg_core.image_formats import format_of, other_format_of

Pixels = NDArray[np.uint8]
DEFAULT_MAX_PIXELS = 100_000_000
MAX_SIDE = 65_535  # of a JPEG. Rows of 100 million pixels take libraries gigabytes
# Pillow warns of large images on standard error; here `max_pixels` decides, before anything is decoded.
Image.MAX_IMAGE_PIXELS = None
# It also prints a line for each damaged tag of a TIFF. What is wrong with an image is said in its row.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.TiffImagePlugin")
# What OpenCV and Pillow's plugins raise for damaged bytes.
IMAGE_ERRORS = (
    cv2.error, OSError, ValueError, RuntimeError, SyntaxError, EOFError, LookupError, ArithmeticError, struct.error,
)  # fmt: skip
_SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I")
_ROWS_AT_ONCE = 64
_TRANSPOSED = (5, 6, 7, 8)  # EXIF orientations that swap width and height
# Markers of ITU-T T.81, table B.1.
_START, _END = b"\xff\xd8", b"\xff\xd9"
_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended and progressive
_EXIF, _FILL, _SCAN = 0xE1, 0xFF, 0xDA
_HUFFMAN_TABLES = 0xC4


class ImageTooLargeError(ImageError):
    """More pixels than the limit, by the image's own header."""


@dataclass(frozen=True)
class ImageHeader:
    """What an image's header says: `width` and `height` of the upright image; `plain` for an upright 8-bit JPEG."""

    width: int
    height: int
    plain: bool


def read_header(data: bytes) -> ImageHeader:
    """The size of an image, without decoding it. Raises one of IMAGE_ERRORS for bytes that are not an image."""
    if (size := plain_jpeg_size(data)) is not None:
        return ImageHeader(*size, plain=True)
    with open_image(data) as image:
        width, height = _stored_size(image)
        if _orientation(image) in _TRANSPOSED:
            width, height = height, width
    return ImageHeader(width, height, plain=False)


def open_image(data: bytes) -> Image.Image:
    """Opens an image of a known format without decoding it; of several frames it is the first one.

    Raises UnidentifiedImageError for any other bytes: no plugin that is not in the list is ever asked.
    """
    form = format_of(data)
    if form is None:
        other = other_format_of(data)
        raise UnidentifiedImageError(f"{other} is not read here" if other else "")
    Image.preinit()  # the usual formats; init imports all plugins, which takes longer
    if form not in Image.OPEN:
        Image.init()
    if form not in Image.OPEN:
        raise UnidentifiedImageError(f"this version of Pillow does not read {form}")
    return Image.open(io.BytesIO(data), formats=[form])


def decode_pixels(data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Pixels:
    """The bytes of an image file of a known format -> uint8 RGB (H, W, 3), upright by its EXIF orientation.

    Transparency is dropped, 16 bits are scaled to 8, grey and CMYK are converted. Raises ImageError with a short reason
    for bytes that are not a whole image, and ImageTooLargeError, from the header alone, above `max_pixels`.
    """
    try:
        if (size := plain_jpeg_size(data)) is not None:
            _check_size(size, max_pixels)
            return plain_jpeg(data)
        with open_image(data) as image:
            _check_size(image.size, max_pixels)
            return plain_jpeg(data) if _is_plain_jpeg(image, data) else upright_rgb(image)
    except ImageError:
        raise
    except IMAGE_ERRORS as error:
        raise ImageError(problem_of(error, data)) from error


def problem_of(error: Exception, data: bytes) -> str:
    """What is wrong with the bytes of an image that raised one of IMAGE_ERRORS, in one line."""
    if isinstance(error, UnidentifiedImageError):
        return f"no image format that is known here{_which(error)}" if data else "empty file"
    return " ".join(str(error).split()) or type(error).__name__


def plain_jpeg(data: bytes) -> Pixels:
    """An upright 8-bit JPEG, grey or colour -> (H, W, 3), by OpenCV. Raises ImageError for a damaged one."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None:
        raise ImageError("damaged JPEG")
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels), np.uint8)


def upright_rgb(image: Image.Image) -> Pixels:
    """Any image that Pillow has opened -> (H, W, 3). Raises what Pillow's plugins raise for damaged bytes."""
    image.load()
    upright = ImageOps.exif_transpose(image)
    if upright.mode == "F":  # convert("RGB") would clip: which numbers are black and white is not known
        raise ValueError("pixels are floating-point numbers, which are not read here")
    if upright.mode in _SIXTEEN_BIT:  # convert("RGB") would clip at 255
        return _scaled_to_8_bits(np.asarray(upright))
    return np.array(upright.convert("RGB"))


def _scaled_to_8_bits(grey: NDArray[np.generic]) -> Pixels:
    """Grey values (H, W) from 0 to 65,535 -> (H, W, 3). By blocks of rows: wide integers of all take gigabytes."""
    pixels = np.empty((*grey.shape, 3), np.uint8)
    for start in range(0, len(grey), _ROWS_AT_ONCE):
        rows = grey[start : start + _ROWS_AT_ONCE].astype(np.int64).clip(0, 65535)
        pixels[start : start + _ROWS_AT_ONCE] = ((rows * 255 + 32767) // 65535)[..., None]
    return pixels


def plain_jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) of a whole 8-bit JPEG, grey or colour, without EXIF data; None for anything else.

    It reads the segments up to the frame header (ITU-T T.81, B.1 and B.2.2), twenty times as fast as Pillow.
    """
    if not (data.startswith(_START) and data.endswith(_END)):
        return None
    at = 2
    while at + 9 < len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker in _FRAMES:
            bits, height, width, components = struct.unpack_from(">BHHB", data, at + 4)
            return (width, height) if bits == 8 and components in (1, 3) and width and height else None
        other_frame = 0xC3 <= marker <= 0xCF and marker != _HUFFMAN_TABLES
        if other_frame or marker in (_EXIF, _FILL, _SCAN):  # EXIF data may turn the image
            return None
        at += 2 + length
    return None


def _which(error: UnidentifiedImageError) -> str:
    """What is known of an image that was not opened. Pillow's own message names only an object in memory."""
    return "" if "BytesIO" in str(error) or not str(error) else f": {error}"


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if max(size) > MAX_SIDE:
        raise ImageTooLargeError(f"{width}x{height} pixels, more than {MAX_SIDE} on a side")
    if width * height > max_pixels:
        raise ImageTooLargeError(f"{width}x{height} pixels, more than max_image_pixels {max_pixels}")


def _is_plain_jpeg(image: Image.Image, data: bytes) -> bool:
    """Whether OpenCV gives Pillow's pixels: 8-bit RGB or grey, upright, with its end marker.

    libjpeg fills the missing part of a truncated file with grey and only warns; Pillow refuses it.
    """
    if image.format != "JPEG" or image.mode not in ("RGB", "L"):
        return False
    return data.endswith(_END) and _orientation(image) == 1


def _stored_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) as stored. Some versions of Pillow state a TIFF's size as its orientation turns it."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return int(image.tag_v2[TiffImagePlugin.IMAGEWIDTH]), int(image.tag_v2[TiffImagePlugin.IMAGELENGTH])
    return image.size


def _orientation(image: Image.Image) -> int:
    orientation: int = image.getexif().get(ExifTags.Base.Orientation, 1)
    return orientation
