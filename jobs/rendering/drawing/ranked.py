"""Drawing ranked lists: a query and its nearest gallery images (no torch)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cam.names import title_of
from cam.overlay import Picture
from cam.panels import BLACK, captioned, column, row
from jobs.rendering.drawing.cells import NARROW, SMALL, blank, captioned_overlay, centred, legend_line
from jobs.rendering.drawing.entry import Entry
from jobs.rendering.drawing.job import RankedHit
from jobs.rendering.drawing.style import PictureStyle
from jobs.rendering.panels import GREEN, RED, bordered, padded, text_block


@dataclass(frozen=True)
class _Framed:
    """An image of the list with the colour of its border and the lines below it."""

    entry: Entry
    colour: tuple[int, int, int]
    caption: list[str]


def draw_ranked(
    query: Entry, found: Sequence[Entry], hits: Sequence[RankedHit], style: PictureStyle, note: str = ""
) -> Picture:
    """The query, then its nearest gallery images: green borders where the identity is right, red where it is wrong.

    Beneath each image its overlays; `note` goes below the query, such as its average precision.
    """
    images = [_Framed(query, BLACK, ["query", query.title(), note])]
    for rank, (entry, hit) in enumerate(zip(found, hits, strict=True), 1):
        caption = [f"{rank}.  d {hit.distance:.3g}", entry.title()]
        images.append(_Framed(entry, GREEN if hit.correct else RED, caption))
    width = max(NARROW, *(image.entry.image.shape[1] + 8 for image in images))
    body = [_query_first([_draw_framed(image, width) for image in images])]
    for name in style.maps:
        overlays = [centred(captioned_overlay(image.entry, name, style), width) for image in images]
        body += [text_block([title_of(name)], body[0].shape[1]), _query_first(overlays)]
    right = sum(hit.correct for hit in hits)
    title = text_block([f"{query.name}: {right} of the first {len(hits)} right"], body[0].shape[1], font_size=15)
    return padded(column([title, *body, *legend_line(style)]))


def _draw_framed(image: _Framed, width: int) -> Picture:
    return captioned(bordered(image.entry.image, image.colour), image.caption, font_size=SMALL, width=width)


def _query_first(pictures: Sequence[Picture]) -> Picture:
    """Pictures side by side, the first set apart from the others."""
    return row([pictures[0], blank(8), *pictures[1:]], gap=8)
