"""`promptsg stats`: where the model looks, per group of images, with intervals over identities (no torch)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from jobs.errors import UserError
from jobs.launch.split import block_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jobs.runs.run import Run
    from jobs.statistics.partial import Partial
    from jobs.statistics.question import Question, Selection


def ask(run: Run, by: Sequence[str], where: str, maps: Sequence[str], seed: int, sample: int) -> Question:
    """The question that the options put. Raises UserError on an unknown map or column, and if no row is selected.

    `by` are columns or SQL expressions over one row, each with an optional `AS name`.
    """
    from jobs.statistics.question import Question, check_expressions, count_images

    run.choose_maps(maps)
    pairs = tuple(_named(text) for text in by)
    names = [name for name, _ in pairs]
    reserved = {"map", "map_a", "map_b", "measure", "value", "low", "high", "n_images", "n_identities"}
    for name in names:
        if names.count(name) > 1 or name in reserved:
            raise UserError(f"--by: the column {name!r} is taken; give this expression another name with AS")
    check_expressions(run, pairs, where)
    count = count_images(run, where)
    if not count:
        raise UserError(f"no image of {run.layout.root} is selected{f' by --where {where!r}' if where else ''}")
    return Question(
        by=pairs,
        where=where,
        maps=tuple(dict.fromkeys(maps)) or run.maps,
        seed=seed,
        fraction=min(1.0, sample / count),
        fingerprint=run.manifest.fingerprint,
    )


def parse_block(text: str) -> tuple[int, int]:
    """`i/n` -> (i, n). Raises UserError unless i is from 0 to n - 1."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or not int(found[1]) < int(found[2]):
        raise UserError(f"--block is {text!r}; give i/n with i from 0 to n - 1, such as 0/4")
    return int(found[1]), int(found[2])


def merged(run: Run, paths: Sequence[Path]) -> Partial:
    """The parts of one question about this run as one. Raises UserError on parts of another run, or missing ones."""
    from jobs.statistics.partial import Partial

    if not paths:
        raise UserError("--merge needs the files that --block wrote, such as RUN/stats/parts/*.npz")
    total: Partial | None = None
    for path in paths:
        part = Partial.load(path)
        if part.question.fingerprint != run.manifest.fingerprint:
            raise UserError(f"{path} is not of the run {run.layout.root}")
        total = part if total is None else total + part
    assert total is not None
    if missing := run.layout.done() - set(total.shards):
        raise UserError(f"{len(missing)} shards are in no part, such as {min(missing)}: give every block's file")
    return total


def _named(text: str) -> tuple[str, str]:
    found = re.fullmatch(r"(.+?)\s+AS\s+(\w+)", text.strip(), re.IGNORECASE | re.DOTALL)
    return (found[2], found[1]) if found else (text.strip(), text)


def available_threads() -> int:
    """Processor cores that this process may use, at most four."""
    import os

    return max(1, min(4, len(os.sched_getaffinity(0))))


