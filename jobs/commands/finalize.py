"""`promptsg finalize`: all rows of a finished run in one sorted metadata.parquet."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from jobs.commands.options import PromptsgCommand, echo, run_argument
from jobs.errors import EXIT_SOME_SHARDS_FAILED
from jobs.phrases import counted
from jobs.runs.finalize import UnfinishedRunError, finalize

_SHOWN = 20


@click.command(name="finalize", cls=PromptsgCommand)
@run_argument
def command(run: Path) -> None:
    """Check that every shard of RUN is done, then write RUN/metadata.parquet: all rows, sorted by pid, camid and key.

    \b
    Example:
      promptsg finalize RUN

    Exit status 3, with the list, if a shard is missing.
    """
    try:
        joined = finalize(run)
    except UnfinishedRunError as error:
        echo(describe_unfinished(run, error), err=True)
        sys.exit(EXIT_SOME_SHARDS_FAILED)
    echo(f"{counted(joined.rows, 'row')} of {counted(joined.shards, 'shard')} in {joined.path}")


def describe_unfinished(run: Path, error: UnfinishedRunError) -> str:
    """The first shards that are not done, and how to list all of them."""
    lines = [f"{run}: {len(error.missing)} of {counted(error.shards, 'shard is', 'shards are')} not done:"]
    lines += [f"  {name}" for name in error.missing[:_SHOWN]]
    if len(error.missing) > _SHOWN:
        more = len(error.missing) - _SHOWN
        lines.append(f"  ... and {more} more; `promptsg status {run} --json` lists them")
    return "\n".join(lines)
