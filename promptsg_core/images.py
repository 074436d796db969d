"""Image bytes to uint8 pixels, (H, W, 3) RGB, upright; OpenCV where it gives Pillow's bytes, else Pillow (no torch)."""

from __future__ import annotations

import io

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from promptsg_core.errors import ImageError

Pixels = NDArray[np.uint8]
DEFAULT_MAX_PIXELS = 100_000_000
# Pillow warns of large images on standard error; here `max_pixels` decides, before anything is decoded.
Image.MAX_IMAGE_PIXELS = None
_SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I")


class ImageTooLargeError(ImageError):
    """More pixels than the limit, by the image's own header."""


def decode_pixels(data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Pixels:
    """The bytes of a JPEG, PNG, WebP or BMP file -> uint8 RGB (H, W, 3), upright by its EXIF orientation.

    Transparency is dropped, 16 bits are scaled to 8, grey and CMYK are converted. Raises ImageError with a short reason
    for bytes that are no whole image, and ImageTooLargeError, from the header alone, above `max_pixels`.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise ImageTooLargeError(f"{width}x{height} pixels, more than max_image_pixels {max_pixels}")
            return plain_jpeg(data) if _is_plain_jpeg(image, data) else upright_rgb(image)
    except ImageError:
        raise
    except Image.UnidentifiedImageError as error:
        raise ImageError("no image format that is known here" if data else "empty file") from error
    except (cv2.error, OSError, ValueError, RuntimeError, SyntaxError, EOFError, LookupError, ArithmeticError) as error:
        # Pillow's plugins report damage in any of these ways.
        raise ImageError(" ".join(str(error).split()) or type(error).__name__) from error


def plain_jpeg(data: bytes) -> Pixels:
    """An upright 8-bit JPEG, grey or colour, by OpenCV, which is twice as fast. Raises ImageError for a damaged one."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None:
        raise ImageError("damaged JPEG")
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels), np.uint8)


def upright_rgb(image: Image.Image) -> Pixels:
    """Any image that Pillow has opened. Raises what Pillow's plugins raise on damage."""
    image.load()
    upright = ImageOps.exif_transpose(image)
    if upright.mode in _SIXTEEN_BIT:  # convert("RGB") would clip at 255
        grey = np.asarray(upright).astype(np.int64).clip(0, 65535)
        return np.repeat(((grey * 255 + 32767) // 65535).astype(np.uint8)[..., None], 3, axis=2)
    return np.array(upright.convert("RGB"))


def _is_plain_jpeg(image: Image.Image, data: bytes) -> bool:
    """Whether OpenCV gives PIL's bytes: 8-bit RGB or grey, upright, with its end marker.

    libjpeg fills the missing part of a truncated file with grey and only warns; Pillow refuses it.
    """
    if image.format != "JPEG" or image.mode not in ("RGB", "L"):
        return False
    return data.endswith(b"\xff\xd9") and image.getexif().get(ExifTags.Base.Orientation, 1) == 1
