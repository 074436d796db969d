"""Options that several commands share, each declared once.

A decorator here adds a group of options, and hands the command one typed object in place of them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from jobs.mining.model_options import ModelOptions
from jobs.runs.query import RowSelection, read_keys

F = TypeVar("F", bound=Callable[..., Any])
Decorator = Callable[[F], F]

run_argument = click.argument("run", type=click.Path(path_type=Path))
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
shards_root_option = click.option(
    "--shards-root", help="The folder or address where the shards are now, where they have moved."
)
device_option = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")


def option_group(name: str, build: Callable[..., object], *options: Callable[[F], F]) -> Callable[[F], F]:
    """A decorator that adds options to a command, which receives `build` of their values as the keyword `name`."""

    def decorate(command: F) -> F:
        @functools.wraps(command)
        def wrapper(*args: object, **values: object) -> object:
            values[name] = build(**{field: values.pop(field) for field in fields})
            return command(*args, **values)

        before = len(getattr(wrapper, "__click_params__", ()))
        decorated: Any = wrapper
        for option in reversed(options):
            decorated = option(decorated)
        fields = [parameter.name for parameter in decorated.__click_params__[before:]]
        return decorated

    return decorate


def selection_options(*, limit: int | None = None, keys: bool = True) -> Callable[[F], F]:
    """Which rows of a run: `selection`, a RowSelection. `limit` is the default of --limit."""
    most = "Use at most this many images, after sorting."
    options = [
        click.option("--where", help="SQL over the metadata's columns, such as 'pid = 12 AND camid = 3'."),
        click.option("--order-by", help="SQL, such as 'mim_attention_entropy DESC'."),
        click.option("--limit", type=click.IntRange(1), default=limit, show_default=limit is not None, help=most),
        click.option("--sample", type=click.IntRange(1), help="Draw this many of the images at random."),
        click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="The seed of random draws."),
    ]
    if keys:
        told = "A file with a key on each line; - is standard input."
        options.append(click.option("--keys", type=click.File(encoding="utf-8"), help=told))
    return option_group("selection", _selection, *options)


def _selection(
    where: str | None,
    order_by: str | None,
    limit: int | None,
    sample: int | None,
    seed: int,
    keys: Any = None,
) -> RowSelection:
    listed = None if keys is None else tuple(read_keys(keys))
    return RowSelection(where=where, order_by=order_by, limit=limit, sample=sample, seed=seed, keys=listed)


# Which model a command for single images runs: `model`, a ModelOptions.
model_options = option_group(
    "model",
    ModelOptions,
    click.option("--checkpoint", type=click.Path(path_type=Path), help="The PromptSG checkpoint."),
    device_option,
    click.option("--precision", default="auto", show_default=True, help="auto, bf16, fp16 or fp32."),
    click.option("--model-settings", type=click.Path(path_type=Path), help="The training code's YAML."),
    click.option("--model-set", type=(str, str), multiple=True, metavar="KEY VALUE", help="One of its settings."),
    click.option("--prompt-mode", help="composed (default) or simplified."),
    click.option("--neck-feat", help="before (default) or after."),
    click.option("--prompt", "prompts", multiple=True, metavar="[NAME=]TEXT", help="Ask the MIM with your own text."),
)
