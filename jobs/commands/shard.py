"""`promptsg shard`: packs a dataset folder into tar shards, with the original bytes and a `.json` per image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from jobs.commands.options import PromptsgCommand, echo, next_step, option_with_default
from jobs.datasets.layouts import LAYOUTS
from jobs.datasets.packing import PackingReport, ShardConfig, pack
from jobs.errors import UserError
from jobs.phrases import counted, first_few


@click.command(name="shard", cls=PromptsgCommand)
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("dest", type=click.Path(path_type=Path))
@click.option("--dataset", default="auto", help=f"auto (default), {', '.join(LAYOUTS)}.")
@click.option("--pattern", help="Any other layout: a regular expression over the path below SOURCE with the groups "
              "(?P<pid>), (?P<camid>) and optionally (?P<seq>), (?P<frame>), (?P<split>), (?P<role>), "
              "(?P<identity>).")  # fmt: skip
@click.option("--csv", "csv_file", type=click.Path(path_type=Path), help="Any other layout: a CSV, in UTF-8, of "
              "path,pid,camid,split and optionally seq,frame,role,identity. A role is person, distractor or "
              "junk; an identity is a text that is the same for one person in all splits.")  # fmt: skip
@click.option("--camid-base", type=click.IntRange(0, 1), help="The number of the first camera in --pattern or --csv: "
              "0 (default) or 1. Shards count from 0. A letter counts from a.")  # fmt: skip
@click.option("--camid", type=click.IntRange(0, 2**31 - 1), help="The camera of all images, counted from 0, where "
              "--pattern or --csv has none.")  # fmt: skip
@click.option("--split-map", multiple=True, metavar="NAME=NEW", help="Another name for a split, such as "
              "bounding_box_test=gallery; repeatable. Two splits may get one name.")  # fmt: skip
@click.option("--split", "splits", multiple=True, help="Only this split, by its new name; repeatable.")
@click.option("--follow-links", is_flag=True, help="Pack links to images outside SOURCE too. Links to folders are "
              "always followed, and links to images in SOURCE, or in a folder that was linked.")  # fmt: skip
@option_with_default("--images-per-shard", default=1000, type=click.IntRange(1), help="A shard is the unit "
              "of work: a job that is killed loses at most the shards that it was working on.")  # fmt: skip
@click.option("--shuffle", is_flag=True, help="Shuffle within each split instead of sorting by key.")
@option_with_default("--seed", default=0, help="The seed of --shuffle.")
@click.option("--overwrite", is_flag=True, help="Remove the shards of an earlier request in DEST first.")
def command(
    source: Path,
    dest: Path,
    dataset: str,
    pattern: str | None,
    csv_file: Path | None,
    camid_base: int | None,
    camid: int | None,
    split_map: tuple[str, ...],
    splits: tuple[str, ...],
    follow_links: bool,
    images_per_shard: int,
    shuffle: bool,
    seed: int,
    overwrite: bool,
) -> None:
    """Pack the images below SOURCE into tar shards in DEST, one split per shard. Run it again after an interruption.

    Run it again, too, when images were mended: the shards that they are in are packed again, and `mine --retry-failed`
    takes them. DEST/shards.json keeps what was packed: the size and time of the images, and the hash of each shard.
    A key is the image's base name up to its first dot. Where base names repeat within a split, its keys begin with
    the folders: cam1/0001/0001.

    \b
    Example:
      promptsg shard Market-1501-v15.09.15 shards --dataset market1501
      promptsg shard SYSU-MM01 shards --camid-base 1 --pattern 'cam(?P<camid>\\d)/(?P<pid>\\d+)/\\d+\\.jpg'
      promptsg shard my_dataset shards --pattern '(?P<split>\\w+)/(?P<pid>\\d+)_cam(?P<camid>\\d+)_.*'
    """
    try:
        config = ShardConfig(
            source=source,
            dest=dest,
            dataset=dataset,
            pattern=pattern,
            csv=csv_file,
            split_map=tuple(map(_renaming, split_map)),
            splits=splits,
            camid=camid,
            camid_base=camid_base,
            follow_links=follow_links,
            images_per_shard=images_per_shard,
            shuffle=shuffle,
            seed=seed,
            overwrite=overwrite,
        )
    except UserError as error:
        raise click.UsageError(str(error)) from error
    report = pack(config)
    for line in describe(report):
        echo(line)
    for line in warnings_of(report):
        echo(f"warning: {line}", err=True)


def _renaming(text: str) -> tuple[str, str]:
    old, equals, new = text.rpartition("=")
    if not (old and equals):
        raise UserError(f"--split-map {text}: expected NAME=NEW, such as bounding_box_test=gallery")
    return old, new


def describe(report: PackingReport) -> list[str]:
    """The lines that say what was packed, what was passed over, and what to do next."""
    lines = []
    if report.removed:
        lines.append(f"removed {counted(len(report.removed), 'shard')} of an earlier request from {report.dest}")
    if report.packed_again:
        again = f"{counted(len(report.packed_again), 'shard')} whose images changed: {first_few(report.packed_again)}"
        lines.append(f"packed again {again}; `promptsg mine ... --retry-failed` takes them")
    for split in report.splits:
        lines.append(
            f"{split.split}: {counted(split.images, 'image')}, "
            f"{counted(split.identities, 'identity', 'identities')}, {counted(split.cameras, 'camera')}"
        )
    if report.ignored:
        lines.append(
            f"ignored {counted(len(report.ignored), 'file that is not an image', 'files that are not images')} "
            f"of the dataset: {_names(report.ignored)}"
        )
    lines.append(
        f"{counted(report.images, 'image')} in {counted(len(report.shards), 'shard')} of {report.dataset} in "
        f"{report.dest}; "
        f"{counted(report.identities, 'identity', 'identities')} in all"
    )
    words = ("mine", "--shards", report.dest / "*.tar", "--checkpoint", "CHECKPOINT", "--output", "RUN")
    return [*lines, *next_step(words)]


def warnings_of(report: PackingReport) -> list[str]:
    """What a user should look at: each kind of file that may have been meant, with its number and examples."""
    kinds = (
        (report.unfit, "not packed, since their names or places do not fit the layout"),
        (report.unread, "not packed, since their formats are not read"),
        (report.links_out, "not packed, since they are links out of the dataset's folder (--follow-links packs them)"),
    )
    lines = [f"{counted(len(paths), 'image')} {what}: {_names(paths)}" for paths, what in kinds if paths]
    if report.missing:
        lines.append(f"{len(report.missing)} listed or linked files do not exist: {_names(report.missing)}")
    if report.other_tars:
        others = f"{counted(len(report.other_tars), 'tar')}: {first_few(report.other_tars)}"
        lines.append(f"{report.dest} also has other tars, which '*.tar' takes too, {others}")
    splits = {split.split for split in report.splits}
    if splits - {"train", "val"} and not {"query", "gallery"} <= splits:
        lines.append(
            f"evaluate ranks the split gallery for the split query, and these shards have {', '.join(sorted(splits))}; "
            "--split-map NAME=NEW renames a split"
        )
    if report.may_count_from_1:
        lines.append("cameras count from 1 in these names and were taken as they are; --camid-base 1 makes the first 0")
    return lines


def _names(paths: Sequence[Path]) -> str:
    return first_few(f"{path.parent.name}/{path.name}" for path in paths)
