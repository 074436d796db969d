"""Pictures of chosen images of a run, from the stored maps and the original shards (no torch, no model)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cam.panels import fitting
from jobs.atomic import make_folder
from jobs.leftovers import scratch_folder
from jobs.processes import available_cores
from jobs.rendering.chunks import make_chunks
from jobs.rendering.colour_limits import colour_limits
from jobs.rendering.drawing.entry import ImageRow, rows_of
from jobs.rendering.drawing.job import LeftOut, PictureJob
from jobs.rendering.drawing.style import PictureStyle
from jobs.rendering.index.captions import list_of
from jobs.rendering.index.listed import merged, numbered_otherwise, read_list, refuse_another_order, write_list
from jobs.rendering.index.pages import write_index
from jobs.rendering.painter import Drawn, Painter, draw_all
from jobs.rendering.plan import RenderPlan, plan
from jobs.rendering.render_config import RenderConfig
from jobs.rendering.requests import digest_of, register
from jobs.runs.query import warn_of_unfinished
from jobs.runs.run import Run, open_run
from jobs.shards.locate import locate

__all__ = ["RenderConfig", "RenderPreview", "RenderReport", "preview", "render"]
WORTH_PROCESSES = 30_000_000  # pixels; drawing fewer takes less time than starting processes


@dataclass(frozen=True, kw_only=True)
class RenderReport:
    """What was done in `folder`: pictures written, pictures that existed and were kept, and what was left out.

    `index` is the page that shows all pictures of the folder, None where a file of somebody else has its name.
    """

    folder: Path
    written: int
    kept: int
    left_out: tuple[LeftOut, ...]
    index: Path | None = None


@dataclass(frozen=True, kw_only=True)
class RenderPreview:
    """What `render` would draw: the names of pictures below `folder`, how many exist, and what would be left out."""

    folder: Path
    pictures: tuple[str, ...]
    existing: int
    left_out: tuple[LeftOut, ...]


def render(config: RenderConfig) -> RenderReport:
    """Draws what is requested and does not exist yet, and an index page of all pictures of the folder.

    Raises UserError on a selection without images, on pictures of another request in the folder, on shards that do not
    exist or have changed, and on a full disk.
    """
    run = open_run(config.run, evaluation=config.scores)
    warn_of_unfinished(run)
    style = config.picture_style(run)
    planned = plan(run, config, style)
    listed, earlier = list_of(run, config, planned), read_list(config.folder)
    stale = numbered_otherwise(listed, earlier)
    if not config.overwrite:
        refuse_another_order(config.folder, stale)
    todo = _todo(planned, config)
    kept = len(planned.jobs) - len(todo)
    register(config.folder, style.kind, digest_of(run.manifest.fingerprint, style, planned), kept)
    for picture in stale:
        (config.folder / picture.file).unlink(missing_ok=True)
    write_list(config.folder, merged(listed, [one for one in earlier if one not in stale]))
    drawn = _draw(run, config, style, planned, todo) if todo else Drawn(0, [])
    index = write_index(config.folder, run.layout.root.resolve().name, read_list(config.folder))
    left_out = (*planned.left_out, *drawn.left_out)
    return RenderReport(folder=config.folder, written=drawn.written, kept=kept, left_out=left_out, index=index)


def preview(config: RenderConfig) -> RenderPreview:
    """What `render` would draw, without drawing it. Raises as `render` does on the selection."""
    run = open_run(config.run, evaluation=config.scores)
    warn_of_unfinished(run)
    planned = plan(run, config, config.picture_style(run))
    return RenderPreview(
        folder=config.folder,
        pictures=tuple(job.name for job in planned.jobs),
        existing=len(planned.jobs) - len(_todo(planned, config)),
        left_out=tuple(planned.left_out),
    )


def _todo(planned: RenderPlan, config: RenderConfig) -> list[PictureJob]:
    """The pictures that are to be drawn."""
    if config.overwrite:
        return planned.jobs
    return [job for job in planned.jobs if not _is_drawn(config.folder / job.name)]


def _is_drawn(path: Path) -> bool:
    """Whether a picture exists. An empty file does not count: a crash of the machine may leave one."""
    try:
        return path.stat().st_size > 0
    except OSError:
        return False


def _draw(
    run: Run, config: RenderConfig, style: PictureStyle, planned: RenderPlan, todo: Sequence[PictureJob]
) -> Drawn:
    style = replace(style, limits=colour_limits(run, planned.table, style.maps, style.looks.scale))
    for folder in sorted({(config.folder / job.name).parent for job in todo}):
        make_folder(folder)
    needed = rows_of(planned.table.take(sorted({row for job in todo for row in job.rows})))
    wanted_workers = config.workers or available_cores()
    workers = wanted_workers if _pixels(needed, style) >= WORTH_PROCESSES else 1
    with scratch_folder() as scratch:
        sources = locate(run.mined_shards(row["shard"] for row in needed), needed, config, scratch)
        painter = Painter(root=run.layout.root, output=config.folder, style=style, form=config.form)
        chunks = make_chunks(planned.table, todo, sources, wanted_workers)
        return draw_all(painter, chunks, len(todo), workers)


def _pixels(rows: Sequence[ImageRow], style: PictureStyle) -> int:
    """About how many pixels the maps of these rows will cover."""
    return len(style.maps) * sum(_area(row, style) for row in rows)


def _area(row: ImageRow, style: PictureStyle) -> int:
    if style.size is None:
        return row["width"] * row["height"]
    height, width = style.size
    if width is None:
        height, width = fitting((row["height"], row["width"]), height)
    return height * width
