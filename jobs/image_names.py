"""Which names are names of image files: one rule for folders, for shards and for single images."""

from __future__ import annotations

from pathlib import PurePath

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})


def is_image(path: PurePath) -> bool:
    """Whether a file's suffix is that of an image, in any case of its letters."""
    return path.suffix.lower() in IMAGE_SUFFIXES
