"""The pages of the index: pictures with captions, 500 on a page, each loaded when it comes into view.

A page needs no other file than the pictures, no server and no script. With its script, arrow keys move between
pictures, Enter opens one large, and n and p turn the pages.
"""

from __future__ import annotations

import html
import logging
import re
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from string import Template
from urllib.parse import quote

from jobs.atomic import write_whole
from jobs.phrases import counted, shown
from jobs.rendering.drawing.style import ONE_MAP_EACH
from jobs.rendering.index.listed import ListedPicture

logger = logging.getLogger(__name__)

INDEX = "index.html"
_ON_A_PAGE = 500  # small pictures
_LARGE = 8  # small pictures that a page of many images, or of many maps, counts as
_OURS = b'<meta name="generator" content="promptsg render">'
_LATER_PAGE = re.compile(r"index-(\d+)\.html")


def write_index(folder: Path, run: str, pictures: Sequence[ListedPicture]) -> Path | None:
    """Writes index.html, and index-2.html and so on where there are many; returns the first.

    Returns None, with a warning, where one of these files is of somebody else: it stays. Pages of a longer index are
    removed.
    """
    pages = list(_in_pages(pictures))
    paths = [folder / page_name(number) for number in range(1, len(pages) + 1)]
    if foreign := [path for path in paths if path.exists() and not _is_ours(path)]:
        logger.warning("%s was not written by `promptsg render` and stays; the pictures have no index page", foreign[0])
        return None
    for number, (path, on_page) in enumerate(zip(paths, pages, strict=True), 1):
        write_whole(path, _page(run, pictures, on_page, number, len(pages)).encode(), durable=False)
    for path in folder.glob("index-*.html"):
        found = _LATER_PAGE.fullmatch(path.name)
        if found and int(found[1]) > len(pages) and _is_ours(path):
            path.unlink()
    return paths[0]


def _is_ours(path: Path) -> bool:
    """Whether a page was written here. So was an empty one, which a crash of the machine may leave."""
    with path.open("rb") as file:
        start = file.read(1000)
    return not start or _OURS in start


def page_name(number: int) -> str:
    """The file of a page, from 1."""
    return INDEX if number == 1 else f"index-{number}.html"


def is_large(picture: ListedPicture) -> bool:
    """Whether a picture shows more than one map of one image."""
    return picture.style not in ONE_MAP_EACH


def _in_pages(pictures: Sequence[ListedPicture]) -> Iterator[list[ListedPicture]]:
    """At least one page, each with at most so many pictures."""
    page: list[ListedPicture] = []
    size = 0
    for one in pictures:
        weight = _LARGE if is_large(one) else 1
        if page and size + weight > _ON_A_PAGE:
            yield page
            page, size = [], 0
        page.append(one)
        size += weight
    yield page


def _page(run: str, pictures: Sequence[ListedPicture], on_page: Sequence[ListedPicture], number: int, last: int) -> str:
    parts = [
        f'<h2>{_text(request)}</h2>\n<div class="grid{" large" if large else ""}">\n{_figures(list(group))}</div>'
        for (request, large), group in groupby(on_page, key=lambda one: (one.request, is_large(one)))
    ]
    return Template(_template(INDEX)).substitute(
        title=_text(f"{run} · promptsg pictures"),
        style=_template("index.css"),
        script=_template("index.js"),
        run=_text(run),
        about=_text(counted(len(pictures), "picture") + (f", page {number} of {last}" if last > 1 else "")),
        turn=_turn(number, last),
        body="\n".join(parts) or "<p>No picture was drawn.</p>",
    )


@cache
def _template(name: str) -> str:
    return (files("configs") / "pictures" / name).read_text(encoding="utf-8")


def _figures(pictures: Sequence[ListedPicture]) -> str:
    return "".join(_figure(one) for one in pictures)


def _figure(one: ListedPicture) -> str:
    title, *lines = one.caption
    number = "" if one.number is None else f"{one.number}. "
    below = "".join(f"<span>{_text(line)}</span>" for line in lines)
    address = html.escape(quote(one.file))
    alt = _text(" ".join(one.caption))
    return (
        f'<a href="{address}"><img loading="lazy" decoding="async" src="{address}" alt="{alt}">'
        f"<b>{number}{_text(title)}</b>{below}</a>\n"
    )


def _turn(number: int, last: int) -> str:
    """Links to the first, previous, next and last page."""
    if last == 1:
        return ""
    targets = (("First", 1, ""), ("Previous", number - 1, "prev"), ("Next", number + 1, "next"), ("Last", last, ""))
    links = []
    for label, to, rel in targets:
        there = 1 <= to <= last and to != number
        marked = f' rel="{rel}"' if rel else ""
        links.append(f'<a href="{page_name(to)}"{marked}>{label}</a>' if there else f"<span>{label}</span>")
    return f'<nav aria-label="Pages">{" ".join(links)}</nav>'


def _text(text: str) -> str:
    return html.escape(shown(text))
