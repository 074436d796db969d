"""`promptsg visualize`: maps of single images as pictures and arrays."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from cam.names import LAYERS, METHOD_NAMES, column_of
from cam.overlay import COLORMAPS, DEFAULT_ALPHA, DEFAULT_COLORMAP, SCALES, UPSAMPLE
from jobs.commands.options import model_options
from jobs.errors import EXIT_ERROR, EXIT_OK
from jobs.mining.model_options import ModelOptions

logger = logging.getLogger(__name__)


@click.command(name="visualize", short_help="Draw the maps of single images.")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option("--output", type=click.Path(path_type=Path), default="attention", show_default=True, help="A folder.")
@click.option("--method", "methods", multiple=True, default=("all",), show_default=True,
              type=click.Choice([*METHOD_NAMES, "all"]), help="Repeatable.")  # fmt: skip
@click.option("--layer", "layers", multiple=True, default=("mim",), show_default=True,
              type=click.Choice([*LAYERS, "all"]), help="For the gradient methods; repeatable.")  # fmt: skip
@click.option("--target", type=click.Choice(["predicted", "feature"]), default="predicted", show_default=True)
@click.option("--target-class", type=click.IntRange(0), help="Differentiate the logit of this class instead.")
@click.option("--num", type=click.IntRange(1), help="Only the first NUM images.")
@click.option("--scale", type=click.Choice(SCALES), default="image", show_default=True, help="image: each picture has "
              "its own colour scale; shared or percentile: one for all.")  # fmt: skip
@click.option("--colormap", type=click.Choice(list(COLORMAPS)), default=DEFAULT_COLORMAP, show_default=True)
@click.option("--alpha", type=click.FloatRange(0, 1), default=DEFAULT_ALPHA, show_default=True)
@click.option("--upsample", type=click.Choice(list(UPSAMPLE)), default="bilinear", show_default=True)
@click.option("--height", type=click.IntRange(32), default=256, show_default=True, help="Of pictures in a panel.")
@click.option("--interpolation", type=click.Choice(["bilinear", "bicubic"]), default="bilinear", show_default=True,
              help="How the input is resized; older scripts used bicubic.")  # fmt: skip
@click.option("--batch-size", type=click.IntRange(1), default=64, show_default=True)
@model_options
def command(images: tuple[str, ...], model: ModelOptions, **options: Any) -> None:
    """Draw original | heatmap | overlay for each IMAGE (files, folders, globs) and map; save the raw maps as .npz.

    \b
    Example:
      promptsg visualize query/0002_c1s1_000451_03.jpg --checkpoint ViT-B-16_60.pth
      promptsg visualize query/ --num 50 --method gradcam++ --method mim_attention --layer all \\
          --checkpoint ViT-B-16_60.pth --output attention

    Each image gets <name>__panel.png, <name>__<map>__heatmap.png, <name>__<map>__overlay.png and <name>.npz. An
    image that cannot be read is named at the end, and the exit status is 1; the others are done.
    """
    sys.exit(visualize(images, model, options))


def visualize(arguments: tuple[str, ...], model_options: Any, options: dict[str, Any]) -> int:
    """Draws everything and returns the exit status."""
    from jobs.rendering.single import (
        Style,
        draw_map,
        draw_panel,
        find_images,
        limits_of,
        mine_images,
        names_for,
        read_images,
        save_arrays,
        save_picture,
    )

    paths = find_images(arguments)[: options["num"]]
    model = model_options.load()
    names = _maps(model, options)
    target = options["target"] if options["target_class"] is None else options["target_class"]
    style = Style(**{key: options[key] for key in ("colormap", "alpha", "scale", "upsample", "height")})
    problems: list[str] = []
    images = read_images(paths, problems)
    results = mine_images(model, images, names, target, options["batch_size"], options["interpolation"])
    limits: dict[str, Any] = dict.fromkeys(names)
    if style.scale != "image":  # only a scale of all pictures needs all maps before the first picture
        kept = list(results)
        limits = limits_of(kept, style.scale) or limits
        results = iter(kept)
    stems, output = names_for(paths), options["output"]
    for result in tqdm(results, total=len(paths), unit=" images", disable=None):
        stem = stems[result.path]
        save_picture(output / f"{stem}__panel.png", draw_panel(result, style, limits))
        for name in result.maps:
            heat, over = draw_map(result, name, style, limits[name])
            save_picture(output / f"{stem}__{column_of(name)}__heatmap.png", heat)
            save_picture(output / f"{stem}__{column_of(name)}__overlay.png", over)
        save_arrays(output / f"{stem}.npz", result)
    click.echo(f"{len(paths) - len(problems)} images, {len(names)} maps each, in {output}")
    for problem in problems:
        click.echo(f"not drawn: {problem}", err=True)
    return EXIT_ERROR if problems else EXIT_OK


def _maps(model: Any, options: dict[str, Any]) -> list[str]:
    """The maps that the methods, layers and prompts stand for, checked before any image is read."""
    from cam.classes import map_names
    from cam.extract import check_reachable
    from cam.names import parse_names

    layers = "all" if "all" in options["layers"] else list(options["layers"])
    target = options["target"] if options["target_class"] is None else "label"
    names = [name for method in options["methods"] for name in map_names(model, method, layers, target)]
    names = list(dict.fromkeys([*names, *(f"mim_attention:{prompt}" for prompt in model.prompts)]))
    check_reachable(model, parse_names(names), target)
    return names
