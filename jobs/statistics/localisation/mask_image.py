"""The bytes of a mask -> its labels: a PNG whose pixels are labels, in grey or as the indices of a palette (no torch).

Human parsing tools write both. A palette's colours are for people; the index is the label.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from jobs.arrays import UInt8Array
from jobs.statistics.localisation.labels import MOST
from promptsg_core.image_formats import format_of
from promptsg_core.images import DEFAULT_MAX_PIXELS, IMAGE_ERRORS, MAX_SIDE, open_image, problem_of

_WIDE = ("I;16", "I;16B", "I;16L", "I")  # how versions of Pillow call 16 bits
_BIT_DEPTH = 24  # the place of this byte in a PNG (ISO/IEC 15948, 11.2.2)


class MaskError(ValueError):
    """Why some bytes are no mask, in a few words."""


def read_labels(data: bytes) -> UInt8Array:
    """The bytes of a PNG -> (H, W) labels from 0 to 255.

    Grey of any depth and palettes are read. Raises MaskError for any other bytes: colours say no label, a JPEG blurs
    them, and a 16-bit mask must not exceed 255.
    """
    if format_of(data) != "PNG":
        raise MaskError("not a PNG" if data else "empty file")
    try:
        with open_image(data) as image:
            if max(image.size) > MAX_SIDE or image.width * image.height > DEFAULT_MAX_PIXELS:
                raise MaskError(f"{image.width}x{image.height} pixels are too many")
            return _labels_of(image, data[_BIT_DEPTH])
    except MaskError:
        raise
    except IMAGE_ERRORS as error:
        raise MaskError(problem_of(error, data)) from error


def _labels_of(image: Image.Image, depth: int) -> UInt8Array:
    if image.mode == "L":
        # Pillow spreads 2 and 4 bits over 0 to 255.
        return np.asarray(image) // np.uint8({2: 85, 4: 17}.get(depth, 1))
    if image.mode in ("P", "1"):
        return np.asarray(image).astype(np.uint8)
    if image.mode in _WIDE:
        labels = np.asarray(image)
        if labels.max(initial=0) > MOST:
            raise MaskError(f"16 bits with the label {int(labels.max())}, more than {MOST}")
        return labels.astype(np.uint8)
    raise MaskError("colours, not labels: write grey values or the indices of a palette")
