"""What pictures of a run are made of beside images and maps: text alone, margins, borders, legends.

Pictures are uint8 RGB (H, W, 3); sizes are in pixels. Captions, rows and columns are `cam.panels`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from cam.overlay import DEFAULT_COLORMAP, Picture, Range, apply_colormap
from cam.panels import BLACK, FONT_SIZE, GAP, WHITE, captioned, font_of

GREEN, RED = (0, 158, 115), (213, 55, 40)  # different also without colour vision: one is clearly darker
_BAR = 14  # the width of a legend's coloured bar


def text_block(lines: Sequence[str], width: int, *, font_size: int = FONT_SIZE) -> Picture:
    """Lines of text alone, folded to a width in pixels."""
    return captioned(np.zeros((0, width, 3), np.uint8), lines, font_size=font_size)


def padded(picture: Picture, *, margin: int = GAP) -> Picture:
    """White space around a picture."""
    return np.pad(picture, ((margin, margin), (margin, margin), (0, 0)), constant_values=255)


def bordered(picture: Picture, colour: tuple[int, int, int], *, thickness: int = 4) -> Picture:
    """A coloured border around a picture, outside of it."""
    height, width = picture.shape[:2]
    out = np.empty((height + 2 * thickness, width + 2 * thickness, 3), np.uint8)
    out[:] = colour
    out[thickness:-thickness, thickness:-thickness] = picture
    return out


def legend(limits: Range, height: int, *, colormap: str = DEFAULT_COLORMAP) -> Picture:
    """(height, W, 3) a vertical colour scale with the values at its ends, high on top."""
    bar = apply_colormap(np.repeat(np.linspace(1, 0, height, dtype=np.float32)[:, None], _BAR, axis=1), colormap)
    low, high = (f"{value:.3g}" for value in limits)
    return colour_bar(bar, (high, low))


def colour_bar(bar: Picture, texts: Sequence[str]) -> Picture:
    """A vertical bar of colours with texts beside it, evenly from its top to its bottom."""
    font, (height, wide) = font_of(FONT_SIZE), bar.shape[:2]
    width = wide + GAP + max(round(font.getlength(text)) for text in texts) + 2
    out = Image.new("RGB", (width, height), WHITE)
    out.paste(Image.fromarray(bar), (0, 0))
    draw = ImageDraw.Draw(out)
    for n, text in enumerate(texts):
        draw.text((wide + GAP, n * (height - FONT_SIZE - 4) // (len(texts) - 1)), text, fill=BLACK, font=font)
    return np.asarray(out)
