"""The parts that compositions share: an overlay with its caption, places without a picture, rows of legends."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cam.names import title_of
from cam.overlay import Picture
from cam.panels import captioned, column, row
from jobs.rendering.drawing.entry import Entry
from jobs.rendering.drawing.style import PictureStyle
from jobs.rendering.panels import text_block

SMALL = 12  # the font size of captions
NARROW = 124  # pixels that the longest caption of a map needs


def captioned_overlay(entry: Entry, name: str, style: PictureStyle) -> Picture:
    """A map over its image, and the map's extent below; grey where the image has no such map."""
    has_map = name in entry.maps
    picture = style.overlay(entry.image, entry.maps[name], name) if has_map else no_map(entry.image)
    return captioned(picture, [entry.extent(name)], font_size=SMALL, width=NARROW)


def legend_line(style: PictureStyle) -> list[Picture]:
    """A row of all legends, each under its map's name; nothing where no map has one."""
    with_legend = [(name, legends) for name in style.maps if (legends := style.legends(name, 0))]
    parts = [column([text_block([title_of(name)], 120), *legends]) for name, legends in with_legend]
    return [row(parts, gap=20)] if parts else []


def no_map(image: Picture) -> Picture:
    """A grey place as large as the image, for a map that does not exist."""
    return np.full(image.shape, 235, np.uint8)


def centred(picture: Picture, width: int) -> Picture:
    """The picture centred in a width."""
    return captioned(picture, [], width=width)


def blank(width: int) -> Picture:
    """White space of a width."""
    return np.full((1, width, 3), 255, np.uint8)


def widest(pictures: Sequence[Picture]) -> int:
    """The width of the widest picture."""
    return max(int(picture.shape[1]) for picture in pictures)
