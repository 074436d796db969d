"""Drawing what changed from one run to another: an image, its map in both, and their difference (no torch).

Maps are shares of mass on the same cells of the image, so that one scale fits both.
"""

from __future__ import annotations

import cv2
import numpy as np

from cam.names import title_of
from cam.overlay import Map, Picture, resize_map
from cam.panels import captioned, column, row
from cam.placement import GridPlacement
from jobs.rendering.drawing.cells import NARROW, SMALL, no_map
from jobs.rendering.drawing.entry import Entry
from jobs.rendering.drawing.style import PictureStyle
from jobs.rendering.panels import colour_bar, legend, padded, text_block
from jobs.statistics.regrid import CommonGrid, Regrid

# Blue where B has less of the mass, white where nothing changed, red where it has more (ColorBrewer's RdBu).
_LESS, _SAME, _MORE = (33, 102, 172), (247, 247, 247), (178, 24, 43)
_SHARE = 0.65  # of the colour of a difference over its grey image


def draw_diff(entry: Entry, style: PictureStyle) -> Picture:
    """A row for each map: the image, run A's map, run B's on the same scale, and B minus A on one centred on 0."""
    lines = [_line(entry, name, style) for name in style.maps]
    title = text_block([entry.name, entry.title()], max(line.shape[1] for line in lines))
    return padded(column([title, *lines], gap=12))


def _line(entry: Entry, name: str, style: PictureStyle) -> Picture:
    a, b, placement = _same_cells(entry.maps.get(name), entry.others.get(name), style)
    image, height = entry.image, int(entry.image.shape[0])
    parts = [captioned(image, [title_of(name)], font_size=SMALL, width=NARROW)]
    known = [map for map in (a, b) if map is not None]
    limits = 0.0, max((float(map.max()) for map in known), default=0.0)
    for run, map in (("A", a), ("B", b)):
        picture = no_map(image) if map is None else style.looks.overlay(image, map, limits, placement)
        caption = f"{run}: no mass" if map is None else f"{run}: peak {100 * float(map.max()):.3g} %"
        parts.append(captioned(picture, [caption], font_size=SMALL, width=NARROW))
    if known:
        parts.append(legend((0.0, 100 * limits[1]), height, colormap=style.looks.colormap))
    if a is None or b is None:
        return row([*parts, captioned(no_map(image), ["no difference"], font_size=SMALL, width=NARROW)], gap=10)
    change = b - a
    most = float(np.abs(change).max())
    moved = f"{50 * float(np.abs(change).sum()):.3g} % elsewhere"
    difference = captioned(_difference(image, change, most, style, placement), ["B - A", moved], font_size=SMALL,
                           width=NARROW)  # fmt: skip
    return row([*parts, difference, _difference_legend(most, height)], gap=10)


def _same_cells(a: Map | None, b: Map | None, style: PictureStyle) -> tuple[Map | None, Map | None, GridPlacement]:
    """Both maps as shares of mass on the same cells, None for one without mass; and where the cells lie."""
    assert style.other is not None  # RenderConfig checked that there is one
    known = [
        placement if placement is not None else None if map is None else GridPlacement.even(map.shape)
        for map, placement in ((a, style.placement), (b, style.other.placement))
    ]
    own = next((placement for placement in known if placement is not None), GridPlacement.even((1, 1)))
    first, second = known[0] or own, known[1] or own
    grid = CommonGrid.of(first, second)
    placement = first if grid.is_same else GridPlacement.even(grid.cells)
    return _shares(a, grid.a), _shares(b, grid.b), placement


def _shares(map: Map | None, regrid: Regrid) -> Map | None:
    """(h, w) shares of mass on the cells of `regrid`. Values below zero have no mass, as in `cam.measures`."""
    if map is None:
        return None
    laid = regrid.apply(np.maximum(map, 0).reshape(1, -1)).reshape(regrid.cells)
    mass = float(laid.sum())
    return np.asarray(laid / mass, np.float32) if mass > 0 else None


def _difference(image: Picture, change: Map, most: float, style: PictureStyle, placement: GridPlacement) -> Picture:
    """(H, W, 3) the coloured difference over the image in grey; `most` is at the ends of the scale."""
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    scaled = 0.5 + change / (2 * most) if most > 0 else np.full(change.shape, 0.5, np.float32)
    level = resize_map(scaled.astype(np.float32), (image.shape[0], image.shape[1]), style.looks.upsample, placement)
    return np.asarray(cv2.addWeighted(_diverging(level), _SHARE, grey, 1 - _SHARE, 0), np.uint8)


def _diverging(level: Map) -> Picture:
    """(H, W) from 0 to 1 -> (H, W, 3) RGB; 0.5 is white."""
    ends = (0.0, 0.5, 1.0)
    channels = [np.interp(level, ends, values) for values in zip(_LESS, _SAME, _MORE, strict=True)]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)


def _difference_legend(most: float, height: int) -> Picture:
    levels = np.repeat(np.linspace(1, 0, height, dtype=np.float32)[:, None], 14, axis=1)
    return colour_bar(_diverging(levels), (f"+{100 * most:.3g} %", "0", f"-{100 * most:.3g} %"))
