"""`promptsg render`: pictures of chosen images from the stored maps and the original shards (no torch, no model)."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs.errors import UserError
from jobs.rendering.colour_limits import colour_limits
from jobs.rendering.painter import Painter, draw_all, make_chunks
from jobs.rendering.plan import ONE_MAP_EACH, STYLES, Config, Plan, plan
from jobs.rendering.requests import digest_of, register

if TYPE_CHECKING:
    from jobs.rendering.drawing import Style
    from jobs.runs.run import Run
WORTH_PROCESSES = 30_000_000  # pixels; drawing fewer takes less time than starting processes
_SHOWN = 5
_DRY_RUN_SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class Report:
    """What became of it: pictures written, those that were there and stay, and (key, reason) of what was left out."""

    written: int
    kept: int
    skipped: list[tuple[str, str]] = field(default_factory=list)


@click.command(name="render", short_help="Draw maps over the images of any selection.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--output", type=click.Path(path_type=Path), help="Folder for the pictures.  [default: RUN/pictures]")
@click.option("--style", "kind", type=click.Choice(STYLES), default="overlay", show_default=True)
@click.option("--where", help="SQL over the metadata's columns, such as 'pid = 12 AND camid = 3'.")
@click.option("--order-by", help="SQL, such as 'mim_attention_entropy DESC'.")
@click.option("--limit", type=click.IntRange(1), help="Most images, after sorting.")
@click.option("--sample", type=click.IntRange(1), help="So many of the images at random.")
@click.option("--seed", default=0, show_default=True, help="Of --sample.")
@click.option("--keys", type=click.File(encoding="utf-8"), help="A file with a key on each line; - is standard input.")
@click.option("--queries", type=click.Path(path_type=Path), help="queries.parquet or failures.txt of `evaluate`.")
@click.option("--topk", type=click.IntRange(1), default=10, show_default=True, help="Gallery images in `ranked`.")
@click.option("--map", "maps", multiple=True, help="A stored map; repeatable.  [default: all for panel and sheet, else "
              "the first]")  # fmt: skip
@click.option("--scale", type=click.Choice(["image", "shared", "percentile"]), default="image", show_default=True,
              help="The colours' ends: each map's own extremes, those of all selected, or their 1st and 99th "
              "percentiles.")  # fmt: skip
@click.option("--colormap", default="turbo", show_default=True, help="By OpenCV's name.")
@click.option("--alpha", type=click.FloatRange(0, 1), default=0.5, show_default=True, help="The map's share.")
@click.option("--upsample", type=click.Choice(["bilinear", "nearest", "bicubic"]), default="bilinear",
              show_default=True)  # fmt: skip
@click.option("--size", help="Of each image, HEIGHTxWIDTH or its height.  [default: its own for overlay and heatmap, "
              "else 256]")  # fmt: skip
@click.option("--per-page", type=click.IntRange(1), default=8, show_default=True, help="Images on a page of `sheet`.")
@click.option("--format", "form", type=click.Choice(["png", "jpg", "webp"]), default="png", show_default=True)
@click.option("--name-template", help="With {key} {shard} {pid} {camid} {map} {style}; a / makes folders.  "
              "[default: {key}__{map}]")  # fmt: skip
@click.option("--shards-root", help="The folder or address where the shards are now, if they moved.")
@click.option("--workers", type=click.IntRange(1), help="Processes.  [default: one per core]")
@click.option("--overwrite", is_flag=True, help="Draw also what is there already.")
@click.option("--dry-run", is_flag=True, help="Say how many pictures it would be, and the first ten.")
def command(run: Path, output: Path | None, dry_run: bool, workers: int | None, **options: Any) -> None:
    """Draw pictures of RUN's images with their maps, any selection of them, from the stored maps and the shards.

    \b
    Styles:
      overlay, heatmap  one picture per image and map, without captions
      panel             an image, then heatmap and overlay of each map
      sheet             pages of images (rows) and maps (columns)
      identity          a page per pid, one row per camera
      ranked            a query and its nearest gallery images, with --queries

    What is there already for the same request is kept, so that an interrupted command goes on; --overwrite draws anew.

    \b
    Examples:
      promptsg render RUN --where "pid = 12 AND camid = 3"
      promptsg render RUN --style panel --order-by 'mim_attention_entropy DESC' --limit 50
      promptsg render RUN --style ranked --queries RUN/evaluation/failures.txt
    """
    from jobs.runs.query import RowSelection, read_keys
    from jobs.runs.run import open_run

    opened = open_run(run)
    style = take_style(opened, options)
    selection = RowSelection(
        keys=None if (keys := options.pop("keys")) is None else tuple(read_keys(keys)),
        **{name: options.pop(name) for name in ("where", "order_by", "limit", "sample", "seed")},
    )
    workers = workers or len(os.sched_getaffinity(0))
    config = Config(output=output or run / "pictures", style=style, selection=selection, workers=workers, **options)
    if dry_run:
        click.echo(describe_plan(plan(opened, config), config))
        return
    click.echo(describe(render(opened, config), config))


def take_style(run: Run, options: dict[str, Any]) -> Style:
    """Takes what concerns the look out of the command's options. Raises UserError on an unknown map or size."""
    import numpy as np

    from cam.overlay import apply_colormap
    from jobs.rendering.drawing import DEFAULT_HEIGHT, Style

    kind, maps, text = (options.pop(name) for name in ("kind", "maps", "size"))
    look = {name: options.pop(name) for name in ("colormap", "alpha", "upsample")}
    apply_colormap(np.zeros((1, 1), np.float32), look["colormap"])  # an unknown name is told before anything is read
    size = parse_size(text) if text else None
    if size is None and kind not in ONE_MAP_EACH:
        size = (DEFAULT_HEIGHT, None)
    chosen = run.choose_maps(maps) or (run.maps if kind in ("panel", "sheet") else run.maps[:1])
    return Style(kind=kind, maps=chosen, size=size, **look)


