"""Options of pictures: which stored maps, how they look, how large they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import click

from jobs.commands.options.declared import (
    HEADS_HELP,
    F,
    allow_pipes_option,
    allow_remote_option,
    evaluation_option,
    option_group,
    option_with_default,
    run_argument,
    shards_root_option,
)
from jobs.commands.options.selection import selection_options

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
        click.option("--alpha", type=click.FloatRange(0, 1), help="The map's share of an overlay, at its highest value "
                     "where it fades.  [default: 0.8; with --even 0.5]"),
        option_with_default("--fade/--even", default=Looks.fade, help="Whether an overlay is as opaque as the map is "
                     "high, or the same everywhere."),
    ]  # fmt: skip
    if upsample:
        upsampling = click.Choice(list(UPSAMPLE))
        told = "How a map is enlarged to its image."
        options.append(option_with_default("--upsample", type=upsampling, default=Looks.upsample, help=told))
    return option_group("looks", Looks, *options)


def stored_maps_option(*, default: str) -> Callable[[F], F]:
    """Which of a run's maps: `maps`, their names, empty for the default that the help states."""
    told = f"A stored map; repeatable. {HEADS_HELP}  [default: {default}]"
    return click.option("--map", "maps", multiple=True, help=told)


picture_height_option = option_with_default(
    "--height", type=click.IntRange(32), default=256, help="The height of each picture, in pixels."
)
workers_option = click.option(
    "--workers", type=click.IntRange(1), help="The number of processes.  [default: one per core]"
)


def stored_pictures_options(
    *, maps: str, limit: int | None = None, keys: bool = True, upsample: bool = True
) -> Callable[[F], F]:
    """What `render` and `gallery` share: a run, a selection, maps, looks, workers and the fields of ShardAccess.

    `maps` is the default of --map as the help states it, `limit` that of --limit. Without `keys` or `upsample` the
    command has no such option.
    """
    options = [
        run_argument,
        selection_options(limit=limit, keys=keys),
        evaluation_option,
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
