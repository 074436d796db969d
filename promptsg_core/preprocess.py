"""Image bytes to uint8 pixels to a normalised batch, as the evaluation of the published models does it.

All images here are RGB, channels first, (3, H, W). Resizing is bilinear with antialiasing on uint8: PIL's bytes where
an image grows, as pedestrian crops do, and within one grey level of them where it shrinks.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from promptsg_core.errors import ImageError
from promptsg_core.images import DEFAULT_MAX_PIXELS, decode_pixels


def decode_image(data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Tensor:
    """Image bytes -> uint8 RGB (3, H, W), upright; see `decode_pixels` for what is read and raised.

    In memory it stays (H, W, 3): resizing is faster on that than on separate planes.
    """
    return torch.from_numpy(decode_pixels(data, max_pixels=max_pixels)).permute(2, 0, 1)


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
