"""Options of the model: its checkpoint, its heads, cameras and prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from jobs.commands.options.declared import F, device_option, option_group, precision_option
from jobs.mining.model_options import ModelOptions, parse_image_size
from jobs.prompt_sets import PROMPT_SETS

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
prompt_set_option = click.option(
    "--prompt-set", multiple=True, type=click.Choice(PROMPT_SETS), help="A ready list of prompts, one for each value "
    "of the attribute labels of Market-1501 or DukeMTMC-reID. Repeatable.",
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


# Which model a command for single images runs: `model`, a ModelOptions.
model_options = option_group(
    "model",
    _model,
    click.option("--checkpoint", type=click.Path(path_type=Path), help="The checkpoint (.pth or .safetensors)."),
    weights_key_option,
    device_option,
    precision_option,
    click.option("--model-settings", type=click.Path(path_type=Path), help="The training code's YAML."),
    click.option("--model-set", type=(str, str), multiple=True, metavar="KEY VALUE", help="One of its settings."),
    image_size_option,
    click.option("--prompt-mode", help="composed (default) or simplified."),
    click.option("--neck-feat", help="before (default) or after."),
    *_HEAD,
    *_CAMERAS,
    click.option("--prompt", "prompts", multiple=True, metavar="[NAME=]TEXT", help="Ask with your own text."),
)
