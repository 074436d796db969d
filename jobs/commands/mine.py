"""`promptsg mine`: runs the model over shards, and says what was done."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import click

from jobs.commands.options import (
    PRECISION_HELP,
    PromptsgCommand,
    echo,
    head_and_camera_options,
    image_size_option,
    next_step,
    opening,
    prompt_option,
    prompt_set_option,
    target_option,
    weights_key_option,
)
from jobs.launch.environment import Environment
from jobs.launch.placement import place_in_array
from jobs.logs import log_label, setup_logging
from jobs.mining.config import COMPILE_CHOICES, CompileChoice, MineOptions, build_config
from jobs.mining.mine import mine
from jobs.mining.summary import MiningSummary
from jobs.phrases import counted, counted_kinds
from jobs.progress import duration

_WITHOUT_LIMIT = "the same command without --limit goes on with the rest"


@click.command(
    name="mine",
    cls=PromptsgCommand,
    epilog="KEY VALUE pairs at the end are the training code's own settings, such as TEST.NECK_FEAT after.",
)
@click.option("--shards", multiple=True, help="Tar shards: paths, globs, {000..012} ranges, URLs, pipe: commands.")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="The checkpoint (.pth or .safetensors).")
@weights_key_option
@click.option("--output", type=click.Path(path_type=Path), help="The run's folder; an unfinished run is continued.")
@click.option("--config", "file", type=click.Path(path_type=Path), help="A YAML file with any of these settings.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any setting; wins over all others.")
@click.option("--maps", multiple=True, help="A map, such as gradcam++/mim; repeatable.  [default: those "
              "that `promptsg info` names for the checkpoint]")  # fmt: skip
@target_option
@click.option("--label-map", metavar="FILE|auto", help="For --target label: a JSON file of pid to class, or auto: "
              "learn it from the training shards.  [default: the rank among the training pids]")  # fmt: skip
@click.option("--reference", type=click.Path(path_type=Path), help="An earlier run: with --target similarity each "
              "image is compared with the other images of its person there.")  # fmt: skip
@click.option("--reference-split", help="Compare with images of this split only, such as gallery.")
@prompt_option
@prompt_set_option
@click.option("--attention-heads", help="all: store every head of the model's attention beside the mean.")
@click.option("--precision", help=f"{PRECISION_HELP}  [default: auto]")
@click.option("--device", help="auto (default), cpu, cuda or cuda:N.")
@click.option(
    "--batch-size",
    type=int,
    help="The number of images in one pass.  [default: 64 on a CPU, 256 on a "
    "GPU, fewer where its memory does not suffice]",
)
@click.option("--workers", type=int, help="The number of decoding processes.  [default: by the machine]")
@click.option("--model-settings", type=click.Path(path_type=Path), help="The training code's YAML, for what the "
              "checkpoint cannot tell.")  # fmt: skip
@image_size_option
@click.option("--prompt-mode", help="composed (default) or simplified.")
@click.option("--neck-feat", help="before (default) or after.")
@head_and_camera_options
@click.option("--overwrite", is_flag=True, help="Delete the run that is there, say what is deleted, and start again.")
@click.option("--retry-failed", is_flag=True, help="Mine the shards again that are done but have failed images; with "
              "--add-maps, add the maps again where images lack them.")  # fmt: skip
@click.option("--extend", is_flag=True, help="Add the shards that the run does not list yet, with the same settings.")
@click.option("--add-maps", multiple=True, metavar="NAME", help="Add a map to the shards that are done, and leave what "
              "is stored as it is; repeatable.")  # fmt: skip
@click.option("--limit", type=click.IntRange(1), help="A first try: stop once the run has this many images. The same "
              "command without it goes on from there.")  # fmt: skip
@click.option("--compile", "compiling", type=click.Choice(COMPILE_CHOICES), default="auto", help="Compile the image "
              "tower for full batches on a CPU, which takes minutes. Tokens differ from the plain ones in the last "
              "bits (at most 1e-5 of their norm in fp32, 4e-2 in bf16). auto: in bf16, with AMX and for long runs "
              "only.  [default: auto]")  # fmt: skip
@click.option("--array-index", type=click.IntRange(0), help="Which block of the shard list is this task's, 0-based.  "
              "[default: by SLURM]")  # fmt: skip
@click.option("--array-count", type=click.IntRange(1), help="The number of blocks that the list is split into.  "
              "[default: by SLURM]")  # fmt: skip
@click.option("--drain-file", type=click.Path(path_type=Path), help="Stop with status 75 once this file exists.")
@click.argument("overrides", nargs=-1, metavar="[KEY VALUE]...")
def command(
    file: Path | None,
    settings: tuple[str, ...],
    overrides: tuple[str, ...],
    overwrite: bool,
    retry_failed: bool,
    extend: bool,
    add_maps: tuple[str, ...],
    limit: int | None,
    compiling: CompileChoice,
    array_index: int | None,
    array_count: int | None,
    drain_file: Path | None,
    **values: object,
) -> None:
    """Run the model once over every image of the shards; write raw maps (HDF5) and metadata (Parquet).

    \b
    Example:
      promptsg mine --shards 'shards/*.tar' --checkpoint ViT-B-16_60.pth --output RUN
      torchrun --standalone --nproc-per-node=4 --no-python promptsg mine --config RUN.yaml     # one worker per GPU

    The same command again continues where it stopped. Exit status: 0 all done, 1 error, 2 usage, 3 some shards failed
    (or, with --add-maps, are not mined yet), 75 stopped on request (run it again).
    """
    environment = _environment(array_index, array_count)
    setup_logging(f"rank {environment.rank}/{environment.world_size}" if environment.world_size > 1 else "")
    options = MineOptions(
        overrides=overrides,
        overwrite=overwrite,
        retry_failed=retry_failed,
        extend=extend,
        add_maps=add_maps,
        limit=limit,
        compile=compiling,
        drain_file=drain_file,
        environment=environment,
    )
    if options.conflict is not None:
        raise click.UsageError(options.conflict)
    config = build_config(file, values, settings, overrides)
    summary = mine(config, options, before_leaving=partial(show, shards=config.shards))
    sys.exit(summary.exit_status)


def _environment(array_index: int | None, array_count: int | None) -> Environment:
    """The place of this process by its environment variables. The options win over SLURM's place in the array."""
    placed = array_index is not None and array_count is not None
    return place_in_array(Environment.from_variables(os.environ, placed=placed), array_index, array_count)


