"""`promptsg gallery`: a page to look through images and maps in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from jobs.commands.options import (
    looks_options,
    run_argument,
    selection_options,
    shards_root_option,
    stored_maps_option,
    workers_option,
)
from jobs.phrases import counted
from jobs.runs.query import RowSelection

if TYPE_CHECKING:
    from jobs.rendering.gallery import GalleryReport
    from jobs.rendering.looks import Looks


@click.command(name="gallery")
@run_argument
@click.option("--output", required=True, type=click.Path(path_type=Path), help="The folder to write.")
@selection_options(limit=2000, keys=False)
@stored_maps_option(default="all")
@looks_options(upsample=False)
@click.option("--thumb-height", default=128, show_default=True, type=click.IntRange(16, 2048), help="The height of the "
              "pictures, in pixels.")  # fmt: skip
@shards_root_option
@workers_option
@click.option("--overwrite", is_flag=True, help="Replace a gallery that exists.")
def command(
    run: Path,
    output: Path,
    selection: RowSelection,
    maps: tuple[str, ...],
    looks: Looks,
    thumb_height: int,
    shards_root: str | None,
    workers: int | None,
    overwrite: bool,
) -> None:
    """Write a folder whose index.html shows images and maps of RUN: filter, sort, switch maps, click for the panel.

    It needs no server and nothing outside of the folder. Images that failed, or have a map that is not finite, are left
    out.

    \b
    Example:
      promptsg gallery RUN --where "split = 'query'" --order-by 'mim_attention_entropy' --output look
    """
    from jobs.rendering.gallery import GalleryConfig, gallery

    config = GalleryConfig(
        run=run,
        output=output,
        selection=selection,
        maps=maps,
        looks=looks,
        thumb_height=thumb_height,
        shards_root=shards_root,
        workers=workers,
        overwrite=overwrite,
    )
    click.echo(describe(gallery(config), selection.limit))


def describe(report: GalleryReport, limit: int | None) -> str:
    """What is on the page, what was left out, and what the limit cut off."""
    lines = [f"{counted(report.images, 'image')} in {report.page}"]
    if report.left_out:
        lines.append("left out: " + ", ".join(f"{count} {why}" for why, count in sorted(report.left_out.items())))
    if report.cut:
        lines.append(
            f"{report.cut} more images match and are not in it: --limit is {limit}; raise it, or narrow with --where "
            "or --sample"
        )
    return "\n".join(lines)
