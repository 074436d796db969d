"""Drawing one picture of a run: overlay, heatmap, panel, contact sheet, identity by camera, ranked list (no torch).

Pictures are uint8 RGB (H, W, 3), maps (h, w) on the patch grid, sizes (height, width) in pixels.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from PIL import Image

from cam.names import ATTENTION
from cam.overlay import (
    DEFAULT_ALPHA,
    DEFAULT_COLORMAP,
    Map,
    Picture,
    Range,
    apply_colormap,
    resize_map,
    scale_map,
)
from cam.panels import BLACK, GREEN, RED, bordered, captioned, column, legend, padded, row, text_block
from jobs.shards.random_access import Header
from promptsg_core.images import plain_jpeg, upright_rgb

FORMATS = {
    "png": [cv2.IMWRITE_PNG_COMPRESSION, 3],
    "jpg": [cv2.IMWRITE_JPEG_QUALITY, 92],
    "webp": [cv2.IMWRITE_WEBP_QUALITY, 90],
}
DEFAULT_HEIGHT = 256  # of an image inside of a composition
PER_LINE = 6  # images side by side for one camera
_LABEL_WIDTH = 180
_LEGEND_HEIGHT = 72
_SMALL = 12
_NARROW = 124  # pixels that the longest caption of a map needs
Size = tuple[int, int | None]


@dataclass(frozen=True, kw_only=True)
class Style:
    """How to draw. `size` is (height, width), width None for the image's proportions, None for the image's own size.

    `limits` maps a map's name to the ends of its colour scale, None where each map has its own.
    """

    kind: str
    maps: tuple[str, ...]
    colormap: str = DEFAULT_COLORMAP
    alpha: float = DEFAULT_ALPHA
    upsample: str = "bilinear"
    size: Size | None = None
    limits: Mapping[str, Range | None] = field(default_factory=dict)

    def overlay(self, image: Picture, map: Map, name: str) -> Picture:
        """(H, W, 3) the map over the image."""
        return np.asarray(
            cv2.addWeighted(self.heatmap(image, map, name), self.alpha, image, 1 - self.alpha, 0), np.uint8
        )

    def heatmap(self, image: Picture, map: Map, name: str) -> Picture:
        """(H, W, 3) the map alone, as large as the image."""
        scaled = resize_map(scale_map(map, self.limits.get(name)), image.shape[:2], self.upsample)
        return apply_colormap(scaled, self.colormap)

    def legends(self, name: str, height: int) -> list[Picture]:
        """The colour scale's legend where it holds for more than one map; else nothing."""
        limits = self.limits.get(name)
        return [] if limits is None else [legend(limits, max(height, _LEGEND_HEIGHT), colormap=self.colormap)]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One image: its metadata row, (H, W, 3) RGB pixels at the size to draw, and those of its maps that it has."""

    row: Mapping[str, Any]
    image: Picture
    maps: Mapping[str, Map]

    def title(self) -> str:
        """Whose image this is: `pid 12  cam 3`, both as in the metadata (cameras count from 0)."""
        names = (("pid", "pid"), ("cam", "camid"))
        return "  ".join(f"{word} {'?' if self.row[name] is None else self.row[name]}" for word, name in names)


@dataclass(frozen=True)
class Hit:
    """One image of a ranked list; `correct` whether it shows the query's identity."""

    distance: float
    correct: bool


def decode(data: bytes, header: Header) -> Picture:
    """Image bytes -> uint8 RGB (H, W, 3), upright: the pixels that the model was given before resizing.

    Raises one of `source_images.IMAGE_ERRORS` for bytes that do not decode.
    """
    if header.plain:
        return plain_jpeg(data)
    with Image.open(io.BytesIO(data)) as image:
        return upright_rgb(image)


def encode(picture: Picture, form: str) -> bytes:
    """The bytes of an image file, `form` one of FORMATS."""
    done, data = cv2.imencode(f".{form}", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), FORMATS[form])
    if not done:
        raise ValueError(f"a picture of {picture.shape[1]}x{picture.shape[0]} pixels cannot be written as {form}")
    return data.tobytes()


def sized(image: Picture, size: Size | None) -> Picture:
    """The image at another size: smooth where it grows, averaged where it shrinks."""
    if size is None:
        return image
    height, own_width = size[0], image.shape[1]
    width = size[1] if size[1] is not None else max(1, round(own_width * height / image.shape[0]))
    if (height, width) == image.shape[:2]:
        return image
    shrinks = height * width < image.shape[0] * own_width
    way = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (width, height), interpolation=way), np.uint8)


def draw_single(entry: Entry, name: str, style: Style) -> Picture:
    """(H, W, 3) overlay or heatmap of one map, with the legend beside it where the colour scale is shared."""
    draw = style.overlay if style.kind == "overlay" else style.heatmap
    picture = draw(entry.image, entry.maps[name], name)
    legends = style.legends(name, picture.shape[0])
    return padded(row([picture, *legends]), margin=2) if legends else picture


def draw_panel(entry: Entry, style: Style) -> Picture:
    """The image, then heatmap and overlay of each map, captioned."""
    height = entry.image.shape[0]
    own = f"{entry.row['width']}x{entry.row['height']} pixels"
    parts = [captioned(entry.image, ["image", own], font_size=_SMALL)]
    for name in style.maps:
        if name in entry.maps:
            map = entry.maps[name]
            both = [style.heatmap(entry.image, map, name), style.overlay(entry.image, map, name)]
        else:
            both = [_no_map(entry.image)]
        pair = row([*both, *style.legends(name, height)])
        parts.append(captioned(pair, [name, peak(entry, name)], font_size=_SMALL))
    body = row(parts, gap=14)
    split = f"  {entry.row['split']}" if entry.row["split"] else ""
    title = text_block([entry.row["key"], f"{entry.title()}{split}"], body.shape[1])
    return padded(column([title, body]))


