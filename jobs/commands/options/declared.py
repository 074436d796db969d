"""How options are declared: with their default in the help, alone, or as a group that becomes one typed object."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from jobs.phrases import shown_lines
from jobs.shards.names import PIPE

F = TypeVar("F", bound=Callable[..., Any])
Decorator = Callable[[F], F]

option_with_default = functools.partial(click.option, show_default=True)

run_argument = click.argument("run", type=click.Path(path_type=Path))
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
evaluation_option = click.option(
    "--evaluation", type=click.Path(path_type=Path), help="The folder of `promptsg evaluate` that ap and first_rank in "
    "SQL are from.  [default: RUN/evaluation]",
)  # fmt: skip
shards_root_option = click.option(
    "--shards-root", help="The folder or address where the shards are now, if they have moved."
)
allow_remote_option = click.option(
    "--allow-remote", is_flag=True, help="Read shards at the addresses that run.json has, such as https://..."
)
allow_pipes_option = click.option(
    "--allow-pipes", is_flag=True, help="Run the commands that run.json has in the place of shards."
)
# Of every option that names stored maps.
HEADS_HELP = (
    "mim_attention#3 is head 3 of those that --attention-heads all stored, counted from 0, and mim_attention#all is "
    "every head."
)
# Without torch: the names alone.
PRECISION_HELP = (
    "auto, bf16, fp16, fp32 or tf32. auto is fp16 on a GPU, and on a CPU bf16 where it has instructions, else fp32."
)
precision_option = option_with_default("--precision", default="auto", help=PRECISION_HELP)
device_option = option_with_default("--device", default="auto", help="auto, cpu, cuda or cuda:N.")


def echo(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Prints a result. What data brings along, such as a key or a path, cannot drive the terminal."""
    click.echo(shown_lines(text), err=err, nl=nl)


def next_step(*commands: Sequence[object], told: str = "next:") -> list[str]:
    """A line for each command, which runs as it is printed; `told` stands before the first.

    >>> next_step(("stats", "my run"), ("evaluate", "my run"))
    ["next: promptsg stats 'my run'", "      promptsg evaluate 'my run'"]
    """
    lines = [f"promptsg {shlex.join(map(str, words))}" for words in commands]
    return [f"{told if not number else ' ' * len(told)} {line}" for number, line in enumerate(lines)]


def opening(shards: Sequence[str]) -> list[str]:
    """The options with which a command that draws opens again the shards that were typed."""
    pipes = [pattern for pattern in shards if pattern.startswith(PIPE)]
    remote = [pattern for pattern in shards if pattern not in pipes and "://" in pattern]
    return [*(["--allow-pipes"] if pipes else []), *(["--allow-remote"] if remote else [])]


def option_group(name: str, build: Callable[..., object], *options: Callable[[F], F]) -> Callable[[F], F]:
    """A decorator that adds options to a command, which receives `build` of their values as the keyword `name`."""

    def decorate(command: F) -> F:
        @functools.wraps(command)
        def wrapper(*args: object, **values: object) -> object:
            values[name] = build(**{field: values.pop(field) for field in fields})
            return command(*args, **values)

        before = len(getattr(wrapper, "__click_params__", ()))
        decorated = cast(F, wrapper)
        for option in reversed(options):
            decorated = option(decorated)
        fields = [parameter.name for parameter in getattr(decorated, "__click_params__", ())[before:]]
        return decorated

    return decorate
