"""`promptsg verify`: reads every byte of a run again and says what is not as it was written."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import click

from jobs.commands.options import json_option, run_argument
from jobs.phrases import counted
from jobs.runs.verify import Verdict, verify


@click.command(name="verify")
@run_argument
@json_option
def command(run: Path, as_json: bool) -> None:
    """Read every file of RUN again: hashes, checksums, counts, keys, values.

    \b
    Example:
      promptsg verify RUN

    Exit status: 0 if all shards are intact, 1 if some are damaged (each damage is named), 3 if none is damaged but some
    are not done.
    """
    verdict = verify(run, show_progress=sys.stderr.isatty())
    if as_json:
        click.echo(json.dumps(asdict(verdict), indent=1, ensure_ascii=False))
    else:
        _print(verdict)
    sys.exit(verdict.exit_status)


def _print(verdict: Verdict) -> None:
    click.echo(f"{verdict.root}: {verdict.intact} of {verdict.shards} shards are intact, {verdict.images} rows")
    for problem in verdict.problems:
        click.echo(f"damaged: {problem}", err=True)
    if verdict.missing:
        missing = counted(len(verdict.missing), "shard is", "shards are")
        click.echo(f"{missing} not done yet, such as {verdict.missing[0]}")
    if verdict.problems:
        click.echo("to redo a damaged shard, delete its file in metadata/ and run the same `promptsg mine` again")