def draw_sheet(entries: Sequence[Entry], style: Style) -> Picture:
    """A contact sheet: rows are images, columns their maps, a legend above each column where its scale is shared."""
    width = max(max(entry.image.shape[1] for entry in entries), _NARROW)
    heads = [_blank(_LABEL_WIDTH), _cell(text_block(["image"], width), width)]
    heads += [_cell(column([text_block([name], width), *style.legends(name, 0)]), width) for name in style.maps]
    lines = [row(heads)]
    for entry in entries:
        cells = [text_block([entry.row["key"], entry.title()], _LABEL_WIDTH), _cell(entry.image, width)]
        cells += [_cell(_captioned_overlay(entry, name, style), width) for name in style.maps]
        lines.append(row(cells))
    return padded(column(lines))


def draw_identity(entries: Sequence[Entry], style: Style) -> Picture:
    """One row per camera of one identity: each image beside the overlays of its maps."""
    by_camera: dict[Any, list[Entry]] = {}
    for entry in sorted(entries, key=lambda entry: (entry.row["camid"] is None, entry.row["camid"])):
        by_camera.setdefault(entry.row["camid"], []).append(entry)
    lines = []
    for camid, there in by_camera.items():
        label = text_block([f"cam {'?' if camid is None else camid}", _images(len(there))], 74)
        groups = [_with_overlays(entry, style) for entry in there]
        for start in range(0, len(groups), PER_LINE):
            lines.append(row([label if start == 0 else _blank(74), row(groups[start : start + PER_LINE], gap=14)]))
    what = f"{_images(len(entries))}, {len(by_camera)} camera{'s' if len(by_camera) != 1 else ''}"
    what += f"; beside each image: {', '.join(style.maps)}"
    title = text_block([f"pid {entries[0].row['pid']}", what], max(line.shape[1] for line in lines), font_size=15)
    return padded(column([title, *lines, *_legend_line(style)], gap=10))


def draw_ranked(query: Entry, found: Sequence[Entry], hits: Sequence[Hit], style: Style, note: str = "") -> Picture:
    """The query, then its nearest gallery images: green borders where the identity is right, red where it is wrong.

    Beneath each image its overlays; `note` goes below the query, such as its average precision.
    """
    captions = [["query", query.title(), note]]
    captions += [
        [f"{rank}.  d {hit.distance:.3g}", entry.title()]
        for rank, (entry, hit) in enumerate(zip(found, hits, strict=True), 1)
    ]
    colours = [BLACK, *(GREEN if hit.correct else RED for hit in hits)]
    everyone = [query, *found]
    width = max(_NARROW, *(entry.image.shape[1] + 8 for entry in everyone))
    framed = [captioned(bordered(one.image, colour), lines, font_size=_SMALL, width=width)
              for one, colour, lines in zip(everyone, colours, captions, strict=True)]  # fmt: skip
    body = [_query_first(framed)]
    for name in style.maps:
        overlays = [_cell(_captioned_overlay(one, name, style), width) for one in everyone]
        body += [text_block([name], body[0].shape[1]), _query_first(overlays)]
    right = sum(hit.correct for hit in hits)
    title = text_block([f"{query.row['key']}: {right} of the first {len(hits)} right"], body[0].shape[1], font_size=15)
    return padded(column([title, *body, *_legend_line(style)]))


def peak(entry: Entry, name: str) -> str:
    """A map's extent in absolute numbers, which the colours of a map scaled by itself do not show.

    For attention, whose patches share a sum of 1, its peak as a multiple of the uniform 1 / (h * w); else its extremes:
    a map from 3.8 to 5.5 is nearly flat, however sharp it looks.
    """
    if name not in entry.maps:
        return "no map"
    low, top = float(entry.maps[name].min()), float(entry.maps[name].max())
    if name.partition(":")[0] == ATTENTION:
        return f"peak {top * entry.maps[name].size:.3g}x uniform"
    return f"{low:.3g} to {top:.3g}"


def _captioned_overlay(entry: Entry, name: str, style: Style) -> Picture:
    picture = style.overlay(entry.image, entry.maps[name], name) if name in entry.maps else _no_map(entry.image)
    return captioned(picture, [peak(entry, name)], font_size=_SMALL, width=_NARROW)


def _with_overlays(entry: Entry, style: Style) -> Picture:
    """An image and its overlays side by side, over its key."""
    pictures = row([entry.image, *(_captioned_overlay(entry, name, style) for name in style.maps)], gap=2)
    return captioned(pictures, [entry.row["key"]], font_size=_SMALL)


def _query_first(pictures: Sequence[Picture]) -> Picture:
    """Pictures side by side, the first set apart from the others."""
    return row([pictures[0], _blank(8), *pictures[1:]], gap=8)


def _legend_line(style: Style) -> list[Picture]:
    """A row of all legends, each under its map's name, or nothing."""
    parts = [
        column([text_block([name], 120), *style.legends(name, 0)]) for name in style.maps if style.legends(name, 0)
    ]
    return [row(parts, gap=20)] if parts else []


def _no_map(image: Picture) -> Picture:
    return np.full(image.shape, 235, np.uint8)


def _cell(picture: Picture, width: int) -> Picture:
    """The picture centred in a width."""
    return captioned(picture, [], width=width)


def _blank(width: int) -> Picture:
    return np.full((1, width, 3), 255, np.uint8)


def _images(count: int) -> str:
    return f"{count} image{'s' if count != 1 else ''}"
