"""`promptsg train`: trains a PromptSG, from CLIP or from scratch, on the same shards that `mine` takes."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from jobs.cli import repeated
from jobs.commands.options import PromptsgCommand, echo, next_step, option_with_default
from jobs.phrases import counted
from jobs.progress import loading_torch
from jobs.shards.urls import expand_shards
from jobs.training.config import TrainConfig, build_train_config
from jobs.training.early import refuse_wrong_training
from promptsg_core.choices import PRECISION_NAMES

if TYPE_CHECKING:
    from jobs.training.train import TrainingReport


def _default(name: str) -> object:
    """The default of a setting, for the help. The value itself comes from TrainConfig."""
    return TrainConfig.model_fields[name].default


@click.command(name="train", cls=PromptsgCommand)
@click.option("--config", "file", type=click.Path(path_type=Path), help="A YAML file with any of these settings.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any setting; wins over all others.")
@click.option("--shards", multiple=True, help="Tar shards; the images of the split train are taken.")
@click.option("--output", type=click.Path(path_type=Path), help="The folder; a training that was stopped continues.")
@click.option("--init", type=click.Path(path_type=Path), help="Start from this CLIP state dict, in OpenAI's or "
              "open_clip's names: the paper's recipe, for a GPU.")  # fmt: skip
@click.option("--scratch", is_flag=True, help="Start a small model (1 M parameters, 128x64 images) from random "
              "weights: for a try, also on a CPU.")  # fmt: skip
@click.option("--image-size", type=click.IntRange(min=1), nargs=2, metavar="H W",
              help="The size of the images in pixels.  [default: 256 128; from scratch 128 64]")  # fmt: skip
@click.option("--stride", type=click.IntRange(min=1), help="The step from one patch to the next in pixels. A smaller "
              "one makes patches overlap: finer maps, more time and memory.  [default: the patch size]")  # fmt: skip
@option_with_default("--identities", type=click.IntRange(min=2), default=_default("identities"),
              help="The number of identities in a batch (P). A batch has P x K images: lower P where the memory does "
              "not suffice.")  # fmt: skip
@option_with_default("--images-each", type=click.IntRange(min=1), default=_default("images_each"),
              help="The number of images of each identity in a batch (K), which the triplet loss "
              "compares.")  # fmt: skip
@option_with_default("--epochs", type=click.IntRange(min=1), default=_default("epochs"),
              help="How often all training images are seen, unless --steps is given.")  # fmt: skip
@click.option("--steps", type=click.IntRange(min=1), help="The length of the training in batches. Give few for a "
              "try.  [default: by --epochs; from scratch 3000]")  # fmt: skip
@click.option("--optimizer", type=click.Choice(["adam", "adamw"]), help="adam is the paper's; adamw suits a start from "
              "random weights.  [default: adam; from scratch adamw]")  # fmt: skip
@click.option("--schedule", type=click.Choice(["step", "cosine"]), help="How the learning rates fall: step divides "
              "them by 10 at --decay-epochs, cosine lowers them a little in each step.  "
              "[default: step; from scratch cosine]")  # fmt: skip
@click.option("--warmup", type=click.IntRange(min=0), help="The number of steps in which the learning rates rise to "
              "their values. Give some, such as 500, where the loss jumps at the beginning.  "
              "[default: 0; from scratch 50]")  # fmt: skip
@option_with_default("--decay-epochs", type=int, multiple=True, default=_default("decay_epochs"),
              help="The epochs at which the schedule step divides the rates by 10; repeatable. Scale them with "
              "--epochs.")  # fmt: skip
@click.option("--lr-tower", type=float, help="The learning rate of what comes from CLIP: how far a step moves its "
              "weights. Small, to keep what CLIP knows. Lower it where the loss rises, raise it where it hardly "
              "falls.  [default: 5e-6; from scratch 1e-3]")  # fmt: skip
@click.option("--lr-new", type=float, help="The learning rate of all modules that start from random weights. Change it "
              "together with --lr-tower, by the same factor.  [default: 5e-5; from scratch 1e-3]")  # fmt: skip
@click.option("--lr-qk", type=float, help="The learning rate of the queries and keys of the MIM, which decide where it "
              "looks. Raise it where the attention entropy in log.csv stays at 1, which is a uniform map.  "
              "[default: 10 times --lr-new; from scratch 3 times]")  # fmt: skip
@click.option("--weight-decay", type=float, help="How strongly a step pulls weights to 0. Raise it where training "
              "persons are learned by heart.  [default: 1e-4; from scratch 0.05]")  # fmt: skip
@option_with_default("--id-weight", type=float, default=_default("id_weight"),
              help="The weight of the identity losses, which classify the training persons.")  # fmt: skip
@option_with_default("--triplet-weight", type=float, default=_default("triplet_weight"),
              help="The weight of the triplet losses, which bring images of a person together.")  # fmt: skip
@click.option("--unit-triplets/--raw-triplets", default=None, help="Whether triplet distances are between features "
              "of unit length. From random weights, raw features collapse.  "
              "[default: raw; from scratch unit]")  # fmt: skip
@option_with_default("--contrastive-weight", type=float, default=_default("contrastive_weight"),
              help="The weight of the loss of image against text, which ties the prompt to the image.")  # fmt: skip
@click.option("--erase", type=click.FloatRange(0, 1), help="The share of images in which a random rectangle is erased. "
              "It makes the model look at more than one part.  [default: 0.5; from scratch 0.1]")  # fmt: skip
@option_with_default("--seed", type=click.IntRange(min=0), default=_default("seed"),
              help="The seed of everything random.")  # fmt: skip
@option_with_default("--device", default=_default("device"), help="auto, cpu, cuda or cuda:N.")
@option_with_default("--precision", type=click.Choice(PRECISION_NAMES), default=_default("precision"),
                     help="The precision of the forward pass. auto is bf16 where the device has "
                     "instructions for it.")  # fmt: skip
@option_with_default("--weights", type=click.Choice(["fp32", "fp16"]), default=_default("weights"),
              help="How the checkpoint stores matrices; fp16 halves the file.")  # fmt: skip
@option_with_default("--workers", type=click.IntRange(min=0), default=_default("workers"),
              help="The number of decoding processes. Give some where the GPU waits for images.")  # fmt: skip
@option_with_default("--save-every", type=click.IntRange(min=1), default=_default("save_every"),
              help="Save after so many steps: a kill loses at most these.")  # fmt: skip
@option_with_default("--log-every", type=click.IntRange(min=1), default=_default("log_every"),
              help="Log after so many steps.")  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Delete the training that is in the folder, say what is deleted, and "
              "start from the first step.")  # fmt: skip
def command(file: Path | None, settings: tuple[str, ...], overwrite: bool, **values: object) -> None:
    """Train a PromptSG on the images of the split `train`, with identity, triplet and image-text contrastive losses.

    \b
    Examples:
      promptsg train --shards 'shards/train-*.tar' --init ViT-B-16.pth --output TRAINED
      promptsg train --shards 'shards/train-*.tar' --scratch --output TRAINED

    TRAINED/model.safetensors is what `promptsg mine --checkpoint` takes; log.csv and curve.png show how it went. The
    same command again continues where it stopped. Exit status: 0 done, 1 error, 2 usage, 75 stopped on request.
    """
    config = build_train_config(file, _typed(values), settings)
    refuse_wrong_training(config)
    with loading_torch():
        from jobs.training.train import train

    report = train(config, overwrite=overwrite)
    echo(describe(report))
    if report.drained is None:
        for line in next_step(("mine", *_shards_to_mine(config), "--checkpoint", report.checkpoint,
                               "--output", config.output / "RUN")):  # fmt: skip
            echo(line)
    sys.exit(report.exit_status)


def _typed(values: Mapping[str, object]) -> dict[str, object]:
    """The options that the user typed: a default must not win over the file."""
    source = click.get_current_context().get_parameter_source
    return {name: value for name, value in values.items() if source(name) is ParameterSource.COMMANDLINE}


def _shards_to_mine(config: TrainConfig) -> list[object]:
    """All tars of the folder that the training's are in, the query and the gallery among them; else the training's."""
    shards = expand_shards(config.shards)
    folders = {Path(shard.url).parent for shard in shards if shard.is_local}
    alone = len(folders) == 1 and all(shard.is_local and shard.url.endswith(".tar") for shard in shards)
    return repeated("--shards", [folders.pop() / "*.tar"] if alone else config.shards)


def describe(report: TrainingReport) -> str:
    """The report for people."""
    begun = "".join(f"overwriting: deleted {name}\n" for name in report.deleted) + (
        f"{counted(report.images, 'image')} of {counted(report.identities, 'identity', 'identities')}; "
        f"{counted(report.steps, 'step')} on {report.device} "
        f"in {report.precision}"
    )
    if report.drained is not None:
        return (
            f"{begun}\nstopped on {report.drained} after {report.step} of {counted(report.steps, 'step')}; the same "
            "command goes "
            "on from here"
        )
    return f"{begun}\n{report.checkpoint} after {counted(report.steps, 'step')}, {report.seconds:.0f} s"
