"""`promptsg info`: describes a checkpoint, or says why it cannot be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from promptsg_core.checkpoint import CheckpointInfo

# What a checkpoint's tensors cannot tell, by the field of ModelConfig.
_TRACELESS = {"mim_heads": "MIM heads", "reweight": "reweight", "prompt_mode": "prompt", "neck_feat": "neck",
              "mean": "mean", "std": "std"}  # fmt: skip


@click.command(name="info", short_help="Describe a checkpoint.")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--model-settings", type=click.Path(path_type=Path), help="The training code's YAML.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.argument("overrides", nargs=-1, metavar="[KEY VALUE]...")
def command(checkpoint: Path, model_settings: Path | None, as_json: bool, overrides: tuple[str, ...]) -> None:
    """Print the family, configuration, parameters, grid and classes of CHECKPOINT, after checking every tensor.

    \b
    Example:
      promptsg info ViT-B-16_60.pth
      promptsg info ViT-B-16_60.pth MODEL.PROMPTSG.PROMPT_MODE simplified
    """
    from promptsg_core.checkpoint import inspect_checkpoint
    from promptsg_core.settings import read_settings

    settings = read_settings(model_settings, overrides)
    info = inspect_checkpoint(checkpoint, settings=settings)
    if as_json:
        config = {**info.config.to_dict(), "grid": list(info.config.grid)}
        click.echo(json.dumps({"family": info.family, "parameters": info.parameters, "config": config}, indent=1))
        return
    facts = _facts(info)
    if assumed := [words for field, words in _TRACELESS.items() if field not in settings.model]:
        facts["assumed"] = f"{', '.join(assumed)}: tensors bear no trace of them; state what differs with KEY VALUE"
    for name, value in facts.items():
        click.echo(f"{name:<16}{value}")


def _facts(info: CheckpointInfo) -> dict[str, Any]:
    config = info.config
    h, w = config.grid
    return {
        "checkpoint": str(info.path),
        "family": info.family,
        "parameters": f"{info.parameters:,} ({info.dtype})",
        "classes": config.num_classes,
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
