"""Drawing pages of many images: contact sheets, and identities by camera (no torch)."""

from __future__ import annotations

from collections.abc import Sequence

from cam.names import title_of
from cam.overlay import Picture
from cam.panels import captioned, column, row
from jobs.phrases import camera_text, counted, shown
from jobs.rendering.drawing.cells import NARROW, SMALL, blank, captioned_overlay, centred, legend_line, widest
from jobs.rendering.drawing.entry import Entry
from jobs.rendering.drawing.style import PictureStyle
from jobs.rendering.panels import padded, text_block

PER_LINE = 6  # images side by side for one camera
_LABEL_WIDTH = 180
_CAMERA_WIDTH = 74


def draw_sheet(entries: Sequence[Entry], style: PictureStyle) -> Picture:
    """A contact sheet: rows are images, columns their maps, a legend above each column where its scale is shared."""
    width = max(widest([entry.image for entry in entries]), NARROW)
    heads = [blank(_LABEL_WIDTH), centred(text_block(["image"], width), width)]
    heads += [
        centred(column([text_block([title_of(name)], width), *style.legends(name, 0)]), width) for name in style.maps
    ]
    lines = [row(heads)]
    for entry in entries:
        cells = [text_block([entry.name, entry.title()], _LABEL_WIDTH), centred(entry.image, width)]
        cells += [centred(captioned_overlay(entry, name, style), width) for name in style.maps]
        lines.append(row(cells))
    return padded(column(lines))


def draw_identity(entries: Sequence[Entry], style: PictureStyle, identity: str) -> Picture:
    """One row per camera of one identity: each image beside the overlays of its maps."""
    by_camera: dict[int | None, list[Entry]] = {}
    for entry in sorted(entries, key=_camera_order):
        by_camera.setdefault(entry.row["camid"], []).append(entry)
    lines = [line for camid, there in by_camera.items() for line in _camera_lines(camid, there, style)]
    counts = f"{counted(len(entries), 'image')}, {counted(len(by_camera), 'camera')}"
    what = f"{counts}; beside each image: {', '.join(map(title_of, style.maps))}"
    title = text_block([shown(identity), what], widest(lines), font_size=15)
    return padded(column([title, *lines, *legend_line(style)], gap=10))


def _camera_order(entry: Entry) -> tuple[bool, int]:
    """Cameras by number, images without a camera last."""
    camid = entry.row["camid"]
    return camid is None, camid or 0


def _camera_lines(camid: int | None, entries: Sequence[Entry], style: PictureStyle) -> list[Picture]:
    """The images of one camera, some on each line; the first line says which camera it is."""
    label = text_block([f"cam {camera_text(camid)}", counted(len(entries), "image")], _CAMERA_WIDTH)
    groups = [_with_overlays(entry, style) for entry in entries]
    lines = []
    for start in range(0, len(groups), PER_LINE):
        left = label if start == 0 else blank(_CAMERA_WIDTH)
        lines.append(row([left, row(groups[start : start + PER_LINE], gap=14)]))
    return lines


def _with_overlays(entry: Entry, style: PictureStyle) -> Picture:
    """An image and its overlays side by side, over its key."""
    pictures = row([entry.image, *(captioned_overlay(entry, name, style) for name in style.maps)], gap=2)
    return captioned(pictures, [entry.name], font_size=SMALL)
