"""`promptsg compare`: two images side by side, how similar they are, and where that comes from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from jobs.commands.options import (
    PromptsgCommand,
    echo,
    json_option,
    looks_options,
    model_options,
    option_with_default,
    picture_height_option,
)
from jobs.mining.model_options import ModelOptions
from jobs.rendering.compare import CompareConfig, Comparison, compare

if TYPE_CHECKING:
    from jobs.rendering.looks import Looks


@click.command(name="compare", cls=PromptsgCommand)
@click.option("--query", type=click.Path(path_type=Path), required=True, help="The first image.")
@click.option("--gallery", type=click.Path(path_type=Path), required=True, help="The second image.")
@option_with_default(
    "--output",
    type=click.Path(path_type=Path),
    default=CompareConfig.output,
    help="The folder for the picture and the arrays.",
)
@option_with_default(
    "--method",
    "methods",
    multiple=True,
    default=CompareConfig.methods,
    help="A method, or a map of the model itself, or all; repeatable.",
)
@option_with_default(
    "--layer",
    "layers",
    multiple=True,
    default=CompareConfig.layers,
    help="A layer for the gradient methods, or all; repeatable.",
)
@looks_options(scales=("image", "shared"))
@picture_height_option
@json_option
@model_options
def command(
    query: Path,
    gallery: Path,
    output: Path,
    methods: tuple[str, ...],
    layers: tuple[str, ...],
    looks: Looks,
    height: int,
    as_json: bool,
    model: ModelOptions,
) -> None:
    """Draw the maps of both images side by side with their cosine similarity. Gradient maps show, in each image, what
    makes it similar to the other.

    \b
    Example:
      promptsg compare --query a.jpg --gallery b.jpg --checkpoint ViT-B-16_60.pth
    """
    comparison = compare(
        CompareConfig(
            query=query,
            gallery=gallery,
            model=model,
            output=output,
            methods=methods,
            layers=layers,
            looks=looks,
            height=height,
        )
    )
    echo(as_json_text(comparison) if as_json else describe(comparison))


def describe(comparison: Comparison) -> str:
    """The similarity, and where the picture is."""
    return f"cosine similarity {comparison.similarity:.4f}; see {comparison.picture}"


def as_json_text(comparison: Comparison) -> str:
    """The similarity and all files, as JSON."""
    return json.dumps({"similarity": comparison.similarity, "files": [str(path) for path in comparison.files]})