def parse_size(text: str) -> tuple[int, int | None]:
    """`256x128` -> (256, 128), `256` -> (256, None). Raises UserError on anything else."""
    found = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text.strip().lower())
    if found is None or not all(8 <= int(part) <= 16384 for part in found.groups() if part):
        raise UserError(
            f"--size {text!r} is neither HEIGHTxWIDTH nor a height, such as 256x128 or 256, from 8 to 16384"
        )
    return int(found[1]), int(found[2]) if found[2] else None


def render(run: Run, config: Config) -> Report:
    """Draws what `config` selects and is not there yet.

    Raises UserError on a selection without images, on pictures of another request there, on shards that are not there
    or have changed, and on a full disk.
    """
    import tempfile

    from jobs.atomic import make_folder, remove_leftovers
    from jobs.shards.random_access import locate

    planned = plan(run, config)
    todo = (
        planned.jobs if config.overwrite else [job for job in planned.jobs if not _is_there(config.output / job.name)]
    )
    kept = len(planned.jobs) - len(todo)
    register(config, digest_of(run, config, planned), kept)
    if not todo:
        return Report(written=0, kept=kept, skipped=planned.skipped)
    limits = colour_limits(run, planned.table, config.style.maps, config.scale)
    style = replace(config.style, limits=limits)
    for folder in sorted({(config.output / job.name).parent for job in todo}):
        make_folder(folder)
        remove_leftovers(folder)
    needed = planned.table.take(sorted({row for job in todo for row in job.rows})).to_pylist()
    with tempfile.TemporaryDirectory(prefix="promptsg-render-") as scratch:
        sources = locate(run, needed, config.shards_root, Path(scratch))
        painter = Painter(root=run.layout.root, output=config.output, style=style, form=config.form, sources=sources)
        chunks = make_chunks(planned.table, todo, config.workers)
        workers = config.workers if _pixels(needed, style) >= WORTH_PROCESSES else 1
        written, skipped = draw_all(painter, chunks, len(todo), workers)
    return Report(written=written, kept=kept, skipped=planned.skipped + skipped)


def _pixels(rows: Sequence[Mapping[str, Any]], style: Style) -> int:
    """About how many pixels the maps of these rows will cover."""
    if style.size is None:
        return sum(row["width"] * row["height"] for row in rows) * len(style.maps)
    height, width = style.size
    return sum(height * (width or height * row["width"] // row["height"]) for row in rows) * len(style.maps)


def describe_plan(planned: Plan, config: Config) -> str:
    """What would be drawn: how many, and the first ten."""
    there = 0 if config.overwrite else sum(_is_there(config.output / job.name) for job in planned.jobs)
    lines = [f"{_count(len(planned.jobs), 'picture')} in {config.output}, {there} of them there already"]
    lines += [f"  {job.name}" for job in planned.jobs[:_DRY_RUN_SHOWN]]
    if len(planned.jobs) > _DRY_RUN_SHOWN:
        lines.append(f"  ... and {len(planned.jobs) - _DRY_RUN_SHOWN} more")
    return "\n".join([*lines, *_left_out(planned.skipped)])


def describe(report: Report, config: Config) -> str:
    """One line on what was done, and what was left out."""
    kept = f", {report.kept} were there and stay (--overwrite draws them anew)" if report.kept else ""
    return "\n".join(
        [f"{_count(report.written, 'picture')} written to {config.output}{kept}", *_left_out(report.skipped)]
    )


def _left_out(skipped: Sequence[tuple[str, str]]) -> list[str]:
    """A line per reason with its count and the first keys."""
    by_reason: dict[str, list[str]] = {}
    for key, reason in skipped:
        by_reason.setdefault(reason, []).append(key)
    return [
        f"left out, {reason}: {len(keys)} ({', '.join(keys[:_SHOWN])}" + (", ...)" if len(keys) > _SHOWN else ")")
        for reason, keys in sorted(by_reason.items())
    ]


def _is_there(path: Path) -> bool:
    """Whether a picture was drawn: an empty file is what a crash of the machine may leave."""
    try:
        return path.stat().st_size > 0
    except OSError:
        return False


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
