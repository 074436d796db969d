"""Which image format some bytes begin with: a fixed list of raster formats, by content and never by name.

Only these are decoded. Pillow knows many more, and some of its plugins start programs (EPS starts Ghostscript) or
decode before the size is known.
"""

from __future__ import annotations

# Pillow's names of the formats.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "PPM")

_MAGIC = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
)
_OTHERS = (
    (b"%!PS", "EPS"),
    (b"\xc5\xd0\xd3\xc6", "EPS"),
    (b"\0\0\1\0", "ICO"),
    (b"icns", "ICNS"),
    (b"\xd7\xcd\xc6\x9a", "WMF"),
    (b"8BPS", "PSD"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xffO\xffQ", "JPEG 2000"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"DDS ", "DDS"),
    (b"<svg", "SVG"),
)
_AVIF_BRANDS = (b"avif", b"avis")
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")
_BLANK = b" \t\r\n"


def format_of(data: bytes) -> str | None:
    """The format of an image file, one of FORMATS; None for anything else.

    A bitmap begins with only two letters, so its reserved bytes must be zero too, and a PPM's digit must be followed by
    a blank: a text that begins so is no image.
    """
    for magic, name in _MAGIC:
        if data.startswith(magic):
            return name
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    if data.startswith(b"BM") and len(data) > 14 and data[6:10] == bytes(4):
        return "BMP"
    if data[:1] == b"P" and data[1:2] in b"123456" and data[2:3] and data[2:3] in _BLANK:
        return "PPM"
    return "AVIF" if _brands(data) & set(_AVIF_BRANDS) else None


def is_surely_image(data: bytes) -> bool:
    """Whether bytes of an unknown name are an image. A PPM is not told from a text by its first bytes."""
    return format_of(data) not in (None, "PPM")


def other_format_of(data: bytes) -> str | None:
    """The name of an image format that is known and not read here; None for anything else."""
    if _brands(data) & set(_HEIF_BRANDS):
        return "HEIF"
    return next((name for magic, name in _OTHERS if data.startswith(magic)), None)


def _brands(data: bytes) -> set[bytes]:
    """The brands of an ISO base media file (ISO/IEC 14496-12, 4.3), which say what is in it."""
    if data[4:8] != b"ftyp":
        return set()
    box = data[8 : min(int.from_bytes(data[:4], "big"), 256)]
    return {box[:4], *(box[at : at + 4] for at in range(8, len(box), 4))}
