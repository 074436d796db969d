"""`promptsg gallery`: a page to look through images and maps in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from jobs.commands.options import PromptsgCommand, echo, option_with_default, stored_pictures_options
from jobs.phrases import counted
from jobs.progress import LongTask
from jobs.rendering.page.config import DEFAULT_LIMIT, GalleryConfig
from jobs.runs.query import RowSelection

if TYPE_CHECKING:
    from jobs.rendering.gallery import GalleryReport
    from jobs.rendering.looks import Looks


@click.command(name="gallery", cls=PromptsgCommand)
@click.option("--output", required=True, type=click.Path(path_type=Path), help="The folder to write.")
@stored_pictures_options(maps="all", limit=DEFAULT_LIMIT, upsample=False)
@click.option("--other", type=click.Path(path_type=Path), help="A run B over the same images: a switch shows its maps.")
@option_with_default(
    "--thumb-height",
    default=GalleryConfig.thumb_height,
    type=click.IntRange(16, 2048),
    help="The height of the pictures, in pixels.",
)
@click.option("--overwrite", is_flag=True, help="Replace a gallery that exists.")
def command(
    run: Path,
    output: Path,
    selection: RowSelection,
    evaluation: Path | None,
    maps: tuple[str, ...],
    looks: Looks,
    thumb_height: int,
    shards_root: str | None,
    allow_remote: bool,
    allow_pipes: bool,
    workers: int | None,
    other: Path | None,
    overwrite: bool,
) -> None:
    """Write a folder whose index.html shows images and maps of RUN: filter, sort, switch maps, click for the panel.

    It needs no server and nothing outside of the folder. Images that failed, or have a map that is not finite, are left
    out. After `promptsg evaluate` the page can sort by ap and first_rank too.

    \b
    Example:
      promptsg gallery RUN --where "split = 'query'" --order-by 'mim_attention_entropy' --output look
      promptsg gallery RUN --keys RUN/evaluation/failures.txt --output failures
      promptsg gallery RUN --other RUN_B --keys RUN_B/diff/changed.txt --output changed
    """
    with LongTask("loading what computes"):
        from jobs.rendering.gallery import gallery

    config = GalleryConfig(
        run=run,
        output=output,
        selection=selection,
        evaluation=evaluation,
        maps=maps,
        looks=looks,
        thumb_height=thumb_height,
        shards_root=shards_root,
        allow_remote=allow_remote,
        allow_pipes=allow_pipes,
        workers=workers,
        other=other,
        overwrite=overwrite,
    )
    echo(describe(gallery(config), selection.limit))


def describe(report: GalleryReport, limit: int | None) -> str:
    """What is on the page, what was left out, and what the limit cut off."""
    lines = [f"{counted(report.images, 'image')} in {report.page}"]
    if report.left_out:
        lines.append("left out: " + ", ".join(f"{count} {why}" for why, count in sorted(report.left_out.items())))
    if report.cut:
        lines.append(
            f"{counted(report.cut, 'more image matches and is', 'more images match and are')} not in it: --limit is "
            f"{limit}; raise it, or narrow with --where "
            "or --sample"
        )
    return "\n".join(lines)
