"""Image bytes to uint8 pixels to a normalised batch, as the evaluation of the published models does it.

All images here are RGB, channels first, (3, H, W). Resizing is bilinear with antialiasing on uint8: PIL's bytes where
an image grows, as pedestrian crops do, and within one grey level of them where it shrinks.
"""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from promptsg_core.errors import ImageError

DEFAULT_MAX_PIXELS = 100_000_000
# Pillow warns of large images on standard error; here `max_pixels` decides, before anything is decoded.
Image.MAX_IMAGE_PIXELS = None
_SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I")


class ImageTooLargeError(ImageError):
    """More pixels than the limit, by the image's own header."""


def decode_image(data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Tensor:
    """The bytes of a JPEG, PNG, WebP or BMP file -> uint8 RGB (3, H, W), upright by its EXIF orientation.

    Transparency is dropped, 16 bits are scaled to 8, grey and CMYK are converted. Raises ImageError with a short reason
    for bytes that are no whole image, and ImageTooLargeError, from the header alone, above `max_pixels`.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise ImageTooLargeError(f"{width}x{height} pixels, more than max_image_pixels {max_pixels}")
            if _is_plain_jpeg(image, data):
                return _decode_plain_jpeg(data)
            return _decode_with_pillow(image)
    except ImageError:
        raise
    except Image.UnidentifiedImageError as error:
        raise ImageError("no image format that is known here" if data else "empty file") from error
    except (cv2.error, OSError, ValueError, RuntimeError, SyntaxError, EOFError, LookupError, ArithmeticError) as error:
        # Pillow's plugins report damage in any of these ways.
        raise ImageError(" ".join(str(error).split()) or type(error).__name__) from error


def resize_image(image: Tensor, size: tuple[int, int], interpolation: str = "bilinear") -> Tensor:
    """uint8 (3, H, W) -> uint8 (3, *size), antialiased; `interpolation` is bilinear or bicubic."""
    return F.interpolate(image.unsqueeze(0), size, mode=interpolation, antialias=True).squeeze(0)


def read_image(path: str | Path, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Tensor:
    """An image file -> uint8 RGB (3, H, W). Raises ImageError naming the file."""
    try:
        return decode_image(Path(path).read_bytes(), max_pixels=max_pixels)
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror or error}") from error
    except ImageError as error:
        raise type(error)(f"{path}: {error}") from error


def normalise(
    images: Tensor, mean: tuple[float, float, float], std: tuple[float, float, float], dtype: torch.dtype
) -> Tensor:
    """uint8 (B, 3, H, W) -> (images / 255 - mean) / std as `dtype`, on the images' own device."""
    wide = torch.promote_types(dtype, torch.float32)
    centre, spread = (torch.tensor(x, device=images.device, dtype=wide).view(3, 1, 1) for x in (mean, std))
    return images.to(wide).div_(255).sub_(centre).div_(spread).to(dtype)


def _is_plain_jpeg(image: Image.Image, data: bytes) -> bool:
    """Whether OpenCV, twice as fast, gives PIL's bytes: 8-bit RGB or grey, upright, with its end marker.

    libjpeg fills the missing part of a truncated file with grey and only warns; Pillow refuses it.
    """
    if image.format != "JPEG" or image.mode not in ("RGB", "L"):
        return False
    return data.endswith(b"\xff\xd9") and image.getexif().get(ExifTags.Base.Orientation, 1) == 1


def _decode_plain_jpeg(data: bytes) -> Tensor:
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if pixels is None:
        raise ImageError("damaged JPEG")
    # (H, W, 3) BGR in memory, and seen as (3, H, W): resizing is faster on it than on separate planes.
    return torch.from_numpy(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels)).permute(2, 0, 1)


def _decode_with_pillow(image: Image.Image) -> Tensor:
    image.load()
    upright = ImageOps.exif_transpose(image)
    if upright.mode in _SIXTEEN_BIT:  # convert("RGB") would clip at 255
        grey = np.asarray(upright).astype(np.int64).clip(0, 65535)
        return torch.from_numpy(((grey * 255 + 32767) // 65535).astype(np.uint8)).expand(3, -1, -1)
    return torch.from_numpy(np.array(upright.convert("RGB"))).permute(2, 0, 1)
