"""`promptsg train`: trains a PromptSG with the paper's objective, from CLIP or from scratch, over the same shards."""

from __future__ import annotations

import io
import sys
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import click
import yaml

from jobs.errors import EXIT_DRAINED, EXIT_OK, UserError
from jobs.logs import setup_logging
from jobs.shards.urls import expand_shards

# What options are where they are not given. The paper's recipe fine-tunes CLIP; the other one trains a small model.
PAPER: dict[str, Any] = {
    "image_size": (256, 128),
    "optimizer": "adam",
    "schedule": "step",
    "warmup": 0,
    "lr_tower": 5e-6,
    "lr_new": 5e-5,
    "weight_decay": 1e-4,
    "steps": None,
    "unit_triplets": False,
    "erase": 0.5,
    "qk_factor": 10,
}
SCRATCH: dict[str, Any] = {
    "image_size": (128, 64),
    "optimizer": "adamw",
    "schedule": "cosine",
    "warmup": 50,
    "lr_tower": 1e-3,
    "lr_new": 1e-3,
    "weight_decay": 0.05,
    "steps": 3000,
    "unit_triplets": True,
    "erase": 0.1,
    "qk_factor": 3,
}


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Everything that decides the result, beside the images: sizes are (height, width) in pixels.

    `init` is a CLIP state dict, or None to train the small model from scratch. `steps` wins over `epochs`.
    """

    init: Path | None
    image_size: tuple[int, int]
    stride: int | None
    identities: int
    images_each: int
    epochs: int
    steps: int | None
    optimizer: str
    schedule: str
    warmup: int
    decay_epochs: tuple[int, ...]
    lr_tower: float
    lr_new: float
    lr_qk: float
    weight_decay: float
    id_weight: float
    triplet_weight: float
    contrastive_weight: float
    unit_triplets: bool
    erase: float
    seed: int
    precision: str
    weights: str


def _take_defaults(context: click.Context, parameter: click.Parameter, file: Path | None) -> None:
    """Makes a YAML file's settings the defaults of the options of the same names; what is typed wins."""
    if file is None:
        return
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not YAML: {' '.join(str(error).split())}") from error
    known = [p.name for p in context.command.params if p.name and p is not parameter]
    if content is None:
        return
    if not isinstance(content, dict):
        raise UserError(f"{file} is not a mapping of settings to values")
    if unknown := [str(key) for key in content if key not in known]:
        raise UserError(f"{file}: unknown setting {unknown[0]!r}; settings are {', '.join(known)}")
    shards = content.get("shards")
    context.default_map = {**content, **({"shards": [shards]} if isinstance(shards, str) else {})}


@click.command(name="train", short_help="Train a PromptSG, from CLIP or from scratch.")
@click.option("--config", type=click.Path(path_type=Path), is_eager=True, expose_value=False, callback=_take_defaults,
              help="A YAML file with any of these settings.")  # fmt: skip
@click.option("--shards", multiple=True, required=True, help="Tar shards; images of the split train are taken.")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder; a stopped training goes on.")
@click.option("--init", type=click.Path(path_type=Path), help="A CLIP state dict in OpenAI's or open_clip's names.")
@click.option("--scratch", is_flag=True, help="A small model (1 M parameters, 128x64 images) from random weights.")
@click.option("--image-size", type=click.IntRange(min=1), nargs=2, metavar="H W",
              help="[default: 256 128; from scratch 128 64]")  # fmt: skip
@click.option("--stride", type=click.IntRange(min=1), help="Of the patches, in pixels.  [default: the patch size]")
@click.option("--identities", type=click.IntRange(min=2), default=16, show_default=True, help="In a batch (P).")
@click.option("--images-each", type=click.IntRange(min=1), default=4, show_default=True, help="Of an identity (K).")
@click.option("--epochs", type=click.IntRange(min=1), default=60, show_default=True, help="If --steps does not say.")
@click.option("--steps", type=click.IntRange(min=1), help="[default: by --epochs; from scratch 3000]")
@click.option("--optimizer", type=click.Choice(["adam", "adamw"]), help="[default: adam; from scratch adamw]")
@click.option("--schedule", type=click.Choice(["step", "cosine"]), help="[default: step; from scratch cosine]")
@click.option("--warmup", type=click.IntRange(min=0), help="Steps of linear warm-up.  [default: 0; from scratch 50]")
@click.option("--decay-epochs", type=int, multiple=True, default=(20, 40), show_default=True,
              help="Where schedule `step` divides the rates by 10; repeatable.")  # fmt: skip
@click.option("--lr-tower", type=float, help="Of CLIP's towers.  [default: 5e-6; from scratch 1e-3]")
@click.option("--lr-new", type=float, help="Of all other modules.  [default: 5e-5; from scratch 1e-3]")
@click.option("--lr-qk", type=float, help="Of the MIM's queries and keys: at the rate of the others the "
              "map stays uniform.  [default: 10 times --lr-new; from scratch 3]")  # fmt: skip
