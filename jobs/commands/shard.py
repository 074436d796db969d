"""`promptsg shard`: packs a dataset folder into tar shards, with the original bytes and a `.json` per image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from jobs.datasets.layouts import LAYOUTS
from jobs.datasets.packing import PackingReport, ShardConfig, pack
from jobs.errors import UserError
from jobs.phrases import first_few


@click.command(name="shard")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("dest", type=click.Path(path_type=Path))
@click.option("--dataset", default="auto", help=f"auto (default), {', '.join(LAYOUTS)}.")
@click.option("--pattern", help="Any other layout: a regular expression over the path below SOURCE with the groups "
              "(?P<pid>), (?P<camid>) and optionally (?P<seq>), (?P<frame>), (?P<split>).")  # fmt: skip
@click.option("--csv", "csv_file", type=click.Path(path_type=Path), help="Any other layout: a CSV of "
              "path,pid,camid,split.")  # fmt: skip
@click.option("--split", "splits", multiple=True, help="Only this split; repeatable.")
@click.option("--images-per-shard", default=1000, show_default=True, type=click.IntRange(1), help="A shard is the unit "
              "of work: a job that is killed loses at most the shards that it was working on.")  # fmt: skip
@click.option("--shuffle", is_flag=True, help="Shuffle within each split instead of sorting by key.")
@click.option("--seed", default=0, show_default=True, help="The seed of --shuffle.")
@click.option("--overwrite", is_flag=True, help="Remove the shards of an earlier request in DEST first.")
def command(
    source: Path,
    dest: Path,
    dataset: str,
    pattern: str | None,
    csv_file: Path | None,
    splits: tuple[str, ...],
    images_per_shard: int,
    shuffle: bool,
    seed: int,
    overwrite: bool,
) -> None:
    """Pack the images below SOURCE into tar shards in DEST, one split per shard. Run it again after an interruption.

    \b
    Example:
      promptsg shard Market-1501-v15.09.15 shards --dataset market1501
      promptsg shard my_dataset shards --pattern '(?P<split>\\w+)/(?P<pid>\\d+)_cam(?P<camid>\\d+)_.*'
    """
    try:
        config = ShardConfig(
            source=source,
            dest=dest,
            dataset=dataset,
            pattern=pattern,
            csv=csv_file,
            splits=splits,
            images_per_shard=images_per_shard,
            shuffle=shuffle,
            seed=seed,
            overwrite=overwrite,
        )
    except UserError as error:
        raise click.UsageError(str(error)) from error
    report = pack(config)
    for line in describe(report):
        click.echo(line)
    if report.missing:
        click.echo(f"warning: {len(report.missing)} listed files do not exist: {_names(report.missing)}", err=True)


def describe(report: PackingReport) -> list[str]:
    """The lines that say what was packed, what was passed over, and what to do next."""
    lines = []
    if report.removed:
        lines.append(f"removed {len(report.removed)} shards of an earlier request from {report.dest}")
    for split in report.splits:
        lines.append(f"{split.split}: {split.images} images, {split.identities} identities, {split.cameras} cameras")
    if report.ignored:
        lines.append(
            f"ignored {len(report.ignored)} files that are not images of the dataset: {_names(report.ignored)}"
        )
    lines.append(f"{report.images} images in {len(report.shards)} shards of {report.dataset} in {report.dest}")
    lines.append(f"next: promptsg mine --shards '{report.dest}/*.tar' --checkpoint CHECKPOINT --output RUN")
    return lines


def _names(paths: Sequence[Path]) -> str:
    return first_few(f"{path.parent.name}/{path.name}" for path in paths)
