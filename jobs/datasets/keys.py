"""The key that an image's file name gives: what WebDataset reads from the member's name (no torch).

WebDataset ends a key at the first dot of the base name. So an image's key is its base name without the suffix of an
image, `X.jpg.jpg` included, and with underscores for the dots that are left.
"""

from __future__ import annotations

from pathlib import PurePath

from jobs.image_names import IMAGE_SUFFIXES
from jobs.phrases import shown

_JPEG = {".jfif": ".jpg", ".jpe": ".jpg"}  # names of JPEG that other programs do not decode


def base_key(path: PurePath) -> str:
    """The key that a file's base name gives. Bytes that are not UTF-8 and control characters are escaped: `\\xd0`."""
    stem = path.name
    while True:
        rest, _, suffix = stem.rpartition(".")
        if not rest or f".{suffix.lower()}" not in IMAGE_SUFFIXES:
            break
        stem = rest
    key = shown(stem.replace(".", "_"))
    if key.startswith("__") and key.endswith("__"):  # for readers a note of WebDataset's own, not a sample
        return f"_{key.strip('_')}"
    return key


def member_suffix(path: PurePath) -> str:
    """The suffix of an image's member, in lower case, and `.jpg` for all names of JPEG but `.jpeg`."""
    suffix = path.suffix.lower()
    return _JPEG.get(suffix, suffix)
