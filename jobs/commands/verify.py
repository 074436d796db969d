"""`promptsg verify`: reads every byte of a run again and says what is not as it was written."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import click

from jobs.commands.options import PromptsgCommand, echo, json_option, run_argument
from jobs.phrases import counted, json_text
from jobs.runs.verify import Verdict, verify


@click.command(name="verify", cls=PromptsgCommand)
@run_argument
@json_option
@click.option("--tars", "whole_tars", is_flag=True, help="Read the shards' tars to their end too, instead of parts of "
              "them.")  # fmt: skip
def command(run: Path, as_json: bool, whole_tars: bool) -> None:
    """Read every file of RUN again: hashes, checksums, counts, keys, values. Compare the tars with what was mined.

    \b
    Example:
      promptsg verify RUN

    Exit status: 0 if all shards are intact, 1 if some are damaged or their tars changed (each is named), 3 if none is
    but some are not done.
    """
    verdict = verify(run, whole_tars=whole_tars)
    if as_json:
        echo(json_text(asdict(verdict)))
    else:
        _print(verdict)
    sys.exit(verdict.exit_status)


def _print(verdict: Verdict) -> None:
    echo(
        f"{verdict.root}: {verdict.intact} of {counted(verdict.shards, 'shard is', 'shards are')} intact, "
        f"{counted(verdict.images, 'row')}"
    )
    for problem in verdict.problems:
        echo(f"damaged: {problem}", err=True)
    for change in verdict.changed:
        echo(f"changed after being mined: {change}", err=True)
    if verdict.not_compared:
        tars = counted(verdict.not_compared, "tar was", "tars were")
        echo(f"{tars} not compared: not local, elsewhere now, or mined by an earlier version")
    if verdict.missing:
        missing = counted(len(verdict.missing), "shard is", "shards are")
        echo(f"{missing} not done yet, such as {verdict.missing[0]}")
    if verdict.problems:
        echo("to redo a damaged shard, delete its file in metadata/ and run the same `promptsg mine` again")
