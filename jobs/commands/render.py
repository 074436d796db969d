"""`promptsg render`: pictures of any chosen images from the stored maps."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cam.panels import WIDEST
from jobs.commands.options import PromptsgCommand, echo, option_with_default, stored_pictures_options
from jobs.errors import UserError
from jobs.phrases import counted, first_few
from jobs.progress import LongTask
from jobs.rendering.drawing.style import STYLES
from jobs.rendering.image_files import FORMATS
from jobs.rendering.render_config import RenderConfig
from jobs.runs.query import RowSelection

if TYPE_CHECKING:
    from jobs.rendering.drawing.job import LeftOut
    from jobs.rendering.looks import Looks
    from jobs.rendering.render import RenderPreview, RenderReport

_PREVIEWED = 10
_MOST_PIXELS = 1 << 27  # of one picture; drawing takes some 20 bytes for each


@click.command(name="render", cls=PromptsgCommand)
@click.option("--output", type=click.Path(path_type=Path), help="The folder for the pictures.  [default: RUN/pictures, "
              "with a folder for each style]")  # fmt: skip
@option_with_default("--style", type=click.Choice(STYLES), default=RenderConfig.style, help="The kind of pictures.")
@stored_pictures_options(maps="all for panel, sheet and diff, else the first")
@click.option("--queries", type=click.Path(path_type=Path), help="Only these queries: queries.parquet or failures.txt "
              "of `promptsg evaluate`.")  # fmt: skip
@click.option("--other", type=click.Path(path_type=Path), help="The run B that --style diff compares RUN with.")
@option_with_default(
    "--topk", type=click.IntRange(1), default=RenderConfig.topk, help="The number of gallery images in `ranked`."
)
@click.option("--size", help="The size of each image: HEIGHTxWIDTH, or a height, at which an image more than "
              "8 times as wide is drawn lower.  [default: its own for overlay and heatmap, else 256]")  # fmt: skip
@option_with_default(
    "--per-page",
    type=click.IntRange(1),
    default=RenderConfig.per_page,
    help="The number of images on a page of `sheet`.",
)
@option_with_default("--format", "form", type=click.Choice(list(FORMATS)), default=RenderConfig.form,
              help="The format of the pictures.")  # fmt: skip
@click.option("--name-template", help="How pictures are named, with {key} {shard} {pid} {camid} {map} {style} "
              "{number}; a / makes folders.  [default: {key}__{map}]")  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Also draw pictures that exist already.")
@click.option("--dry-run", is_flag=True, help="Only say how many pictures would be drawn, and name the first ten.")
def command(
    run: Path,
    output: Path | None,
    style: str,
    selection: RowSelection,
    evaluation: Path | None,
    queries: Path | None,
    other: Path | None,
    topk: int,
    maps: tuple[str, ...],
    looks: Looks,
    size: str | None,
    per_page: int,
    form: str,
    name_template: str | None,
    shards_root: str | None,
    allow_remote: bool,
    allow_pipes: bool,
    workers: int | None,
    overwrite: bool,
    dry_run: bool,
) -> None:
    """Draw pictures of RUN's images with their maps, any selection of them, from the stored maps and the shards.

    \b
    Styles:
      overlay, heatmap  one picture per image and map, without captions
      panel             an image, then heatmap and overlay of each map
      sheet             pages of images (rows) and maps (columns)
      identity          a page per identity, one row per camera
      ranked            a query and its nearest gallery images, with --queries
      diff              an image, its maps in RUN and in --other on one scale, and their difference

    Pictures that exist already for the same request are kept, so that an interrupted command can be repeated.
    --overwrite draws them again. With --order-by or a list of keys their names begin with the place in that order, such
    as 0001_. index.html shows all pictures of the folder with captions, in any browser.

    \b
    Examples:
      promptsg render RUN --where "pid = 12 AND camid = 3"
      promptsg render RUN --style panel --order-by 'mim_attention_entropy DESC' --limit 50
      promptsg render RUN --where "split = 'query'" --order-by ap --limit 50
      promptsg render RUN --style ranked --queries RUN/evaluation/failures.txt
      promptsg render RUN --style diff --other RUN_B --keys RUN_B/diff/changed.txt --limit 20
    """
    with LongTask("loading what computes"):
        from jobs.rendering.render import preview, render

    config = RenderConfig(
        run=run,
        output=output,
        style=style,
        maps=maps,
        looks=looks,
        size=parse_size(size) if size else None,
        form=form,
        selection=selection,
        evaluation=evaluation,
        queries=queries,
        other=other,
        topk=topk,
        per_page=per_page,
        name_template=name_template,
        shards_root=shards_root,
        allow_remote=allow_remote,
        allow_pipes=allow_pipes,
        workers=workers,
        overwrite=overwrite,
    )
    echo(describe_preview(preview(config)) if dry_run else describe(render(config)))


def parse_size(text: str) -> tuple[int, int | None]:
    """`256x128` -> (256, 128), `256` -> (256, None). Raises UserError on anything else, and on what is too large."""
    found = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text.strip().lower())
    if found is None or not all(8 <= int(part) <= 16384 for part in found.groups() if part):
        raise UserError(
            f"--size {text!r} is neither HEIGHTxWIDTH nor a height, such as 256x128 or 256, from 8 to 16384"
        )
    height, width = int(found[1]), int(found[2]) if found[2] else None
    if height * (width or WIDEST * height) > _MOST_PIXELS:  # without a width, the widest image counts
        raise UserError(f"--size {text!r} makes pictures of more than {_MOST_PIXELS:,} pixels: take at most 4096 as a "
                        "height, or a smaller HEIGHTxWIDTH")  # fmt: skip
    return height, width


def describe(report: RenderReport) -> str:
    """What was drawn, and what was left out."""
    kept = f", {report.kept} existed and were kept (--overwrite draws them again)" if report.kept else ""
    written = f"{counted(report.written, 'picture')} written to {report.folder}{kept}"
    removed = [f"removed: {_renumbered(report.removed)}"] if report.removed else []
    index = [f"to look through: {report.index}"] if report.index else []
    return "\n".join([written, *removed, *_left_out(report.left_out), *index])


def describe_preview(planned: RenderPreview) -> str:
    """What would be drawn: how many pictures, the names of the first ten, and what would be left out."""
    pictures = planned.pictures
    lines = [f"{counted(len(pictures), 'picture')} in {planned.folder}, of which {planned.existing} exist already"]
    lines += [f"  {name}" for name in pictures[:_PREVIEWED]]
    if len(pictures) > _PREVIEWED:
        lines.append(f"  ... and {len(pictures) - _PREVIEWED} more")
    if planned.removed:
        lines.append(f"would be removed: {_renumbered(planned.removed)}")
    return "\n".join([*lines, *_left_out(planned.left_out)])


def _renumbered(count: int) -> str:
    return f"{counted(count, 'earlier picture')} whose numbers contradict these"


def _left_out(left_out: Sequence[LeftOut]) -> list[str]:
    """A line per reason with its count and the first keys."""
    by_reason: dict[str, list[str]] = {}
    for image in left_out:
        by_reason.setdefault(image.reason, []).append(image.key)
    return [f"left out, {reason}: {len(keys)} ({first_few(keys)})" for reason, keys in sorted(by_reason.items())]
