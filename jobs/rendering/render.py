"""Pictures of chosen images of a run, from the stored maps and the original shards (no torch, no model)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from cam.panels import fitting
from jobs.atomic import make_folder
from jobs.leftovers import scratch_folder
from jobs.processes import available_cores
from jobs.progress import told
from jobs.rendering.chunks import make_chunks
from jobs.rendering.colour_limits import colour_limits
from jobs.rendering.drawing.entry import ImageRow, rows_of
from jobs.rendering.drawing.job import LeftOut, PictureJob
from jobs.rendering.drawing.style import PictureStyle
from jobs.rendering.index.captions import list_of
from jobs.rendering.index.folder import PictureFolder, picture_folder
from jobs.rendering.painter import Drawn, Painter, draw_all
from jobs.rendering.plan import RenderPlan, plan
from jobs.rendering.render_config import RenderConfig
from jobs.rendering.requests import digest_of, refuse_another_request
from jobs.runs.query import warn_of_unfinished
from jobs.runs.run import Run, open_run
from jobs.shards.locate import locate
from jobs.shards.random_access import Source

__all__ = ["RenderConfig", "RenderPreview", "RenderReport", "preview", "render"]
WORTH_PROCESSES = 30_000_000  # pixels; drawing fewer takes less time than starting processes


@dataclass(frozen=True, kw_only=True)
class RenderReport:
    """What was done in `folder`: pictures written, pictures that existed and were kept, and what was left out.

    `removed` pictures had numbers of another order. `index` is the page that shows all pictures of the folder, None
    where a file of somebody else has its name.
    """

    folder: Path
    written: int
    kept: int
    left_out: tuple[LeftOut, ...]
    removed: int = 0
    index: Path | None = None


@dataclass(frozen=True, kw_only=True)
class RenderPreview:
    """What `render` would draw: the names of pictures below `folder`, how many exist, and what would be left out.

    `removed` pictures of another order would be removed.
    """

    folder: Path
    pictures: tuple[str, ...]
    existing: int
    left_out: tuple[LeftOut, ...]
    removed: int = 0


@dataclass(frozen=True, kw_only=True)
class _Request:
    """What is requested of a run: all pictures, and those `todo`, which are to be drawn now."""

    run: Run
    style: PictureStyle
    planned: RenderPlan
    todo: list[PictureJob]
    digest: str
    folder: PictureFolder

    @property
    def kept(self) -> int:
        """How many pictures exist and stay as they are."""
        return len(self.planned.jobs) - len(self.todo)

    @cached_property
    def rows(self) -> list[ImageRow]:
        """The rows that the pictures to draw show."""
        return rows_of(self.planned.table.take(sorted({row for job in self.todo for row in job.rows})))


def render(config: RenderConfig) -> RenderReport:
    """Draws what is requested and does not exist yet, and an index page of all pictures of the folder.

    Nothing in the folder is changed before the shards are found, and nothing is removed before all is drawn. Raises
    UserError on a selection without images, on pictures of another request in the folder, on shards that do not exist
    or have changed, and on a full disk.
    """
    asked = _request(config)
    with scratch_folder() as scratch:
        sources = _locate(asked, config, scratch)
        asked.folder.begin(asked.style.kind, asked.digest)
        drawn = _draw(asked, config, sources) if asked.todo else Drawn(0, [])
    removed, index = asked.folder.finish(asked.run.layout.root.resolve().name)
    return RenderReport(
        folder=config.folder,
        written=drawn.written,
        kept=asked.kept,
        left_out=(*asked.planned.left_out, *drawn.left_out),
        removed=removed,
        index=index,
    )


def preview(config: RenderConfig) -> RenderPreview:
    """What `render` would draw, without drawing it.

    Raises as `render` does on the selection and on the pictures in the folder.
    """
    asked = _request(config)
    return RenderPreview(
        folder=config.folder,
        pictures=tuple(job.name for job in asked.planned.jobs),
        existing=sum(_is_drawn(config.folder / job.name) for job in asked.planned.jobs),
        left_out=tuple(asked.planned.left_out),
        removed=len(asked.folder.removable),
    )


def _request(config: RenderConfig) -> _Request:
    """What is requested, once it is known that the folder's pictures allow it."""
    run = open_run(config.run, evaluation=config.scores)
    warn_of_unfinished(run)
    style = config.picture_style(run)
    planned = plan(run, config, style)
    folder = picture_folder(config.folder, list_of(run, config, planned), overwrite=config.overwrite)
    digest = digest_of(run.manifest.fingerprint, style, planned)
    asked = _Request(run=run, style=style, planned=planned, todo=_todo(planned, config), digest=digest, folder=folder)
    refuse_another_request(config.folder, style.kind, digest, asked.kept)
    return asked


@told("looking for pictures that exist")
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


def _locate(asked: _Request, config: RenderConfig, scratch: Path) -> dict[str, Source]:
    """Where the images that are to be drawn can be read. Raises UserError naming a shard that cannot."""
    if not asked.todo:
        return {}
    return locate(asked.run.mined_shards(row["shard"] for row in asked.rows), asked.rows, config, scratch)


def _draw(asked: _Request, config: RenderConfig, sources: Mapping[str, Source]) -> Drawn:
    run, table, todo = asked.run, asked.planned.table, asked.todo
    limits = colour_limits(run, table, asked.style.maps, asked.style.looks.scale)
    style = replace(asked.style, limits=limits)
    for folder in sorted({(config.folder / job.name).parent for job in todo}):
        make_folder(folder)
    wanted_workers = config.workers or available_cores()
    workers = wanted_workers if _pixels(asked.rows, style) >= WORTH_PROCESSES else 1
    painter = Painter(root=run.layout.root, output=config.folder, style=style, form=config.form)
    chunks = make_chunks(table, todo, sources, wanted_workers)
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