@click.option("--weight-decay", type=float, help="[default: 1e-4; from scratch 0.05]")
@click.option("--id-weight", type=float, default=1.0, show_default=True, help="Weight of the identity losses.")
@click.option("--triplet-weight", type=float, default=1.0, show_default=True, help="Weight of the triplet losses.")
@click.option("--unit-triplets/--raw-triplets", default=None, help="Whether triplet distances are between features of "
              "unit length; from random weights raw ones collapse.  [default: raw; from scratch unit]")  # fmt: skip
@click.option("--contrastive-weight", type=float, default=0.5, show_default=True, help="Weight of image against text.")
@click.option("--erase", type=click.FloatRange(0, 1), help="Share of erased images.  [default: 0.5; from scratch 0.1]")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--precision", type=click.Choice(["auto", "bf16", "fp16", "fp32"]), default="auto", show_default=True)
@click.option("--weights", type=click.Choice(["fp32", "fp16"]), default="fp32", show_default=True,
              help="How the checkpoint stores matrices.")  # fmt: skip
@click.option("--workers", type=click.IntRange(min=0), default=0, show_default=True, help="Decoding processes.")
@click.option("--save-every", type=click.IntRange(min=1), default=200, show_default=True, help="Steps.")
@click.option("--log-every", type=click.IntRange(min=1), default=10, show_default=True, help="Steps.")
def command(**options: Any) -> None:
    """Train a PromptSG on the images of the split `train`, with identity, triplet and image-text contrastive losses.

    \b
    Examples:
      promptsg train --shards 'shards/train-*.tar' --init ViT-B-16.pth --output TRAINED
      promptsg train --shards 'shards/train-*.tar' --scratch --output TRAINED

    TRAINED/model.safetensors is what `promptsg mine --checkpoint` takes; log.csv and curve.png show how it went. The
    same command again goes on where it stopped. Exit status: 0 done, 1 error, 2 usage, 75 stopped on request.
    """
    setup_logging()
    sys.exit(run(options))


def settings_of(options: dict[str, Any]) -> TrainSettings:
    """TrainSettings from the command's options, filled up from the recipe that `init` or `scratch` chooses.

    Raises UserError unless exactly one of the two is given.
    """
    if (options["init"] is None) == (not options["scratch"]):
        raise UserError("give either --init with a CLIP state dict, or --scratch for a small model without one")
    recipe = SCRATCH if options["scratch"] else PAPER
    filled: dict[str, Any] = {key: recipe.get(key) if value is None else value for key, value in options.items()}
    if filled["lr_qk"] is None:  # at the others' rate the map would stay uniform
        filled["lr_qk"] = recipe["qk_factor"] * filled["lr_new"]
    for key in ("image_size", "decay_epochs"):
        filled[key] = tuple(filled[key])
    return TrainSettings(**{field.name: filled[field.name] for field in fields(TrainSettings)})


def run(options: dict[str, Any]) -> int:
    """Trains, or goes on training, and returns the exit status."""
    from jobs.launch.drain import Drain
    from jobs.training.data import load_training_images
    from jobs.training.loop import CHECKPOINT, Training, train

    started = time.monotonic()
    settings = settings_of(options)
    shards = expand_shards(options["shards"])
    data = load_training_images(shards, settings.image_size, options["workers"])
    training = Training(settings, data, options["output"], options["device"])
    click.echo(f"{len(data.keys)} images of {len(data.pids)} identities; {training.steps} steps on {training.device} "
               f"in {training.precision}")  # fmt: skip
    with Drain() as drain:
        finished = train(training, save_every=options["save_every"], log_every=options["log_every"], drain=drain)
    checkpoint = options["output"] / CHECKPOINT
    if not finished:
        click.echo(f"stopped on {drain.requested} after {training.step} of {training.steps} steps; the same command "
                   "goes on from here")  # fmt: skip
        return EXIT_DRAINED
    click.echo(f"{checkpoint} after {training.steps} steps, {time.monotonic() - started:.0f} s")
    return EXIT_OK


def draw_curve(figures: list[dict[str, float]]) -> bytes:
    """A PNG of the log: the loss and its terms; accuracy and attention entropy; learning rates."""
    from matplotlib.figure import Figure

    if not figures:
        figures = [{"step": 0, "loss": float("nan")}]
    names = [name for name in figures[0] if name not in ("step", "epoch")]
    shares = [name for name in names if name in ("accuracy", "attention_entropy")]
    rates = [name for name in names if name.startswith("lr_")]
    losses = [name for name in names if name not in (*shares, *rates)]
    picture = Figure(figsize=(12, 3.6), layout="constrained")
    steps = [row["step"] for row in figures]
    for axes, lines, title in zip(
        picture.subplots(1, 3), (losses, shares, rates), ("losses", "shares", "learning rates"), strict=True
    ):
        for name in lines:
            label = name.removeprefix("lr_").replace("_", " ")
            axes.plot(steps, [row[name] for row in figures], label=label, linewidth=2.2 if name == "loss" else 1.2)
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
        if lines is rates:
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
    out = io.BytesIO()
    picture.savefig(out, format="png", dpi=120)
    return out.getvalue()
