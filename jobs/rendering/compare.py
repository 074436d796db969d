"""`promptsg compare`: two images side by side, how similar they are, and where that comes from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from cam.names import METHOD_NAMES
from cam.overlay import COLORMAPS, DEFAULT_ALPHA, DEFAULT_COLORMAP, UPSAMPLE
from jobs.commands.options import model_options
from jobs.errors import UserError
from jobs.mining.model_options import ModelOptions


@click.command(name="compare", short_help="Compare two images: maps side by side, similarity, where it comes from.")
@click.option("--query", type=click.Path(path_type=Path), required=True)
@click.option("--gallery", type=click.Path(path_type=Path), required=True)
@click.option("--output", type=click.Path(path_type=Path), default="comparison", show_default=True, help="A folder.")
@click.option("--method", "methods", multiple=True, default=("mim_attention", "gradcam++", "hirescam"),
              show_default=True, type=click.Choice([*METHOD_NAMES, "all"]), help="Repeatable.")  # fmt: skip
@click.option("--layer", "layers", multiple=True, default=("mim",), show_default=True, help="Repeatable, or all.")
@click.option("--scale", type=click.Choice(["image", "shared"]), default="image", show_default=True)
@click.option("--colormap", type=click.Choice(list(COLORMAPS)), default=DEFAULT_COLORMAP, show_default=True)
@click.option("--alpha", type=click.FloatRange(0, 1), default=DEFAULT_ALPHA, show_default=True)
@click.option("--upsample", type=click.Choice(list(UPSAMPLE)), default="bilinear", show_default=True)
@click.option("--height", type=click.IntRange(32), default=256, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the similarity as JSON.")
@model_options
def command(query: Path, gallery: Path, output: Path, as_json: bool, model: ModelOptions, **options: Any) -> None:
    """Draw the maps of both images side by side with their cosine similarity; gradient maps show, in each image, what
    makes it similar to the other.

    \b
    Example:
      promptsg compare --query a.jpg --gallery b.jpg --checkpoint ViT-B-16_60.pth
    """
    similarity, written = compare(query, gallery, output, model, options)
    if as_json:
        click.echo(json.dumps({"similarity": similarity, "files": [str(path) for path in written]}))
    else:
        click.echo(f"cosine similarity {similarity:.4f}; see {written[0]}")


def compare(
    query: Path, gallery: Path, output: Path, model_options: Any, options: dict[str, Any]
) -> tuple[float, list[Path]]:
    """Writes comparison.png and the raw maps of both; returns the similarity and the files."""
    from cam.classes import map_names
    from cam.extract import check_reachable
    from cam.names import parse_names
    from cam.panels import column, padded, text_block
    from cam.targets import similarity_target
    from jobs.rendering.single import (
        Style,
        draw_panel,
        limits_of,
        mine_images,
        names_for,
        read_images,
        save_arrays,
        save_picture,
    )

    model = model_options.load()
    layers = "all" if "all" in options["layers"] else list(options["layers"])
    names = [name for method in options["methods"] for name in map_names(model, method, layers, "similarity")]
    names = list(dict.fromkeys([*names, *(f"mim_attention:{prompt}" for prompt in model.prompts)]))
    check_reachable(model, parse_names(names), "similarity")
    problems: list[str] = []
    images = list(read_images([query, gallery], problems))
    if problems:
        raise UserError("; ".join(problems))
    features = [_feature(model, pixels) for _, pixels in images]
    pair = [
        next(mine_images(model, [image], names, similarity_target(features[1 - number]), 1))
        for number, image in enumerate(images)
    ]
    style = Style(**{key: options[key] for key in ("colormap", "alpha", "scale", "upsample", "height")})
    limits = limits_of(pair, style.scale)
    similarity = pair[0].score
    panels = [draw_panel(result, style, limits, f"{side}: ") for side, result in zip(_SIDES, pair, strict=True)]
    body = column(panels)
    title = text_block([f"cosine similarity {similarity:.4f}"], body.shape[1], font_size=18)
    written = [output / "comparison.png"]
    save_picture(written[0], padded(column([title, body])))
    stems = names_for([query, gallery])
    for side, result in zip(_SIDES, pair, strict=True):
        written.append(output / f"{side}__{stems[result.path]}.npz")
        save_arrays(written[-1], result)
    return similarity, written


_SIDES = ("query", "gallery")


def _feature(model: Any, pixels: Any) -> Any:
    """(1, D) unit-length feature of one image."""
    from promptsg_core.preprocess import resize_image

    return model.normalised_features(resize_image(pixels, model.config.image_size).unsqueeze(0))