def show(summary: MiningSummary, shards: Sequence[str] = ()) -> None:
    """Prints what was done, and on standard error what failed. Where several ranks print, each line names its own.

    `shards` are as they were typed.
    """
    before = f"[{log_label()}] " if log_label() else ""
    for line in [*describe(summary).split("\n"), *_next_step(summary, opening(shards))]:
        echo(before + line)
    if summary.drained is None:
        for report in summary.failed_shards:
            echo(f"{before}failed: {report.error}", err=True)


def describe(summary: MiningSummary) -> str:
    """The summary for people."""
    done = f"{summary.done} of {counted(summary.total, 'shard is', 'shards are')} done in {summary.run}"
    if summary.added_maps:
        added = ", ".join(summary.added_maps)
        done = f"{summary.done} of {counted(summary.total, 'shard')} of {summary.run} have {added}"
        if summary.not_mined:
            done += f", {counted(summary.not_mined, 'shard is', 'shards are')} not mined yet"
    if summary.limit is not None and summary.nothing_to_do and summary.done < summary.total:
        return f"the run has its first {counted(summary.limit, 'image')}; {done}\n{_WITHOUT_LIMIT}"
    if summary.nothing_to_do:
        return f"{done}; nothing to do"
    lines = [f"overwriting: deleted {what}" for what in summary.deleted]
    lines.append(
        f"{counted(summary.images, 'image')} {_of_shards(summary)}, {duration(summary.seconds)}; "
        f"{counted(summary.failed_images, 'image')} failed, {summary.partial_images} lack a target, "
        f"{counted(summary.zero_maps, 'map is', 'maps are')} all zero; {done}"
    )
    if summary.done_again:
        lines.append(f"{counted(summary.done_again, 'image')} done again in fp32: numbers were not finite before")
    if summary.passed_over:
        total = sum(summary.passed_over.values())
        lines.append(f"{counted(total, 'member')} of the tars passed over: {counted_kinds(summary.passed_over)}")
    if summary.drained is not None:
        lines.append(f"stopped on {summary.drained}; the same command goes on from here")
    elif summary.met_limit:
        for shard, images in summary.first_of.items():
            first = counted(images, "image is", "images are")
            lines.append(f"of {shard} only the first {first} there, so it is not done")
        lines.append(_WITHOUT_LIMIT)
    return "\n".join(lines)


def _of_shards(summary: MiningSummary) -> str:
    if summary.first_of:
        return f"of {counted(summary.shards + len(summary.first_of), 'shard')}"
    return f"in {counted(summary.shards, 'shard')}"


def _next_step(summary: MiningSummary, allowed: Sequence[str]) -> list[str]:
    """What to look at, once all is done or there are images for a first look.

    `allowed` are the options that a command needs to open the shards.
    """
    if summary.drained is not None or not (summary.images or summary.shards):
        return []
    if summary.added_maps or (summary.done < summary.total and summary.limit is None):
        return []
    if summary.done < summary.total:
        return next_step(("gallery", summary.run, "--output", summary.run / "first-look", "--overwrite", *allowed))
    look = ("gallery", summary.run, "--output", summary.run / "gallery", "--overwrite", *allowed)
    ranked = [("evaluate", summary.run)] if summary.has_queries else []
    return next_step(look, ("stats", summary.run, "--by", "camid"), *ranked)
