"""`promptsg stats`: where the model looks, per group of images, with intervals over identities (no torch)."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from jobs.commands.options import (
    HEADS_HELP,
    PromptsgCommand,
    allow_pipes_option,
    allow_remote_option,
    echo,
    evaluation_option,
    option_with_default,
    run_argument,
    shards_root_option,
)
from jobs.errors import UserError
from jobs.phrases import counted
from jobs.progress import LongTask
from jobs.statistics.config import ShardBlock, StatsConfig

if TYPE_CHECKING:
    from jobs.statistics.stats import StatsResult


@click.command(name="stats", cls=PromptsgCommand)
@run_argument
@click.argument("parts", nargs=-1, type=click.Path(path_type=Path), metavar="[PART]...")
@click.option("--by", multiple=True, help="Group by a metadata column or an SQL expression [AS name]. Repeatable.")
@click.option("--where", help="SQL condition that selects images; `run` is the table of all.")
@evaluation_option
@click.option("--map", "maps", multiple=True, help=f"A map of the run; repeatable. {HEADS_HELP}  [default: all]")
@click.option("--output", type=click.Path(path_type=Path), help="Folder of the results.  [default: RUN/stats]")
@option_with_default(
    "--outliers", default=StatsConfig.outliers, type=click.IntRange(0), help="How many outliers to list; 0: none."
)
@option_with_default(
    "--sample",
    default=StatsConfig.sample,
    type=click.IntRange(1),
    help="About how many images agreement and consistency are computed from.",
)
@option_with_default("--resamples", default=StatsConfig.resamples, type=click.IntRange(10), help="Bootstrap resamples.")
@option_with_default(
    "--seed", default=StatsConfig.seed, type=click.IntRange(0, 2**32 - 1), help="The seed of random draws."
)
@click.option("--block", help="Only the i-th of n blocks of shards (i/n, from 0), as a part for --merge.")
@click.option("--attributes", type=click.Path(path_type=Path), help="For --by prompt: a CSV or Parquet file with the "
              "column pid and one for each attribute label.")  # fmt: skip
@shards_root_option
@allow_remote_option
@allow_pipes_option
@click.option("--merge", is_flag=True, help="Merge PARTs; the question is taken from them.")
def command(
    run: Path,
    parts: tuple[Path, ...],
    by: tuple[str, ...],
    where: str | None,
    evaluation: Path | None,
    maps: tuple[str, ...],
    output: Path | None,
    outliers: int,
    sample: int,
    resamples: int,
    seed: int,
    block: str | None,
    attributes: Path | None,
    shards_root: str | None,
    allow_remote: bool,
    allow_pipes: bool,
    merge: bool,
) -> None:
    """Say where the model looks in RUN: mean maps, entropy, area, centre and stripes of mass per group of images.

    Intervals are 95 % bootstrap intervals over identities. Junk, distractors and images of unknown people are resampled
    as one identity: they are part of the means of their groups, but not of the numbers of identities, of consistency or
    of the outliers. Agreement and consistency are computed from whole identities drawn at random, about --sample
    images. Outliers are found by the first map; the report shows them, where their shards can be opened, and the
    commands that draw them.

    --by prompt compares the maps of the prompts that were mined with --prompt or --prompt-set: where each looks, its
    share of each image, and their agreement, in RUN/stats/prompts. With --attributes it says whether the attention of a
    prompt of --prompt-set on the part where its attribute shows tells images with the attribute from those without. The
    labels are numbered as in the published .mat files (no is 1, yes is 2), or from 0.

    \b
    Example:
      promptsg stats RUN --by camid --by split --where "pid > 0"
      promptsg stats RUN --by "ap < 0.5 AS hard" --where "ap IS NOT NULL"
      promptsg stats RUN --by prompt --attributes market_attributes.csv
      promptsg stats RUN --by camid --block 0/2; promptsg stats RUN --by camid --block 1/2
      promptsg stats RUN --merge RUN/stats/parts/*.npz
    """
    # Products of small matrices run in our own threads: more threads inside would wait for each other. This must be
    # set before numpy is imported.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

    with LongTask("loading what computes"):
        from jobs.rendering.thumbnails import OutlierThumbnails
        from jobs.statistics.stats import stats

    _check_parts(parts, merge)
    config = StatsConfig(
        run=run,
        by=by,
        where=where,
        evaluation=evaluation,
        maps=maps,
        output=output,
        outliers=outliers,
        sample=sample,
        resamples=resamples,
        seed=seed,
        block=None if block is None else parse_block(block),
        parts=parts,
    )
    drawer = OutlierThumbnails(shards_root=shards_root, allow_remote=allow_remote, allow_pipes=allow_pipes)
    echo(_by_prompt(config, attributes) or describe(stats(config, drawer)))


def _check_parts(parts: tuple[Path, ...], merge: bool) -> None:
    if merge and not parts:
        raise UserError("--merge needs the files that --block wrote, such as RUN/stats/parts/*.npz")
    if parts and not merge:
        raise UserError(f"{parts[0]} is one argument too many; parts are merged with --merge")


def _by_prompt(config: StatsConfig, attributes: Path | None) -> str | None:
    """Compares prompts where that is the question, and says what was compared; None for any other question."""
    if "prompt" in config.by:
        from jobs.runs.run import open_run
        from jobs.statistics.prompts.stats import is_by_prompt, prompt_stats

        if is_by_prompt(config, open_run(config.run)):
            found = prompt_stats(config, attributes)
            prompts = counted(len(found.findings.prompts), "prompt")
            return f"{prompts} over {counted(found.findings.images, 'image')}: {found.files.report}"
    if attributes is not None:
        raise UserError("--attributes is for --by prompt, where that is not a column of the metadata")
    return None


def parse_block(text: str) -> ShardBlock:
    """`i/n` as a block. Raises UserError unless i is from 0 to n - 1."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or not int(found[1]) < int(found[2]):
        raise UserError(f"--block is {text!r}; give i/n with i from 0 to n - 1, such as 0/4")
    return ShardBlock(int(found[1]), int(found[2]))


def describe(result: StatsResult) -> str:
    """What was measured, and where the results are; and why outliers are listed without a picture."""
    images = counted(result.images, "image")
    if result.findings is None or result.files is None:
        return f"{result.part}: {images} of {counted(result.shards, 'shard')}"
    groups = counted(result.findings.part.groups.num_rows, "group")
    lines = [f"{images} in {groups}: {result.files.report}"]
    if result.drawn is not None and result.drawn.problem is not None:
        lines.append(result.drawn.problem)
    return "\n".join(lines)
