"""Which names are names of image files: one rule for folders, for shards and for single images."""

from __future__ import annotations

import re
from pathlib import PurePath

# The formats that promptsg_core.images reads.
IMAGE_SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif",
    ".ppm", ".pgm", ".pbm", ".pnm",
})  # fmt: skip
# Images too, but of formats that are not read here.
OTHER_IMAGE_SUFFIXES = frozenset({
    ".heic", ".heif", ".jp2", ".j2k", ".jpf", ".jpx", ".jxl", ".ico", ".icns", ".eps", ".svg", ".tga", ".dds", ".psd",
    ".exr", ".hdr", ".dng", ".cr2", ".nef", ".arw", ".pcx", ".wmf", ".emf",
})  # fmt: skip
MASK_SUFFIX = ".mask.png"  # of a sample's mask in a shard, which is not the sample's image
_CLUTTER_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", ".ds_store", ".localized"})
_CLUTTER_FOLDERS = frozenset({"__macosx", ".appledouble"})
_PART = "[0-9A-Za-z-][0-9A-Za-z_-]*"
# (key, extension) of the names that nearly all members of a shard have. They are no clutter and have one dot.
PLAIN_NAME = re.compile(rf"({_PART}(?:/{_PART})*)\.(jpg|jpeg|png|json)")


def is_image(path: PurePath | str) -> bool:
    """Whether a file's last suffix is that of an image, in any case of its letters, and it is no hidden clutter."""
    suffix = _suffix(path) if isinstance(path, str) else path.suffix
    return suffix.lower() in IMAGE_SUFFIXES and not is_hidden_clutter(path)


def _suffix(path: str) -> str:
    """What PurePath(path).suffix is, in a fraction of its time."""
    base = path.rstrip("/").rpartition("/")[2]
    dot = base.rfind(".")
    return base[dot:] if 0 < dot < len(base) - 1 else ""


def is_hidden_clutter(path: PurePath | str) -> bool:
    """Whether a file was left by a desktop system: `._*`, `__MACOSX/*`, `Thumbs.db`, `.DS_Store` and the like.

    `._X.jpg` holds what macOS notes of X.jpg. It has an image's suffix and is none.
    """
    *folders, name = path.split("/") if isinstance(path, str) else path.parts or ("",)
    if name.startswith("._") or name.lower() in _CLUTTER_FILES:
        return True
    return any(folder.lower() in _CLUTTER_FOLDERS for folder in folders)
