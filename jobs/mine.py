"""`promptsg mine`: asks for a run, or goes on with one, and says at the end what it has and what it lacks."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs.commit import remove_leftovers
from jobs.config import MineConfig, build_config
from jobs.errors import EXIT_DRAINED, EXIT_OK, EXIT_SOME_SHARDS_FAILED
from jobs.layout import RunLayout
from jobs.logs import setup_logging
from jobs.manifest import Manifest, asked_by, create_manifest, read_manifest, refuse_other
from jobs.progress import Progress, duration
from jobs.shards import Shard, expand_shards

if TYPE_CHECKING:
    from jobs.batch_targets import TargetSource
    from jobs.pipeline import Summary
    from promptsg_core.model import PromptSG

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
@click.argument("overrides", nargs=-1, metavar="[KEY VALUE]...")
def command(file: Path | None, settings: tuple[str, ...], overrides: tuple[str, ...], **options: Any) -> None:
    """Run PromptSG once over every image of the shards; write raw maps (HDF5) and metadata (Parquet).

    \b
    Example:
      promptsg mine --shards 'shards/*.tar' --checkpoint ViT-B-16_60.pth --output RUN

    The same command again goes on where it stopped. Exit status: 0 all done, 1 error, 2 usage, 3 some shards failed,
    75 stopped on request (run it again).
    """
    setup_logging()
    sys.exit(mine(build_config(file, _with_checkpoint(options, overrides), settings), overrides))


def _with_checkpoint(options: Mapping[str, Any], overrides: tuple[str, ...]) -> dict[str, Any]:
    """Fills in the checkpoint from TEST.WEIGHT where no option names one."""
    if options.get("checkpoint") is not None or not (overrides or options.get("model_settings")):
        return dict(options)
    from promptsg_core.settings import read_settings

    weight = read_settings(options.get("model_settings"), overrides).weight
    return {**options, "checkpoint": Path(weight) if weight else None}


def mine(config: MineConfig, overrides: tuple[str, ...] = ()) -> int:
    """Mines what is not done yet and returns the exit status of the design: 0, 3 or 75."""
    started = time.monotonic()
    shards = expand_shards(config.shards)
    layout = RunLayout(config.output)
    asked = asked_by(config, shards)
    asked["asked"]["overrides"] = list(overrides)
    if layout.manifest.exists():
        refuse_other(layout, read_manifest(layout), asked)
    done = layout.done()
    todo = [shard for shard in shards if shard.name not in done]
    if not todo:
        click.echo(f"{len(shards)} of {len(shards)} shards are done in {config.output}; nothing to do")
        return EXIT_OK
    model, manifest, targets = _start(config, overrides, layout, asked, shards)
    summary = _run(model, todo, config, manifest, targets)
    return _conclude(summary, len(shards), layout, time.monotonic() - started)


def _start(
    config: MineConfig,
    overrides: tuple[str, ...],
    layout: RunLayout,
    asked: dict[str, Any],
    shards: Sequence[Shard],
) -> tuple[PromptSG, Manifest, TargetSource]:
    """Loads the model, checks that every map can be had, and only then creates the run or joins it."""
    from cam.extract import check_reachable
    from cam.names import parse_names
    from jobs.batch_targets import target_source
    from promptsg_core.checkpoint import load_model
    from promptsg_core.precision import resolve_device, resolve_precision
    from promptsg_core.settings import read_settings
    from promptsg_core.tokenise import make_prompt

    device = resolve_device(config.device)
    precision = resolve_precision(config.precision, device)
    prompts = {name: make_prompt(text) for name, text in config.prompts.items()}
    given = {"prompt_mode": config.prompt_mode, "neck_feat": config.neck_feat, "reweight": config.reweight}
    model = load_model(
        config.checkpoint,
        device=str(device),
        precision=precision,
        settings=read_settings(config.model_settings, overrides),
        **given,
    )
    model.prompts.update(prompts)
    names = parse_names(config.maps)
    check_reachable(model, names, config.target, config.gradcam_plus_plus)
    targets = target_source(config, shards, model)
    resolved = {"precision": precision, "model": model.config.to_dict()}
    manifest = create_manifest(layout, asked, resolved, {"checkpoint": str(config.checkpoint), "versions": _versions()})
    for folder in (layout.maps, layout.metadata):
        for path in remove_leftovers(folder):
            logger.info("removed %s, left by an attempt that died", path)
    return model, manifest, targets


def _run(model: PromptSG, todo: list[Shard], config: MineConfig, manifest: Manifest, targets: TargetSource) -> Summary:
    from tqdm.contrib.logging import logging_redirect_tqdm

    from jobs.drain import Drain
    from jobs.pipeline import run_worker
    from jobs.reader import default_workers

    device = model.image_encoder.proj.device
    workers = default_workers(device.type) if config.workers is None else config.workers
    sizes = [shard.size for shard in todo]
    total = None if None in sizes else sum(size or 0 for size in sizes)
    resolved = manifest.content["resolved"]["precision"]
    logger.info("%d shards to do on %s in %s; %s", len(todo), device, resolved, ", ".join(config.maps))
    with Drain() as drain, logging_redirect_tqdm(), Progress(total) as progress:
        return run_worker(model, todo, config, manifest, targets, workers=workers, progress=progress, drain=drain)


def _conclude(summary: Summary, total: int, layout: RunLayout, seconds: float) -> int:
    """Prints the outcome and returns the exit status."""
    done = len(layout.done())
    click.echo(
        f"{summary.images} images in {summary.shards} shards, {duration(seconds)}; "
        f"{summary.failed_images} images failed, {summary.partial_images} lack a target, "
        f"{summary.zero_maps} maps are all zero; "
        f"{done} of {total} shards are done in {layout.root}"
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
