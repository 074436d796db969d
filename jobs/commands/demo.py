"""`promptsg demo`: drawn pedestrians, a tiny trained model, and every step of a session on them, offline."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path

import click

from jobs.atomic import write_lines
from jobs.cli import repeated, run_steps
from jobs.commands.options import PromptsgCommand, echo, option_with_default
from jobs.errors import UserError

CHECKPOINT = "pedestrians.safetensors"
LABELS = "labels.txt"  # names of the masks' labels
MAPS = ("mim_attention", "hirescam/vit_proj", "gradcam++/vit_proj")
_SHOWN = 12
Step = tuple[object, ...]  # the words of a command


@click.command(name="demo", cls=PromptsgCommand)
@click.argument("folder", type=click.Path(path_type=Path), default="promptsg-demo", metavar="[DIR]")
@option_with_default("--seed", type=click.IntRange(0), default=0, help="The seed of the pedestrians.")
def command(folder: Path, seed: int) -> None:
    """Draw pedestrians that the model has never seen, mine them with a tiny trained PromptSG, evaluate, compute
    statistics and draw pictures in DIR. Needs no network and no GPU.

    \b
    Example:
      promptsg demo
      promptsg demo /tmp/look
    """
    started = time.monotonic()
    shards = draw_pedestrians(folder, seed)
    with as_file(files("configs") / "demo" / CHECKPOINT) as checkpoint:
        status = run_steps(*steps(folder, shards, checkpoint))
    if status:
        sys.exit(status)
    echo(f"\nDone in {time.monotonic() - started:.0f} s. Look first at\n{where_to_look(folder)}")


def draw_pedestrians(folder: Path, seed: int) -> list[Path]:
    """Draws the query and gallery shards of 48 persons that the tiny model was not trained on.

    Raises UserError if the folder holds anything but an earlier demo.
    """
    from jobs.pedestrians.canvas import PARTS
    from jobs.pedestrians.dataset import write_pedestrian_shards

    shards = folder / "shards"
    if folder.exists() and not shards.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty and not a demo's folder: name another one")
    click.secho(f"drawing pedestrians into {shards}", fg="cyan")
    paths = write_pedestrian_shards(shards, splits=("query", "gallery"), seed=seed)
    write_lines(folder / LABELS, PARTS)
    return paths


def steps(folder: Path, shards: Sequence[Path], checkpoint: Path) -> list[Step]:
    """The commands of a session, from shards to pictures."""
    run = folder / "RUN"
    attention, known = ("--map", "mim_attention"), ("--where", "pid > 0")
    failures = run / "evaluation" / "failures.txt"
    return [
        ("mine", *repeated("--shards", shards), "--checkpoint", checkpoint, "--output", run, *repeated("--maps", MAPS)),
        ("evaluate", run),
        ("localise", run, "--labels", folder / LABELS, *known),
        ("stats", run, "--by", "camid", *known, *attention, "--map", "hirescam/vit_proj"),
        ("render", run, "--style", "sheet", *known, "--sample", _SHOWN, "--output", folder / "sheet", "--overwrite"),
        ("render", run, "--style", "ranked", "--queries", failures, *attention, "--limit", _SHOWN,
         "--output", folder / "ranked", "--overwrite"),
        ("gallery", run, *known, "--limit", 400, "--output", folder / "gallery", "--overwrite"),
    ]  # fmt: skip


def where_to_look(folder: Path) -> str:
    """A line for each result that is worth a look."""
    results = (
        (folder / "gallery" / "index.html", "all images in a browser: filter, sort, switch maps, click"),
        (folder / "ranked", "queries with a wrong first image, and where the model looked"),
        (folder / "RUN" / "stats" / "report.html", "where the model looks, per camera"),
        (folder / "RUN" / "localise" / "report.html", "whether that is on the persons, and on which part"),
        (folder / "sheet", "images and maps on pages"),
    )
    return "\n".join(f"  {path}  ({what})" for path, what in results)
