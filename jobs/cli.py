"""The `promptsg` command, and running subcommands one after the other from Python.

The module of a subcommand is imported only when that subcommand runs.
"""

from __future__ import annotations

import importlib
import os
import shlex
import sys
from collections.abc import Sequence

import click

from jobs.errors import EXIT_ERROR, EXIT_OK, UserError
from jobs.logs import setup_logging
from jobs.memory import is_out_of_memory, keep_freed_memory
from jobs.phrases import shown
from jobs.system_errors import reason_of

# The name of each command, and its line in `promptsg --help`. jobs.commands.<name> has the click command, `command`.
COMMANDS: dict[str, str] = {
    "demo": "See all of it in a minute: drawn pedestrians and a tiny trained model.",
    "shard": "Pack a dataset folder into tar shards.",
    "mine": "Run the model over shards; write maps (HDF5) and metadata (Parquet).",
    "visualize": "Draw the maps of single images.",
    "compare": "Compare two images: maps side by side, similarity, where it comes from.",
    "status": "Say what of a run is done, failed or missing.",
    "verify": "Read a whole run again and check every byte.",
    "finalize": "Join the metadata of a finished run into one sorted file.",
    "render": "Draw any subset of a run from its stored maps.",
    "gallery": "Write a page to look through images and maps in a browser.",
    "stats": "Where the model looks, by group: mean maps, stripes, entropy, with intervals.",
    "diff": "What changed between two runs, with intervals, and whether it retrieves better.",
    "localise": "Are the maps on the persons? Attention against masks, with intervals.",
    "test": "Mine, evaluate and draw the first images, in one call.",
    "faithfulness": "Deletion and insertion curves, and the randomisation check.",
    "evaluate": "Retrieval from the stored features: mAP, CMC, and what AP correlates with.",
    "train": "Train a PromptSG, from CLIP or from scratch.",
    "submit": "Submit a run as a SLURM job array.",
    "bench": "How fast this machine mines these shards, and what a dataset will take.",
    "info": "Describe a checkpoint: family, configuration, parameters, grid, classes.",
}

_TORCHES = ("torch", "torchvision")


class LazyGroup(click.Group):
    """A group that imports a command when it is used, so that `--help` does not wait for torch."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        from jobs.progress import LongTask  # not needed for `promptsg --help`

        with LongTask(f"loading promptsg {cmd_name}"):
            command: click.Command = importlib.import_module(f"jobs.commands.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> object:
        """Runs the subcommand. An error that a user can cause becomes one line and an exit status, not a traceback."""
        setup_logging()  # the import of the subcommand may already have something to say
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # The reader of our output has gone (`promptsg status RUN | head`): nothing is wrong.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(EXIT_ERROR)
        except Exception as error:
            if os.environ.get("PROMPTSG_DEBUG") or not (_needs_no_traceback(error) or _about_torch(error)):
                raise
            click.echo(f"promptsg: {shown(_message(error))}", err=True)
            sys.exit(EXIT_ERROR)


def _needs_no_traceback(error: Exception) -> bool:
    """Whether the message is enough: our own errors, those of files, and where memory does not suffice."""
    from cam.errors import CamError
    from promptsg_core.errors import ModelError

    return is_out_of_memory(error) or isinstance(error, (UserError, ModelError, CamError, OSError))


def _about_torch(error: Exception) -> str | None:
    """What to install where torch is missing, or torchvision is not of its build; None for any other error."""
    together = "from one index and by one command: pip install torch torchvision"
    if isinstance(error, ModuleNotFoundError) and (name := (error.name or "").partition(".")[0]) in _TORCHES:
        return f"this command runs a model, and {name} is not installed: install torch and torchvision {together}"
    if isinstance(error, RuntimeError) and "torchvision::" in str(error):
        return f"torch and torchvision are of different builds ({error}): install both {together}"
    return None


def _message(error: Exception) -> str:
    """The error's message on one line; spaces stay as they are, since the message may quote a path."""
    if (missing := _about_torch(error)) is not None:
        return missing
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {reason_of(error)}"
    if is_out_of_memory(error):
        reason = str(error).split("\n")[0].split(". ")[0] or "memory is used up"
        return f"not enough memory ({reason}): take a smaller --batch-size or fewer --workers, or ask for more memory"
    return " ".join(str(error).split("\n"))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="promptsg-attention", prog_name="promptsg")
def main() -> None:
    """Mine where a person re-identification model looks, over whole datasets.

    \b
    A first session:
      promptsg shard Market-1501-v15.09.15 shards --dataset market1501
      promptsg mine --shards 'shards/*.tar' --checkpoint ViT-B-16_60.pth --output RUN
      promptsg status RUN

    An error is one line; set PROMPTSG_DEBUG=1 for the traceback behind it.
    """
    keep_freed_memory()


def run_step(*words: object) -> int:
    """Shows and runs `promptsg WORDS...` in this process. Returns its exit status."""
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


if __name__ == "__main__":
    main()
