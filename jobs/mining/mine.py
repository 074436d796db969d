"""`promptsg mine`: asks for a run, or goes on with one, and says at the end what it has and what it lacks."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs.atomic import remove_leftovers
from jobs.errors import EXIT_DRAINED, EXIT_OK, EXIT_SOME_SHARDS_FAILED
from jobs.launch.environment import Environment
from jobs.launch.placement import idle_because, place_in_array, refuse_overwrite_by_many
from jobs.launch.ranks import Ranks, draw
from jobs.launch.split import block_of
from jobs.logs import setup_logging
from jobs.mining.config import MineConfig, build_config
from jobs.mining.request import request_of
from jobs.progress import Progress, duration
from jobs.runs.layout import RunLayout
from jobs.runs.manifest import Manifest, create_manifest, read_manifest, refuse_orphans, refuse_other
from jobs.runs.restart import discard_run, has_failed_rows
from jobs.shards.urls import Shard, expand_shards

if TYPE_CHECKING:
    from jobs.mining.model import Loaded
    from jobs.mining.worker import Summary

logger = logging.getLogger(__name__)


@click.command(
    name="mine",
    short_help="Run the model over shards; write maps and metadata.",
    epilog="KEY VALUE pairs at the end are the training code's own settings, such as TEST.NECK_FEAT after.",
)
@click.option("--shards", multiple=True, help="Tar shards: paths, globs, {000..012} ranges, URLs, pipe: commands.")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="The PromptSG checkpoint (.pth or .safetensors).")
@click.option("--output", type=click.Path(path_type=Path), help="The run's folder; an unfinished run is continued.")
@click.option("--config", "file", type=click.Path(path_type=Path), help="A YAML file with any of these settings.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any setting; wins over all others.")
@click.option("--maps", multiple=True, help="A map, such as gradcam++/mim; repeatable.  [default: mim_attention, "
              "gradcam/mim, gradcam++/mim]")  # fmt: skip
@click.option("--target", help="What is differentiated: predicted (default), label, feature or similarity.")
@click.option("--label-map", type=click.Path(path_type=Path), help="JSON of pid to class, for --target label.  "
              "[default: the rank among the training pids]")  # fmt: skip
@click.option("--reference", type=click.Path(path_type=Path), help="An earlier run: with --target similarity each "
              "image is compared with its person's other images there.")  # fmt: skip
@click.option("--reference-split", help="Compare with this split only, such as gallery.")
@click.option("--prompt", "prompts", multiple=True, metavar="[NAME=]TEXT", help="Ask the MIM with your own text: a "
              "further map mim_attention:NAME; an X in it is the person. Repeatable.")  # fmt: skip
@click.option("--attention-heads", help="all: store every head of the MIM's attention beside the mean.")
@click.option("--precision", help="auto (default), bf16, fp16 or fp32.")
@click.option("--device", help="auto (default), cpu, cuda or cuda:N.")
@click.option("--batch-size", type=int, help="Images in one pass.  [default: 64]")
@click.option("--workers", type=int, help="Decoding processes.  [default: by the machine]")
@click.option("--model-settings", type=click.Path(path_type=Path), help="The training code's YAML, for what the "
              "checkpoint cannot tell.")  # fmt: skip
@click.option("--prompt-mode", help="composed (default) or simplified.")
@click.option("--neck-feat", help="before (default) or after.")
@click.option("--overwrite", is_flag=True, help="Start the run anew: says what it deletes, and deletes it.")
@click.option("--retry-failed", is_flag=True, help="Redo the shards that are done but have failed images.")
@click.option("--array-index", type=click.IntRange(0), help="This task's block of the shard list, 0-based.  [default: "
              "by SLURM]")  # fmt: skip
@click.option("--array-count", type=click.IntRange(1), help="Blocks that the list is split into.  [default: by SLURM]")
@click.option("--drain-file", type=click.Path(path_type=Path), help="Stop with status 75 once this file exists.")
@click.argument("overrides", nargs=-1, metavar="[KEY VALUE]...")
def command(
    file: Path | None,
    settings: tuple[str, ...],
    overrides: tuple[str, ...],
    overwrite: bool,
    retry_failed: bool,
    array_index: int | None,
    array_count: int | None,
    drain_file: Path | None,
    **options: Any,
) -> None:
    """Run PromptSG once over every image of the shards; write raw maps (HDF5) and metadata (Parquet).

    \b
    Example:
      promptsg mine --shards 'shards/*.tar' --checkpoint ViT-B-16_60.pth --output RUN
      torchrun --standalone --nproc-per-node=4 -m jobs mine --config RUN.yaml      # one worker per GPU

    The same command again goes on where it stopped. Exit status: 0 all done, 1 error, 2 usage, 3 some shards failed,
    75 stopped on request (run it again).
    """
    setup_logging()
    if overwrite and retry_failed:
        raise click.UsageError("--overwrite deletes what --retry-failed would mend: give one of them")
    environment = place_in_array(
        Environment.from_variables(os.environ, placed=None not in (array_index, array_count)), array_index, array_count
    )
    request = Request(
        overrides=overrides,
        overwrite=overwrite,
        retry_failed=retry_failed,
        drain_file=drain_file,
        environment=environment,
    )
    sys.exit(mine(build_config(file, options, settings, overrides), request))


@dataclass(frozen=True, kw_only=True)
class Request:
    """How to go about a run, as opposed to what it is: none of this changes a result, but for the model's overrides."""

    overrides: tuple[str, ...] = ()
    overwrite: bool = False
    retry_failed: bool = False
    drain_file: Path | None = None
    environment: Environment = field(default_factory=Environment)


