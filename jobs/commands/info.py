"""`promptsg info`: describes a checkpoint, or says why it cannot be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from jobs.commands.options import json_option
from promptsg_core.settings import Settings, read_settings

if TYPE_CHECKING:
    from promptsg_core.checkpoint import CheckpointInfo

# What a checkpoint's tensors cannot tell: the field of ModelConfig, and its name in the text.
_NOT_IN_TENSORS = {
    "mim_heads": "MIM heads",
    "reweight": "reweight",
    "prompt_mode": "prompt",
    "neck_feat": "neck",
    "mean": "mean",
    "std": "std",
}


@click.command(name="info")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--model-settings", type=click.Path(path_type=Path), help="The training code's YAML.")
@json_option
@click.argument("overrides", nargs=-1, metavar="[KEY VALUE]...")
def command(checkpoint: Path, model_settings: Path | None, as_json: bool, overrides: tuple[str, ...]) -> None:
    """Print the family, configuration, parameters, grid and classes of CHECKPOINT, after checking every tensor.

    \b
    Example:
      promptsg info ViT-B-16_60.pth
      promptsg info ViT-B-16_60.pth MODEL.PROMPTSG.PROMPT_MODE simplified
    """
    from promptsg_core.checkpoint import inspect_checkpoint  # takes seconds: torch

    settings = read_settings(model_settings, overrides)
    info = inspect_checkpoint(checkpoint, settings=settings)
    click.echo(as_json_text(info) if as_json else describe(info, settings))


def as_json_text(info: CheckpointInfo) -> str:
    """Family, parameters and the whole configuration as JSON."""
    config = {**info.config.to_dict(), "grid": list(info.config.grid)}
    return json.dumps({"family": info.family, "parameters": info.parameters, "config": config}, indent=1)


def describe(info: CheckpointInfo, settings: Settings) -> str:
    """The checkpoint for people, and what is assumed because neither the tensors nor the settings say it."""
    config = info.config
    h, w = config.grid
    facts = {
        "checkpoint": str(info.path),
        "family": info.family,
        "parameters": f"{info.parameters:,} ({info.dtype})",
        "classes": str(config.num_classes),
        "image size": f"{config.image_size[0]}x{config.image_size[1]} (height x width)",
        "patch, stride": f"{config.patch_size}, {config.stride}",
        "grid": f"{h}x{w} = {h * w} patches",
        "image tower": f"width {config.vision_width}, {config.vision_layers} blocks, {config.vision_heads} heads",
        "text tower": f"width {config.text_width}, {config.text_layers} blocks, {config.text_heads} heads",
        "MIM": f"width {config.embed_dim}, {config.mim_layers} blocks, {config.mim_heads} heads, {config.reweight}",
        "prompt": f'{config.prompt_mode}: "{config.prompt.text}"',
        "feature": f"{config.feature_dim} numbers, {config.neck_feat} the necks",
        "mean, std": f"{list(config.mean)}, {list(config.std)}",
    }
    if assumed := [words for field, words in _NOT_IN_TENSORS.items() if field not in settings.model]:
        facts["assumed"] = f"{', '.join(assumed)}: the tensors do not say; state what differs with KEY VALUE"
    return "\n".join(f"{name:<16}{value}" for name, value in facts.items())
