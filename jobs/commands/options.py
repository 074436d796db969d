"""Options that several commands share, each declared once.

A decorator here adds a group of options, and hands the command one typed object in place of them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from jobs.mining.model_options import ModelOptions
from jobs.runs.query import RowSelection
from jobs.runs.query_list import read_keys

F = TypeVar("F", bound=Callable[..., Any])
Decorator = Callable[[F], F]

run_argument = click.argument("run", type=click.Path(path_type=Path))
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
shards_root_option = click.option(
    "--shards-root", help="The folder or address where the shards are now, if they have moved."
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
        decorated = cast(F, wrapper)
        for option in reversed(options):
            decorated = option(decorated)
        fields = [parameter.name for parameter in getattr(decorated, "__click_params__", ())[before:]]
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
    keys: Iterable[str] | None = None,
) -> RowSelection:
    listed = None if keys is None else tuple(read_keys(keys))
    return RowSelection(where=where, order_by=order_by, limit=limit, sample=sample, seed=seed, keys=listed)


# The meaning of each --scale.
_SCALES = {
    "image": "the extremes of each map",
    "shared": "those of all selected maps",
    "percentile": "the 1st and 99th percentiles of all selected maps",
}


def looks_options(*, scales: Sequence[str] | None = None, upsample: bool = True) -> Callable[[F], F]:
    """How maps become colours: `looks`, a Looks. `scales` are those that the command offers, by default all.

    OpenCV is imported only here, so that commands that do not draw do not wait for it.
    """
    from cam.overlay import SCALES, UPSAMPLE
    from jobs.rendering.looks import Looks

    offered = list(scales or SCALES)
    meanings = "; ".join(f"{scale}, {_SCALES[scale]}" for scale in offered)
    options = [
        click.option("--scale", type=click.Choice(offered), default=Looks.scale, show_default=True,
                     help=f"The range of the colour scale: {meanings}."),
        click.option("--colormap", default=Looks.colormap, show_default=True,
                     help="The colours, by OpenCV's name; an unknown name lists all."),
        click.option("--alpha", type=click.FloatRange(0, 1), default=Looks.alpha, show_default=True,
                     help="The map's share of an overlay."),
    ]  # fmt: skip
    if upsample:
        options.append(click.option("--upsample", type=click.Choice(list(UPSAMPLE)), default=Looks.upsample,
                                    show_default=True, help="How a map is enlarged to its image."))  # fmt: skip
    return option_group("looks", Looks, *options)


def stored_maps_option(*, default: str) -> Callable[[F], F]:
    """Which of a run's maps: `maps`, their names, empty for the default that the help states."""
    return click.option("--map", "maps", multiple=True, help=f"A stored map; repeatable.  [default: {default}]")


picture_height_option = click.option(
    "--height", type=click.IntRange(32), default=256, show_default=True, help="The height of each picture, in pixels."
)
workers_option = click.option(
    "--workers", type=click.IntRange(1), help="The number of processes.  [default: one per core]"
)


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
