"""Commands made of commands: each step is one that a user could type, and is shown as it runs (no torch)."""

from __future__ import annotations

import shlex

import click

from jobs.errors import EXIT_OK


def run_step(*words: object) -> int:
    """Runs `promptsg WORDS...` in this process, saying so first; returns its exit status."""
    from jobs.cli import main

    arguments = [str(word) for word in words]
    click.secho(f"$ promptsg {shlex.join(arguments)}", fg="cyan")
    try:
        main.main(arguments, standalone_mode=False)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else EXIT_OK
    return EXIT_OK


def run_steps(*steps: tuple[object, ...]) -> int:
    """Runs one step after the other and returns the first exit status that is not 0, or 0."""
    for step in steps:
        if status := run_step(*step):
            return status
    return EXIT_OK
