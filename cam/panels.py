"""Pictures put together: captions, rows and columns (numpy and Pillow).

Pictures are uint8 RGB (H, W, 3); sizes are (height, width). Text folds to the width.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cam.overlay import Picture

WHITE, BLACK = (255, 255, 255), (20, 20, 20)
FONT_SIZE = 13
GAP = 6
WIDEST = 8  # a picture of a given height is at most this many times as wide
_ELLIPSIS = "…"


def captioned(picture: Picture, lines: Sequence[str], *, font_size: int = FONT_SIZE, width: int = 0) -> Picture:
    """The picture with lines of text below it; it is centred in `width` where that is larger.

    A line too long for the width is folded at spaces, and a word too long for it is cut in its middle with an ellipsis.
    """
    height, own = picture.shape[:2]
    width = max(own, width)
    folded = [part for line in lines for part in _fold(line, width - 4, font_size)]
    step = font_size + 4
    out = Image.new("RGB", (width, height + step * len(folded) + (4 if folded else 0)), WHITE)
    out.paste(Image.fromarray(picture), ((width - own) // 2, 0))
    draw = ImageDraw.Draw(out)
    for number, line in enumerate(folded):
        draw.text((2, height + 2 + number * step), line, fill=BLACK, font=font_of(font_size))
    return np.asarray(out)


def row(pictures: Sequence[Picture], *, gap: int = GAP) -> Picture:
    """Pictures side by side, tops aligned, on white."""
    height = max(picture.shape[0] for picture in pictures)
    width = sum(picture.shape[1] for picture in pictures) + gap * (len(pictures) - 1)
    out = np.full((height, width, 3), 255, np.uint8)
    left = 0
    for picture in pictures:
        out[: picture.shape[0], left : left + picture.shape[1]] = picture
        left += picture.shape[1] + gap
    return out


def column(pictures: Sequence[Picture], *, gap: int = GAP) -> Picture:
    """Pictures one below the other, left edges aligned, on white."""
    width = max(picture.shape[1] for picture in pictures)
    height = sum(picture.shape[0] for picture in pictures) + gap * (len(pictures) - 1)
    out = np.full((height, width, 3), 255, np.uint8)
    top = 0
    for picture in pictures:
        out[top : top + picture.shape[0], : picture.shape[1]] = picture
        top += picture.shape[0] + gap
    return out


def enlarged(picture: Picture, height: int) -> Picture:
    """A picture at another height, as `fitting` has it; enlarging is smooth."""
    size = fitting((picture.shape[0], picture.shape[1]), height)
    if picture.shape[:2] == size:
        return picture
    return np.asarray(Image.fromarray(picture).resize((size[1], size[0]), Image.Resampling.BICUBIC))


def fitting(size: tuple[int, int], height: int, widest: int = WIDEST) -> tuple[int, int]:
    """(height, width) in the proportions of `size` at a height, or lower, where it would be too wide.

    An image of 20000x1 pixels would be millions of pixels wide at an ordinary height. So the width is about `widest`
    times `height` at most, never twice as much: where less than a pixel of height is left, proportions are not kept.
    """
    own_height, own_width = size
    most = widest * height
    lower = max(1, min(height, round(own_height * most / own_width)))
    return lower, max(1, min(2 * most, round(own_width * lower / own_height)))


@lru_cache(maxsize=8)
def font_of(size: int) -> ImageFont.FreeTypeFont:
    """The font of all text in pictures, of a height in pixels."""
    # DejaVu knows more scripts than the font inside Pillow, which serves where DejaVu is not installed.
    try:
        return ImageFont.truetype("DejaVuSans.ttf", size)
    except OSError:
        return ImageFont.load_default(size)  # type: ignore[return-value]


@lru_cache(maxsize=4096)
def _fold(line: str, width: int, size: int) -> tuple[str, ...]:
    """A line as several that fit `width` pixels."""
    font = font_of(size)
    if font.getlength(line) <= width:
        return (line,)
    folded = [""]
    for word in line.split(" "):
        longer = f"{folded[-1]} {word}".lstrip()
        if font.getlength(longer) <= width:
            folded[-1] = longer
        else:
            folded.append(_shorten(word, width, size))
    return tuple(part for part in folded if part)


def _shorten(word: str, width: int, size: int) -> str:
    """A word that fits `width` pixels, its middle cut out: the two ends of a file's name say most."""
    font = font_of(size)
    kept = len(word)
    short = word
    while font.getlength(short) > width and kept > 2:
        kept -= 1
        short = word[: (kept + 1) // 2] + _ELLIPSIS + word[len(word) - kept // 2 :]
    return short
