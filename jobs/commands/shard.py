"""`promptsg shard`: packs a dataset folder into tar shards, with the original bytes and a `.json` per image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
from tqdm import tqdm

from jobs.datasets.layouts import DATASETS, Listing, Record, list_csv, list_dataset, list_pattern
from jobs.datasets.packing import discard_plan, plan_shards, write_shards
from jobs.errors import UserError

_SHOWN = 5


@click.command(name="shard", short_help="Pack a dataset folder into tar shards.")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("dest", type=click.Path(path_type=Path))
@click.option("--dataset", default="auto", help=f"auto (default), {', '.join(DATASETS)}.")
@click.option("--pattern", help="Any other layout: a regular expression over the path below SOURCE with the groups "
              "(?P<pid>), (?P<camid>) and optionally (?P<seq>), (?P<frame>), (?P<split>).")  # fmt: skip
@click.option("--csv", "csv_file", type=click.Path(path_type=Path), help="Any other layout: a CSV of "
              "path,pid,camid,split.")  # fmt: skip
@click.option("--split", "splits", multiple=True, help="Only this split; repeatable.")
@click.option("--images-per-shard", default=1000, show_default=True, type=click.IntRange(1), help="A shard is the unit "
              "of work: a killed job loses at most the shards in hand.")  # fmt: skip
@click.option("--shuffle", is_flag=True, help="Shuffle within each split instead of sorting by key.")
@click.option("--seed", default=0, show_default=True, help="Of --shuffle.")
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
    if (pattern is not None) + (csv_file is not None) + (dataset != "auto") > 1:
        raise click.UsageError("give one of --dataset, --pattern and --csv")
    listing = _list(source, dataset, pattern, csv_file)
    records = _only(listing.records, splits)
    plan = plan_shards(records, images_per_shard, seed if shuffle else None)
    if overwrite and (removed := discard_plan(dest)):
        click.echo(f"removed {len(removed)} shards of an earlier request from {dest}")
    asked: dict[str, object] = {
        "dataset": listing.dataset,
        "images_per_shard": images_per_shard,
        "seed": seed if shuffle else None,
    }
    with tqdm(total=len(records), unit=" images", disable=None) as bar:  # None: only on a terminal
        for shard in write_shards(dest, plan, asked):
            bar.update(len(shard.records))
    _report(listing, records, len(plan), dest)


def _list(source: Path, dataset: str, pattern: str | None, csv_file: Path | None) -> Listing:
    if pattern is None and csv_file is None:
        return list_dataset(source, dataset)
    if not source.is_dir():
        raise UserError(f"the dataset folder {source} does not exist")
    listing = list_pattern(source, pattern) if pattern is not None else list_csv(source, csv_file or Path())
    if not listing.records:
        seen = ", ".join(str(path.relative_to(source)) for path in [*listing.ignored, *listing.missing][:_SHOWN])
        raise UserError(f"nothing below {source} fits (first files: {seen or 'none'})")
    return listing


def _only(records: Sequence[Record], splits: Sequence[str]) -> list[Record]:
    known = sorted({record.split for record in records})
    for split in splits:
        if split not in known:
            raise UserError(f"there is no split {split!r}; there are {', '.join(known)}")
    return [record for record in records if not splits or record.split in splits]


def _report(listing: Listing, records: Sequence[Record], shards: int, dest: Path) -> None:
    """Says what was packed and what was passed over."""
    for split in sorted({record.split for record in records}):
        chosen = [record.parsed for record in records if record.split == split]
        people = len({parsed.pid for parsed in chosen if parsed.pid > 0})
        cameras = len({parsed.camid for parsed in chosen})
        click.echo(f"{split}: {len(chosen)} images, {people} identities, {cameras} cameras")
    if listing.ignored:
        click.echo(f"ignored {len(listing.ignored)} files that are no images of it: {_names(listing.ignored)}")
    if listing.missing:
        click.echo(f"warning: {len(listing.missing)} listed files do not exist: {_names(listing.missing)}", err=True)
    click.echo(f"{len(records)} images in {shards} shards of {listing.dataset} in {dest}")
    click.echo(f"next: promptsg mine --shards '{dest}/*.tar' --checkpoint CHECKPOINT --output RUN")


def _names(paths: Sequence[Path]) -> str:
    shown = ", ".join(f"{path.parent.name}/{path.name}" for path in paths[:_SHOWN])
    return shown + (", ..." if len(paths) > _SHOWN else "")
