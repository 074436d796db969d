"""Drawing one picture of a run: the styles that show one image, and the choice among all styles (no torch)."""

from __future__ import annotations

from collections.abc import Sequence

from cam.names import title_of
from cam.overlay import Picture
from cam.panels import captioned, column, row
from jobs.phrases import shown
from jobs.rendering.drawing.cells import SMALL, no_map
from jobs.rendering.drawing.difference import draw_diff
from jobs.rendering.drawing.entry import Entry
from jobs.rendering.drawing.job import PictureJob
from jobs.rendering.drawing.pages import draw_identity, draw_sheet
from jobs.rendering.drawing.ranked import draw_ranked
from jobs.rendering.drawing.style import DIFF, IDENTITY, OVERLAY, PANEL, RANKED, SHEET, PictureStyle
from jobs.rendering.panels import padded, text_block


def draw_picture(job: PictureJob, entries: Sequence[Entry], style: PictureStyle) -> Picture:
    """(H, W, 3) uint8 RGB: the picture of a job from its images, in the order of the job's rows."""
    if job.map is not None:
        return draw_one_map(entries[0], job.map, style)
    if style.kind == PANEL:
        return draw_panel(entries[0], style)
    if style.kind == DIFF:
        return draw_diff(entries[0], style)
    if style.kind == SHEET:
        return draw_sheet(entries, style)
    if style.kind == IDENTITY:
        return draw_identity(entries, style, job.identity)
    if style.kind == RANKED:
        return draw_ranked(entries[0], entries[1:], job.hits, style, job.note)
    raise ValueError(f"a picture in the style {style.kind!r} shows one map, and this one has none")


def draw_one_map(entry: Entry, name: str, style: PictureStyle) -> Picture:
    """(H, W, 3) overlay or heatmap of one map, with the legend beside it where the colour scale is shared."""
    draw = style.overlay if style.kind == OVERLAY else style.heatmap
    picture = draw(entry.image, entry.maps[name], name)
    legends = style.legends(name, picture.shape[0])
    return padded(row([picture, *legends]), margin=2) if legends else picture


def draw_panel(entry: Entry, style: PictureStyle) -> Picture:
    """The image, then heatmap and overlay of each map, with captions."""
    size = f"{entry.row['width']}x{entry.row['height']} pixels"
    parts = [captioned(entry.image, ["image", size], font_size=SMALL)]
    parts += [_heatmap_and_overlay(entry, name, style) for name in style.maps]
    body = row(parts, gap=14)
    split = f"  {shown(entry.row['split'])}" if entry.row["split"] else ""
    title = text_block([entry.name, f"{entry.title()}{split}"], body.shape[1])
    return padded(column([title, body]))


def _heatmap_and_overlay(entry: Entry, name: str, style: PictureStyle) -> Picture:
    if name in entry.maps:
        map = entry.maps[name]
        pictures = [style.heatmap(entry.image, map, name), style.overlay(entry.image, map, name)]
    else:
        pictures = [no_map(entry.image)]
    pair = row([*pictures, *style.legends(name, entry.image.shape[0])])
    return captioned(pair, [title_of(name), entry.extent(name)], font_size=SMALL)
