"""Commands that run other commands: each step is one that a user could type, and is shown as it runs (no torch)."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import click

from jobs.errors import EXIT_OK


def run_step(*words: object) -> int:
    """Shows and runs `promptsg WORDS...` in this process. Returns its exit status."""
    from jobs.cli import main

    arguments = [str(word) for word in words]
    click.secho(f"$ promptsg {shlex.join(arguments)}", fg="cyan")
    try:
        main.main(arguments, standalone_mode=False)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else EXIT_OK
    return EXIT_OK


def run_steps(*steps: tuple[object, ...]) -> int:
    """Runs the steps up to the first whose exit status is not 0. Returns that status, or 0."""
    for step in steps:
        if status := run_step(*step):
            return status
    return EXIT_OK


def repeated(option: str, values: Sequence[object]) -> list[object]:
    """The words of an option that is given once for each value."""
    return [word for value in values for word in (option, value)]