@click.command(name="stats", short_help="Where the model looks, per group, with intervals.")
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("parts", nargs=-1, type=click.Path(path_type=Path), metavar="[PART]...")
@click.option("--by", multiple=True, help="Group by a metadata column or an SQL expression [AS name]. Repeatable.")
@click.option("--where", default="", help="SQL condition that selects images; `run` is the table of all.")
@click.option("--map", "maps", multiple=True, help="A map of the run. Repeatable.  [default: all]")
@click.option("--output", type=click.Path(path_type=Path), help="Folder of the results.  [default: RUN/stats]")
@click.option("--outliers", default=50, show_default=True, type=click.IntRange(0), help="How many to list; 0: none.")
@click.option("--sample", default=20_000, show_default=True, type=click.IntRange(1), help="Images for agreement.")
@click.option("--resamples", default=1000, show_default=True, type=click.IntRange(10), help="Bootstrap resamples.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**32 - 1), help="Of every random draw.")
@click.option("--block", help="Only the i-th of n blocks of shards (i/n, from 0), as a part for --merge.")
@click.option("--merge", is_flag=True, help="Join PARTs; what was asked is taken from them.")
def command(
    run: Path,
    parts: tuple[Path, ...],
    by: tuple[str, ...],
    where: str,
    maps: tuple[str, ...],
    output: Path | None,
    outliers: int,
    sample: int,
    resamples: int,
    seed: int,
    block: str | None,
    merge: bool,
) -> None:
    """Say where the model looks in RUN: mean maps, entropy, area, centre and stripes of mass per group of images.

    Intervals are 95 % bootstrap intervals over identities. Junk and distractors (pid 0 or below, or none) count as
    one identity; they are in the groups' means and in nothing about identities. Agreement and consistency use whole
    identities drawn at random, about --sample images. Outliers are told by the first map.

    \b
    Example:
      promptsg stats RUN --by camid --by split --where "pid > 0"
      promptsg stats RUN --by camid --block 0/2; promptsg stats RUN --by camid --block 1/2
      promptsg stats RUN --merge RUN/stats/parts/*.npz
    """
    import os

    # Products of small matrices in our own threads: more of them inside would wait for each other. Before numpy comes.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

    from jobs.runs.run import open_run

    if merge and (block or by or where or maps):
        raise UserError("--merge takes what was asked from the parts: leave out --by, --where, --map and --block")
    if parts and not merge:
        raise UserError(f"{parts[0]} is one word too many; files are joined with --merge")
    opened = open_run(run)
    folder = output or run / "stats"
    if merge:
        from jobs.statistics.question import Selection

        part = merged(opened, parts)
        selection = Selection(opened, part.question, part.shards) if outliers else None
    else:
        part, selection = measured(opened, ask(opened, by, where, maps, seed, sample), block)
    if block is not None:
        click.echo(f"{save_part(part, folder, block)}: {int(part.images.sum())} images of {len(part.shards)} shards")
        return
    if not len(part.images):
        raise UserError("the parts have no image between them")
    files = write_results(opened, part, selection, folder, outliers, resamples)
    groups = part.groups.num_rows
    click.echo(f"{int(part.images.sum())} images in {groups} group{'s'[: groups != 1]}: {files['report']}")


def measured(run: Run, question: Question, block: str | None) -> tuple[Partial, Selection]:
    """One pass over the finished shards, or over those of a block of the run's full list."""
    from jobs.statistics.accumulate import accumulate
    from jobs.statistics.question import Selection
    from jobs.statistics.stored import stored_columns

    names, done = [shard.name for shard in run.manifest.shards], run.layout.done()
    if block is not None:
        index, count = parse_block(block)
        names = [names[position] for position in block_of(len(names), index, count)]
    chosen = sorted(name for name in names if name in done)
    selection = Selection(run, question, chosen, stored_columns(run, question.maps))
    return accumulate(selection), selection


def save_part(part: Partial, folder: Path, block: str) -> Path:
    """Writes a block's part for --merge; returns its path."""
    from jobs.atomic import make_folder, write_whole

    index, count = parse_block(block)
    path = folder / "parts" / f"part-{index:05d}-of-{count:05d}.npz"
    make_folder(path.parent)
    write_whole(path, part.save())
    return path


def write_results(
    run: Run, part: Partial, selection: Selection | None, folder: Path, number: int, resamples: int
) -> dict[str, Path]:
    """Every output of a whole question, each written atomically; what -> its path."""
    from jobs.statistics.agreement import agreement_rows, consistency, outliers
    from jobs.statistics.bootstrap import summarise
    from jobs.statistics.findings import Findings
    from jobs.statistics.report import write_findings

    summary = summarise(part, resamples)
    found = Findings(
        run=str(run.layout.root),
        part=part,
        summary=summary,
        agreement=agreement_rows(part, resamples),
        consistency=consistency(part.sample, part.question.maps, part.question.seed),
        outliers=outliers(selection, part, number, available_threads()) if selection is not None and number else [],
        keys={},
        resamples=resamples,
    )
    for outlier in found.outliers:
        found.keys[outlier.shard, outlier.row] = _key(run, outlier.shard, outlier.row)
    return write_findings(found, folder)


def _key(run: Run, shard: str, row: int) -> str:
    import h5py

    from jobs.runs.maps_file import KEY

    with h5py.File(run.layout.shard_maps(shard), "r", locking=False) as file:
        return str(file[KEY][row].decode())
