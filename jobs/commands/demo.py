"""`promptsg demo`: drawn pedestrians, a tiny trained model, and every step of a session on them, offline."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path

import click

from jobs.commands.steps import run_step, run_steps
from jobs.errors import UserError

CHECKPOINT = "pedestrians.safetensors"
MAPS = ("mim_attention", "hirescam/vit_proj", "gradcam++/vit_proj")
_SHOWN = 12


@click.command(name="demo", short_help="See all of it in a minute: drawn pedestrians and a tiny trained model.")
@click.argument("folder", type=click.Path(path_type=Path), default="promptsg-demo", metavar="[DIR]")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the pedestrians.")
def command(folder: Path, seed: int) -> None:
    """Draw pedestrians that the model has never seen, mine them with a tiny trained PromptSG, evaluate, compute
    statistics and draw pictures in DIR. Needs no network and no GPU.

    \b
    Example:
      promptsg demo
      promptsg demo /tmp/look
    """
    started = time.monotonic()
    shards = folder / "shards"
    if folder.exists() and not shards.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty and not a demo's folder: name another one")
    paths = draw_pedestrians(shards, seed)
    run = folder / "RUN"
    with as_file(files("configs") / "demo" / CHECKPOINT) as checkpoint:
        given = [word for path in paths for word in ("--shards", path)]
        status = run_step("mine", *given, "--checkpoint", checkpoint, "--output", run, *_each("--maps", MAPS))
    status = status or run_steps(*_steps(folder, run))
    if status:
        sys.exit(status)
    describe(run, paths)
    click.echo(f"\nDone in {time.monotonic() - started:.0f} s. Look first at")
    for path, what in (
        (folder / "gallery" / "index.html", "all images in a browser: filter, sort, switch maps, click"),
        (folder / "ranked", "queries with a wrong first image, and where the model looked"),
        (run / "stats" / "report.html", "where the model looks, per camera"),
        (folder / "sheet", "images and maps on pages"),
    ):
        click.echo(f"  {path}  ({what})")


def draw_pedestrians(shards: Path, seed: int) -> list[Path]:
    """The query and gallery shards of 48 persons that the tiny model was not trained on."""
    from jobs.pedestrians.dataset import write_pedestrian_shards

    click.secho(f"drawing pedestrians into {shards}", fg="cyan")
    return write_pedestrian_shards(shards, splits=("query", "gallery"), seed=seed)


def _steps(folder: Path, run: Path) -> list[tuple[object, ...]]:
    attention = ("--map", "mim_attention")
    return [
        ("evaluate", run),
        ("stats", run, "--by", "camid", "--where", "pid > 0", *attention, "--map", "hirescam/vit_proj"),
        ("render", run, "--style", "sheet", "--where", "pid > 0", "--sample", _SHOWN, "--output", folder / "sheet",
         "--overwrite"),
        ("render", run, "--style", "ranked", "--queries", run / "evaluation" / "failures.txt", *attention, "--limit",
         _SHOWN, "--output", folder / "ranked", "--overwrite"),
        ("gallery", run, "--where", "pid > 0", "--limit", 400, "--output", folder / "gallery", "--overwrite"),
    ]  # fmt: skip


def _each(option: str, values: Sequence[str]) -> list[str]:
    return [word for value in values for word in (option, value)]


def describe(run: Path, shards: Sequence[Path]) -> None:
    """Prints how well each map lies on the persons, beside what fixed maps score."""
    from jobs.runs.run import open_run
    from jobs.statistics.localise import localise, read_masks

    click.echo("\nOn the persons' masks (mean over images, 95 % interval over identities):")
    click.echo(f"{'':<30}{'mass / area':>22}{'pointing':>22}{'AUC':>22}")
    for entry in localise(open_run(run), read_masks(shards)):
        cells = [
            f"{getattr(entry, kind):.2f} [{entry.interval[kind][0]:.2f}, {entry.interval[kind][1]:.2f}]"
            for kind in ("ratio", "pointing", "auc")
        ]
        click.echo(f"{entry.name:<30}" + "".join(f"{cell:>22}" for cell in cells))
