"""Options that several commands share, each declared once.

A decorator here adds a group of options, and hands the command one typed object in place of them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from jobs.mining.model_options import ModelOptions, parse_image_size
from jobs.phrases import shown_lines
from jobs.reading import reading
from jobs.runs.query import RowSelection
from jobs.runs.query_list import read_csv_keys, read_keys
from jobs.text_files import read_text

F = TypeVar("F", bound=Callable[..., Any])
Decorator = Callable[[F], F]

option_with_default = functools.partial(click.option, show_default=True)

run_argument = click.argument("run", type=click.Path(path_type=Path))
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
shards_root_option = click.option(
    "--shards-root", help="The folder or address where the shards are now, if they have moved."
)
allow_remote_option = click.option(
    "--allow-remote", is_flag=True, help="Read shards at the addresses that run.json has, such as https://..."
)
allow_pipes_option = click.option(
    "--allow-pipes", is_flag=True, help="Run the commands that run.json has in the place of shards."
)
device_option = option_with_default("--device", default="auto", help="auto, cpu, cuda or cuda:N.")


def echo(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Prints a result. What data brings along, such as a key or a path, cannot drive the terminal."""
    click.echo(shown_lines(text), err=err, nl=nl)


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


_KEYS = click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path)


def selection_options(*, limit: int | None = None, keys: bool = True) -> Callable[[F], F]:
    """Which rows of a run: `selection`, a RowSelection. `limit` is the default of --limit."""
    most = "Use at most this many images, after sorting."
    options = [
        click.option("--where", help="SQL over the metadata's columns, such as 'pid = 12 AND camid = 3'."),
        click.option("--order-by", help="SQL, such as 'mim_attention_entropy DESC'."),
        click.option("--limit", type=click.IntRange(1), default=limit, show_default=limit is not None, help=most),
        click.option("--sample", type=click.IntRange(1), help="Draw this many of the images at random."),
        option_with_default("--seed", type=click.IntRange(0), default=0, help="The seed of random draws."),
    ]
    if keys:
        told = "A file with a key on each line, or a .csv with a column key; - is standard input."
        options.append(click.option("--keys", type=_KEYS, help=told))
    return option_group("selection", _selection, *options)


def _selection(
    where: str | None,
    order_by: str | None,
    limit: int | None,
    sample: int | None,
    seed: int,
    keys: Path | None = None,
) -> RowSelection:
    listed = None if keys is None else _listed_keys(keys)
    return RowSelection(where=where, order_by=order_by, limit=limit, sample=sample, seed=seed, keys=listed)


def _listed_keys(file: Path) -> tuple[str, ...]:
    if file.name.endswith(".csv"):
        return tuple(read_csv_keys(read_text(file).splitlines(keepends=True), str(file)))
    if file.name != "-":
        return tuple(read_keys(read_text(file).splitlines()))
    with reading(file, "the keys of standard input", "give UTF-8 text"):
        return tuple(read_keys(click.open_file("-", encoding="utf-8")))


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
        option_with_default("--scale", type=click.Choice(offered), default=Looks.scale,
                     help=f"The range of the colour scale: {meanings}."),
        option_with_default("--colormap", default=Looks.colormap,
                     help="The colours, by OpenCV's name; an unknown name lists all."),
        option_with_default("--alpha", type=click.FloatRange(0, 1), default=Looks.alpha,
                     help="The map's share of an overlay."),
    ]  # fmt: skip
    if upsample:
        upsampling = click.Choice(list(UPSAMPLE))
        told = "How a map is enlarged to its image."
        options.append(option_with_default("--upsample", type=upsampling, default=Looks.upsample, help=told))
    return option_group("looks", Looks, *options)


def stored_maps_option(*, default: str) -> Callable[[F], F]:
    """Which of a run's maps: `maps`, their names, empty for the default that the help states."""
    return click.option("--map", "maps", multiple=True, help=f"A stored map; repeatable.  [default: {default}]")


