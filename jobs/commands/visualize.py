"""`promptsg visualize`: maps of single images as pictures and arrays."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from jobs.commands.options import (
    PromptsgCommand,
    echo,
    looks_options,
    model_options,
    option_with_default,
    picture_height_option,
)
from jobs.mining.model_options import ModelOptions
from jobs.phrases import counted
from jobs.rendering.visualize import VisualizeConfig, VisualizeReport, visualize

if TYPE_CHECKING:
    from jobs.rendering.looks import Looks


@click.command(name="visualize", cls=PromptsgCommand)
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@option_with_default(
    "--output",
    type=click.Path(path_type=Path),
    default=VisualizeConfig.output,
    help="The folder for pictures and arrays.",
)
@option_with_default(
    "--method",
    "methods",
    multiple=True,
    default=VisualizeConfig.methods,
    help="gradcam, gradcam++, hirescam, rollout, chefer, legrad, a map of the model such as mim_attention, or all; "
    "repeatable.",
)
@option_with_default(
    "--layer",
    "layers",
    multiple=True,
    default=VisualizeConfig.layers,
    help="A layer for the gradient methods, or all; repeatable.",
)
@option_with_default(
    "--target",
    type=click.Choice(["predicted", "feature", "text"]),
    default=VisualizeConfig.target,
    help="What is differentiated: the logit of the predicted class, the sum of the feature, or the likeness to a text.",
)
@click.option("--target-class", type=click.IntRange(0), help="Differentiate the logit of this class instead.")
@click.option("--num", type=click.IntRange(1), help="Draw only the first NUM images.")
@looks_options()
@picture_height_option
@option_with_default(
    "--interpolation",
    type=click.Choice(["bilinear", "bicubic"]),
    default=VisualizeConfig.interpolation,
    help="How images are resized for the model; older scripts used bicubic.",
)
@option_with_default(
    "--batch-size",
    type=click.IntRange(1),
    default=VisualizeConfig.batch_size,
    help="The number of images in one pass through the model.",
)
@model_options
def command(
    images: tuple[str, ...],
    output: Path,
    methods: tuple[str, ...],
    layers: tuple[str, ...],
    target: str,
    target_class: int | None,
    num: int | None,
    looks: Looks,
    height: int,
    interpolation: str,
    batch_size: int,
    model: ModelOptions,
) -> None:
    """Draw original | heatmap | overlay for each IMAGE (files, folders, globs) and map; save the raw maps as .npz.

    \b
    Example:
      promptsg visualize query/0002_c1s1_000451_03.jpg --checkpoint ViT-B-16_60.pth
      promptsg visualize query/ --num 50 --method gradcam++ --method mim_attention --layer all \\
          --checkpoint ViT-B-16_60.pth --output attention

    Each image gets <name>__panel.png, <name>__<map>__heatmap.png, <name>__<map>__overlay.png and <name>.npz. An
    image that cannot be read is named at the end, and the exit status is 1; the others are drawn.
    """
    report = visualize(
        VisualizeConfig(
            images=images,
            model=model,
            output=output,
            methods=methods,
            layers=layers,
            target=target,
            target_class=target_class,
            num=num,
            looks=looks,
            height=height,
            interpolation=interpolation,
            batch_size=batch_size,
        )
    )
    echo(describe(report))
    for problem in report.problems:
        echo(f"not drawn: {problem}", err=True)
    sys.exit(report.exit_status)


def describe(report: VisualizeReport) -> str:
    """How many images and maps were drawn, and where."""
    return f"{counted(report.images, 'image')}, {counted(len(report.maps), 'map')} each, in {report.output}"
