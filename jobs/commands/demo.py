"""`promptsg demo`: drawn pedestrians, a tiny trained model, and every step of a session on them, offline."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING

import click

from jobs.commands.options import echo, option_with_default
from jobs.commands.steps import repeated, run_steps
from jobs.errors import UserError

if TYPE_CHECKING:
    from jobs.statistics.localisation.localise import Localisation

CHECKPOINT = "pedestrians.safetensors"
MAPS = ("mim_attention", "hirescam/vit_proj", "gradcam++/vit_proj")
_SHOWN = 12
_MEASURES = ("ratio", "pointing", "auc")
Step = tuple[object, ...]  # the words of a command


@click.command(name="demo")
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
    from jobs.runs.run import open_run
    from jobs.statistics.localisation.localise import localise, read_masks

    started = time.monotonic()
    shards = draw_pedestrians(folder, seed)
    with as_file(files("configs") / "demo" / CHECKPOINT) as checkpoint:
        status = run_steps(*steps(folder, shards, checkpoint))
    if status:
        sys.exit(status)
    echo(describe(localise(open_run(folder / "RUN"), read_masks(shards))))
    echo(f"\nDone in {time.monotonic() - started:.0f} s. Look first at\n{where_to_look(folder)}")


def draw_pedestrians(folder: Path, seed: int) -> list[Path]:
    """Draws the query and gallery shards of 48 persons that the tiny model was not trained on.

    Raises UserError if the folder holds anything but an earlier demo.
    """
    from jobs.pedestrians.dataset import write_pedestrian_shards

    shards = folder / "shards"
    if folder.exists() and not shards.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty and not a demo's folder: name another one")
    click.secho(f"drawing pedestrians into {shards}", fg="cyan")
    return write_pedestrian_shards(shards, splits=("query", "gallery"), seed=seed)


def steps(folder: Path, shards: Sequence[Path], checkpoint: Path) -> list[Step]:
    """The commands of a session, from shards to pictures."""
    run = folder / "RUN"
    attention, known = ("--map", "mim_attention"), ("--where", "pid > 0")
    failures = run / "evaluation" / "failures.txt"
    return [
        ("mine", *repeated("--shards", shards), "--checkpoint", checkpoint, "--output", run, *repeated("--maps", MAPS)),
        ("evaluate", run),
        ("stats", run, "--by", "camid", *known, *attention, "--map", "hirescam/vit_proj"),
        ("render", run, "--style", "sheet", *known, "--sample", _SHOWN, "--output", folder / "sheet", "--overwrite"),
        ("render", run, "--style", "ranked", "--queries", failures, *attention, "--limit", _SHOWN,
         "--output", folder / "ranked", "--overwrite"),
        ("gallery", run, *known, "--limit", 400, "--output", folder / "gallery", "--overwrite"),
    ]  # fmt: skip


def describe(found: Sequence[Localisation]) -> str:
    """How well each map lies on the persons, beside what fixed maps score."""
    lines = [
        "",
        "On the persons' masks (mean over images, 95 % interval over identities):",
        f"{'':<30}{'mass / area':>22}{'pointing':>22}{'AUC':>22}",
    ]
    for entry in found:
        cells = []
        for measure in _MEASURES:
            low, high = entry.interval[measure]
            cells.append(f"{getattr(entry, measure):.2f} [{low:.2f}, {high:.2f}]")
        lines.append(f"{entry.name:<30}" + "".join(f"{cell:>22}" for cell in cells))
    return "\n".join(lines)


def where_to_look(folder: Path) -> str:
    """A line for each result that is worth a look."""
    results = (
        (folder / "gallery" / "index.html", "all images in a browser: filter, sort, switch maps, click"),
        (folder / "ranked", "queries with a wrong first image, and where the model looked"),
        (folder / "RUN" / "stats" / "report.html", "where the model looks, per camera"),
        (folder / "sheet", "images and maps on pages"),
    )
    return "\n".join(f"  {path}  ({what})" for path, what in results)