def mine(config: MineConfig, request: Request | None = None) -> int:
    """Mines what is not done yet and returns the exit status of the design: 0, 3 or 75."""
    request = request or Request()
    environment = request.environment
    with Ranks(environment) as ranks:
        return ranks.leave(_mine(config, request, ranks))


def _mine(config: MineConfig, request: Request, ranks: Ranks) -> int:
    started = time.monotonic()
    environment = request.environment
    shards = expand_shards(config.shards)
    layout = RunLayout(config.output)
    asked = request_of(config, shards, request.overrides)
    if request.overwrite:
        refuse_overwrite_by_many(environment)
    elif layout.manifest.exists():
        refuse_other(layout, read_manifest(layout), asked)
    else:
        refuse_orphans(layout)
    block = [shards[i] for i in block_of(len(shards), environment.array_index, environment.array_count)]
    if idle := idle_because(environment, len(block)):
        logger.info(idle)
    wanted = _wanted(layout, request)
    todo = list(block) if request.overwrite else _todo(block, layout, wanted)
    if not todo:
        click.echo(f"{len(block)} of {len(block)} shards are done in {config.output}; nothing to do")
        return EXIT_OK
    from jobs.mining.model import load

    # All ranks draw from one list, which must not depend on when they look: what is done is passed over when drawn.
    drawn = (shard for shard in draw(block, ranks) if wanted(shard))
    loaded = load(config, request.overrides, shards, environment)
    if request.overwrite:
        discard_run(layout, lambda what: click.echo(f"overwriting: deleting {what}"))
    manifest = create_manifest(layout, asked, loaded.resolved, checkpoint=str(config.checkpoint), versions=_versions())
    for folder in (layout.maps, layout.metadata):
        for path in remove_leftovers(folder):
            logger.info("removed %s, left by an attempt that died", path)
    summary = _run(loaded, drawn, todo, manifest, config, request)
    return _conclude(summary, block, layout, time.monotonic() - started)


def _todo(block: Sequence[Shard], layout: RunLayout, wanted: Callable[[Shard], bool]) -> list[Shard]:
    """What of a block is to be mined as things stand; one listing tells most of it."""
    done = layout.done()
    return [shard for shard in block if shard.name not in done or wanted(shard)]


def _wanted(layout: RunLayout, request: Request) -> Callable[[Shard], bool]:
    """Whether a shard is to be mined, looked at when it is drawn: another worker may have been faster."""

    def wanted(shard: Shard) -> bool:
        if not layout.shard_metadata(shard.name).exists():
            return True
        return request.retry_failed and has_failed_rows(layout, shard.name)

    return wanted


def _run(
    loaded: Loaded,
    drawn: Iterable[Shard],
    todo: Sequence[Shard],
    manifest: Manifest,
    config: MineConfig,
    request: Request,
) -> Summary:
    from tqdm.contrib.logging import logging_redirect_tqdm

    from jobs.launch.drain import Drain
    from jobs.mining.worker import Worker
    from jobs.shards.reader import default_workers

    environment = request.environment
    device = loaded.model.image_encoder.proj.device
    workers = config.workers
    if workers is None:
        workers = default_workers(device.type, environment.local_world_size)
    sizes = [shard.size for shard in todo]
    total = None if None in sizes else sum(size or 0 for size in sizes) // environment.world_size
    precision = manifest.resolved.precision
    logger.info("%d shards to do on %s in %s; %s", len(todo), device, precision, ", ".join(config.maps))
    with Drain(request.drain_file, environment.deadline) as drain, logging_redirect_tqdm(), Progress(total) as progress:
        worker = Worker(
            loaded.model,
            config,
            manifest,
            loaded.targets,
            progress=progress,
            drain=drain,
            replace=request.retry_failed,
        )
        return worker.run(drawn, workers)


def _conclude(summary: Summary, block: Sequence[Shard], layout: RunLayout, seconds: float) -> int:
    """Prints the outcome and returns the exit status."""
    done = layout.done()
    click.echo(
        f"{summary.images} images in {summary.shards} shards, {duration(seconds)}; "
        f"{summary.failed_images} images failed, {summary.partial_images} lack a target, "
        f"{summary.zero_maps} maps are all zero; "
        f"{sum(shard.name in done for shard in block)} of {len(block)} shards are done in {layout.root}"
    )
    if summary.drained:
        click.echo(f"stopped on {summary.drained}; the same command goes on from here")
        return EXIT_DRAINED
    for report in summary.failed_shards:
        click.echo(f"failed: {report.error}", err=True)
    return EXIT_SOME_SHARDS_FAILED if summary.failed_shards else EXIT_OK


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for package in ("promptsg-attention", "torch", "torchvision", "h5py", "pyarrow", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # run from a checkout that was never installed
            found[package] = "not installed"
    return found
