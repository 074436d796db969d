"""`promptsg info`: describes a checkpoint, or says why it cannot be used."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from jobs.commands.options import (
    PromptsgCommand,
    camera_options,
    device_option,
    echo,
    image_size_option,
    json_option,
    option_with_default,
    precision_option,
    weights_key_option,
)
from jobs.mining.camera_rows.options import CameraOptions
from jobs.mining.early.files import check_model_words
from jobs.mining.model_options import parse_image_size
from jobs.phrases import counted, first_few
from jobs.progress import LongTask, loading_torch
from jobs.shards.urls import expand_shards
from promptsg_core.config import PatchConfig
from promptsg_core.settings import read_settings

if TYPE_CHECKING:
    from jobs.retrieval.sample_check import SampleCheck
    from promptsg_core.checkpoint import CheckpointInfo


@click.command(name="info", cls=PromptsgCommand)
@click.argument("checkpoint", type=click.Path(path_type=Path), required=False)
@click.option("--model-settings", type=click.Path(path_type=Path), help="The training code's YAML.")
@weights_key_option
@image_size_option
@click.option("--shards", multiple=True, help="Also run the model over a sample of these shards' images: retrieval, "
              "and predictions compared with labels.")  # fmt: skip
@option_with_default("--images", type=click.IntRange(8), default=500, help="The size of the sample.")
@click.option("--label-map", type=click.Path(path_type=Path), help="A JSON file of pid to class.  "
              "[default: the rank among the training pids]")  # fmt: skip
@camera_options
@device_option
@precision_option
@json_option
@click.argument("overrides", nargs=-1, metavar="[KEY VALUE]...")
def command(
    checkpoint: Path | None,
    model_settings: Path | None,
    weights_key: str | None,
    image_size: str | None,
    shards: tuple[str, ...],
    images: int,
    label_map: Path | None,
    trained_on: str | None,
    camera_map: Path | None,
    camera: str | None,
    device: str,
    precision: str,
    as_json: bool,
    overrides: tuple[str, ...],
) -> None:
    """Print the family, configuration, parameters, grid and classes of CHECKPOINT, after checking every tensor. Without
    CHECKPOINT print the families that are known.

    With --shards a wrong assumption about the checkpoint shows: its features then find the right person less often, and
    its predictions on training images are not their labels.

    \b
    Example:
      promptsg info ViT-B-16_60.pth
      promptsg info
      promptsg info ViT-B-16_60.pth MODEL.PROMPTSG.PROMPT_MODE simplified
      promptsg info ViT-B-16_60.pth --shards 'shards/*.tar'
    """
    if checkpoint is None:
        echo(known_families())
        return
    check_model_words(checkpoint, device, precision, files=[label_map, camera_map])
    settings = read_settings(model_settings, overrides)
    size = None if image_size is None else parse_image_size(image_size)
    listed = tuple(expand_shards(shards))
    with loading_torch():
        from promptsg_core.checkpoint import inspect_checkpoint
    with LongTask("reading the checkpoint"):
        info = inspect_checkpoint(checkpoint, settings=settings, weights_key=weights_key, image_size=size)
    check = None
    if listed:
        from jobs.retrieval.sample_check import SampleCheckConfig, check_sample

        check = check_sample(
            SampleCheckConfig(
                checkpoint=checkpoint,
                shards=listed,
                settings=settings,
                weights_key=weights_key,
                image_size=size,
                images=images,
                label_map=label_map,
                cameras=CameraOptions(trained_on=trained_on, camera_map=camera_map, camera=camera),
                device=device,
                precision=precision,
            )
        )
    echo(as_json_text(info, check) if as_json else describe(info, check))


def known_families() -> str:
    """The families, whose checkpoints they are, and the maps that are taken where none are named."""
    from promptsg_core.families.registry import families

    lines = ["Families of checkpoints that are read:"]
    for family in families():
        maps = ", ".join(family.config.default_maps)
        lines.append(f"  {family.name:<24}{family.source}; maps by default: {maps}")
    return "\n".join(lines)


def as_json_text(info: CheckpointInfo, check: SampleCheck | None = None) -> str:
    """Family, parameters, the whole configuration and what the sample says, as JSON."""
    config = {**info.config.to_dict(), "grid": list(info.config.grid)}
    content = {
        "family": info.family,
        "parameters": info.parameters,
        "weights_key": info.weights_key,
        "other_weights": list(info.other_weights),
        "config": config,
    }
    if check is not None:
        labels = None if check.labels is None else check.labels.as_json()
        content["sample"] = {**asdict(check), "labels": labels}
    return json.dumps(content, indent=1)


def _weights(info: CheckpointInfo) -> dict[str, str]:
    """Which state dict of the file was taken, and how to take another; nothing for a file that is one itself."""
    if not info.weights_key and not info.other_weights:
        return {}
    taken = info.weights_key or "those at the top of the file"
    if not info.other_weights:
        return {"weights": taken}
    ways = [f"--weights-key {key}" for key in info.other_weights]
    return {"weights": f"{taken}; for the others in it give {first_few(ways)}"}


def describe(info: CheckpointInfo, check: SampleCheck | None = None) -> str:
    """The checkpoint for people, what is assumed because neither the tensors nor the user say it, and what the sample
    says.
    """
    config = info.config
    h, w = config.grid
    facts = {
        "checkpoint": str(info.path),
        **_weights(info),
        "family": info.family,
        "parameters": f"{info.parameters:,} ({info.dtype})",
        "classes": str(config.num_classes),
        "image size": f"{config.image_size[0]}x{config.image_size[1]} (height x width)",
        **({"patch, stride": f"{config.patch_size}, {config.stride}"} if isinstance(config, PatchConfig) else {}),
        "grid": f"{h}x{w} = {h * w} patches",
        **config.facts,
        **({"heads": ", ".join(config.heads)} if len(config.heads) > 1 else {}),
        "default maps": ", ".join(config.default_maps),
        "feature": f"{config.feature_dim} numbers"
        + (f", {config.neck_feat} the necks" if config.no_neck is None else ""),
        "mean, std": f"{list(config.mean)}, {list(config.std)}",
    }
    if assumed := [
        words
        for field, words in config.assumed.items()
        if field not in {*info.stated, *config.told, *config.without_effect}
    ]:
        facts["assumed"] = f"{', '.join(assumed)}: the tensors do not say; state what differs with KEY VALUE"
    lines = [f"{name:<16}{value}" for name, value in facts.items()]
    return "\n".join(lines if check is None else [*lines, *describe_check(check)])


def describe_check(check: SampleCheck) -> list[str]:
    """Lines about retrieval and labels on the sample, with what chance would give."""
    from jobs.mining.label_agreement import in_words

    lines = []
    for found in check.retrieval:
        what = f"{found.images} {found.name} of {counted(found.persons, 'person')}"
        if found.rank1 is None or found.mAP is None or found.chance is None:
            lines.append(f"{'retrieval':<16}{what}: no image has a match, which takes two cameras or two images")
            continue
        within = "" if found.across_cameras else ", images of the same camera too"
        lines.append(
            f"{'retrieval':<16}rank-1 {found.rank1:.1%}, mAP {found.mAP:.1%} (chance: rank-1 {found.chance:.1%}) "
            f"on {what}, each searched in the others{within}"
        )
    lines.append(
        f"{'labels':<16}{f'not compared: {check.no_labels}' if check.labels is None else in_words(check.labels)}"
    )
    if check.other_numbering:
        lines.append(f"{'':<16}so the model was trained with another numbering: mine --target label needs --label-map")
    if check.undecoded:
        lines.append(f"{'':<16}{check.undecoded} of the images did not decode or have no known camera")
    if check.read < check.shards:
        lines.append(f"{'':<16}the sample is from {check.read} of {counted(check.shards, 'shard')}")
    return lines
