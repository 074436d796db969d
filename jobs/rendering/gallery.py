"""A folder with one page of any selection of images and their maps, for a browser alone (no torch).

The page is `index.html`; `data.js` holds the rows, `thumbs/` pictures and `maps/` the maps themselves, in parts of
100 rows. These are scripts instead of JSON, because a page that was opened as a file may not fetch JSON.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from jobs.atomic import write_whole
from jobs.errors import UserError
from jobs.leftovers import scratch_folder
from jobs.processes import available_cores
from jobs.rendering.drawing.entry import rows_of
from jobs.rendering.page.config import DEFAULT_LIMIT, GalleryConfig
from jobs.rendering.page.data import page_data
from jobs.rendering.page.folder import check_folder, remove_pictures, withdraw_page
from jobs.rendering.page.pictures import GalleryPainter, draw_gallery, script_json
from jobs.rendering.page.rows import GalleryStyle, choose_rows, reasons
from jobs.rendering.two_runs import other_run
from jobs.runs.query import warn_of_unfinished
from jobs.runs.run import open_run
from jobs.shards.locate import locate

__all__ = ["DEFAULT_LIMIT", "GalleryConfig", "GalleryReport", "gallery"]
_TEMPLATES = ("gallery.css", "gallery.js", "index.html")  # the page itself last


@dataclass(frozen=True, kw_only=True)
class GalleryReport:
    """What is on the page: `matching` rows fit the selection, `left_out` says why some of them have no picture.

    `cut` rows fit and have pictures, but are beyond the limit.
    """

    page: Path
    images: int
    matching: int
    cut: int
    left_out: dict[str, int]


def gallery(config: GalleryConfig) -> GalleryReport:
    """Writes the folder, its index.html last, so that a page that exists is complete.

    Raises UserError on a selection without images, on a folder that holds other files, and on shards that do not exist
    or have changed.
    """
    run = open_run(config.run, evaluation=config.evaluation)
    warn_of_unfinished(run)
    other = None if config.other is None else open_run(config.other)
    style = GalleryStyle(
        maps=(run.choose_maps(config.maps) or run.maps) if other is None else run.shared_maps(other, config.maps),
        looks=config.looks,
        thumb_height=config.thumb_height,
        placement=run.manifest.placement,
        other=None if other is None else other_run(other),
    )
    check_folder(config.output, config.overwrite)
    shown = choose_rows(run, config.selection, style, other)
    if not shown.images:
        why = reasons(shown.left_out) or "nothing matches --where"
        raise UserError(f"no image of {run.layout.root} can be shown: {why}")
    page = page_data(run, shown, config.selection, style)
    with scratch_folder() as scratch:
        rows = rows_of(shown.table)
        sources = locate(run.mined_shards(row["shard"] for row in rows), rows, config, scratch)
        painter = GalleryPainter(output=config.output, style=style, sources=sources)
        earlier = withdraw_page(config.output)
        remove_pictures(earlier - draw_gallery(painter, shown, config.workers or available_cores()))
    write_whole(config.output / "data.js", f"window.GALLERY = {script_json(page)};\n".encode())
    for name in _TEMPLATES:
        write_whole(config.output / name, (files("configs") / "gallery" / name).read_bytes())
    return GalleryReport(
        page=config.output / "index.html",
        images=shown.images,
        matching=shown.matching,
        cut=shown.cut,
        left_out=shown.left_out,
    )
