"""Drawing the maps of single images: heatmap and overlay of each, and labelled panels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from cam.names import MapName
from cam.overlay import Picture, Range, range_of
from cam.panels import captioned, column, enlarged, row
from cam.placement import GridPlacement
from jobs.phrases import shown
from jobs.rendering.extent import extent_of
from jobs.rendering.looks import Looks
from jobs.rendering.panels import legend, padded, text_block
from jobs.rendering.single.maps import ImageMaps

_CELLS = 6  # in a line of a panel: what a screen shows without scrolling sideways
_WIDE = 2  # times as wide as high: of wider pictures fewer are on a line
_NARROW = 90  # pixels that a caption needs


@dataclass(frozen=True, kw_only=True)
class PanelStyle:
    """How the maps of single images are drawn.

    `height` is the height of each picture in a panel, in pixels. `limits` maps a map's name to the ends of its colour
    scale, None where each picture has its own. `placement` says where the patches lie on an image, None for equal
    cells.
    """

    looks: Looks
    height: int
    limits: Mapping[str, Range | None] = field(default_factory=dict)
    placement: GridPlacement | None = None


def limits_of(results: Sequence[ImageMaps], scale: str) -> dict[str, Range | None]:
    """The ends of each map's colour scale over all images; None where each picture has its own."""
    names = results[0].maps if results else ()
    return {name: range_of(np.stack([result.maps[name] for result in results]), scale) for name in names}


def draw_labelled_panel(result: ImageMaps, style: PanelStyle, title: str = "") -> Picture:
    """original | heatmap | overlay for each map, captioned with file, map, target and the map's own numbers."""
    original = enlarged(result.pixels, style.height)
    cells = [captioned(original, ["original"], width=_NARROW)]
    for name in result.maps:
        pictures = [*draw_map(result, name, style, original)]
        limits = style.limits.get(name)
        if limits is not None:
            pictures.append(legend(limits, style.height, colormap=style.looks.colormap))
        cells.append(captioned(row(pictures, gap=2), caption_of(result, name), width=_NARROW))
    on_a_line = max(1, min(_CELLS, _CELLS * _WIDE * style.height // original.shape[1]))
    body = column([row(cells[i : i + on_a_line], gap=10) for i in range(0, len(cells), on_a_line)], gap=14)
    head = f"{title}{shown(result.path.name)}"
    return padded(np.concatenate([text_block([head], body.shape[1]), body]))


def draw_map(result: ImageMaps, name: str, style: PanelStyle, image: Picture) -> tuple[Picture, Picture]:
    """(heatmap, overlay) of one map, as large as `image`, which is the image at the size to draw."""
    limits, map = style.limits.get(name), result.maps[name]
    size = (image.shape[0], image.shape[1])
    heat = style.looks.heatmap(map, size, limits, style.placement)
    return heat, style.looks.overlay(image, map, limits, style.placement)


def caption_of(result: ImageMaps, name: str) -> list[str]:
    """The map's name, its magnitude, which colours hide, and the target where one was differentiated."""
    lines = [name, extent_of(name, result.maps[name])]
    return [*lines, result.score_text] if MapName.parse(name).needs_target else lines