picture_height_option = option_with_default(
    "--height", type=click.IntRange(32), default=256, help="The height of each picture, in pixels."
)
workers_option = click.option(
    "--workers", type=click.IntRange(1), help="The number of processes.  [default: one per core]"
)


weights_key_option = click.option(
    "--weights-key", help="Which state dict of the checkpoint to take where it has several, such as state_dict_ema."
)
image_size_option = click.option(
    "--image-size", metavar="HxW", help="Height and width in pixels, where the checkpoint fits several."
)

target_option = click.option(
    "--target", help="What is differentiated: predicted (default), label, feature, similarity or text."
)
prompt_option = click.option(
    "--prompt", "prompts", multiple=True, metavar="[NAME=]TEXT", help="Ask with your own text: one more map, such as "
    "mim_attention:NAME. For PromptSG an X in the text is the person. Repeatable.",
)  # fmt: skip

# For checkpoints with several heads, and with camera embeddings: the same for `mine` and for single images.
_HEAD = (
    click.option("--head", help="The head whose score is explained, where a checkpoint has several: `promptsg info` "
                 "names them, the default first."),
    click.option("--sie-coe", type=float, help="The coefficient of the camera embedding (MODEL.SIE_COE)."),
)  # fmt: skip
_CAMERAS = (
    click.option("--trained-on", metavar="NAME", help="The data set that the checkpoint was trained on, such as "
                 "market1501: its cameras are the rows of the camera embedding."),
    click.option("--camera-map", type=click.Path(path_type=Path), help="A JSON file of cameras, from 0, to rows of the "
                 "camera embedding."),
    click.option("--camera", metavar="N|mean|none", help="The row of the camera embedding for all images, the mean of "
                 "all rows, or none."),
)  # fmt: skip


def camera_options(command: F) -> F:
    """What a model with camera embeddings must be told."""
    for option in reversed(_CAMERAS):
        command = option(command)
    return command


def head_and_camera_options(command: F) -> F:
    """What a model with several heads or with camera embeddings must be told."""
    command = camera_options(command)
    for option in reversed(_HEAD):
        command = option(command)
    return command


def _model(image_size: str | None, **values: Any) -> ModelOptions:  # noqa: ANN401 - the fields of ModelOptions
    return ModelOptions(image_size=None if image_size is None else parse_image_size(image_size), **values)


def stored_pictures_options(
    *, maps: str, limit: int | None = None, keys: bool = True, upsample: bool = True
) -> Callable[[F], F]:
    """What `render` and `gallery` share: `run`, `selection`, `maps`, `looks`, `workers` and the fields of ShardAccess.

    `maps` is the default of --map as the help states it, `limit` that of --limit. Without `keys` or `upsample` the
    command has no such option.
    """
    options = [
        run_argument,
        selection_options(limit=limit, keys=keys),
        stored_maps_option(default=maps),
        looks_options(upsample=upsample),
        shards_root_option,
        allow_remote_option,
        allow_pipes_option,
        workers_option,
    ]

    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


# Which model a command for single images runs: `model`, a ModelOptions.
model_options = option_group(
    "model",
    _model,
    click.option("--checkpoint", type=click.Path(path_type=Path), help="The checkpoint (.pth or .safetensors)."),
    weights_key_option,
    device_option,
    option_with_default("--precision", default="auto", help="auto, bf16, fp16 or fp32."),
    click.option("--model-settings", type=click.Path(path_type=Path), help="The training code's YAML."),
    click.option("--model-set", type=(str, str), multiple=True, metavar="KEY VALUE", help="One of its settings."),
    image_size_option,
    click.option("--prompt-mode", help="composed (default) or simplified."),
    click.option("--neck-feat", help="before (default) or after."),
    *_HEAD,
    *_CAMERAS,
    click.option("--prompt", "prompts", multiple=True, metavar="[NAME=]TEXT", help="Ask with your own text."),
)
