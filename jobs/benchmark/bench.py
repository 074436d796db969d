"""`promptsg bench`: how fast this machine mines these shards with this checkpoint, and what a dataset will take."""

from __future__ import annotations

import json
import math
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs.benchmark.job import rate_of_job, rate_of_writing
from jobs.benchmark.stages import (
    Tried,
    decode_all,
    rate_of_model,
    rates_of_stages,
    read_some,
    repeated,
    try_batch_sizes,
)
from jobs.mining.config import MineConfig, build_config
from jobs.shards.urls import expand_shards

if TYPE_CHECKING:
    from jobs.mining.model import Loaded
LIMIT = 512
_HOURS = 4.0  # of an array element: scheduled soon, and long beside loading the model
_SPARE = 1.25  # of the estimated time, for uneven shards and busy file systems


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a dataset takes: hours of one worker in all, array elements and the hours of each, bytes of output."""

    images: int
    worker_hours: float
    array_elements: int
    hours_each: float
    output_bytes: int


@dataclass(frozen=True, kw_only=True)
class Report:
    """rates: images per second of each stage alone, of the `model` (all its stages and the copies to and from the
    device) and of the `whole job`, all stages overlapping; the model is timed before and after the job and is the mean
    of both, not the figure in `tried`. `load` is the machine's average before."""

    device: str
    precision: str
    threads: int
    load: float
    maps: tuple[str, ...]
    images_read: int
    batch_size: int
    tried: list[Tried]
    rates: dict[str, float]
    peak_bytes: int | None
    estimate: Estimate


def bench(config: MineConfig, loaded: Loaded, *, limit: int, seconds: float, images: int | None = None) -> Report:
    """Measures on at most `limit` images, with about `seconds` for each part; a whole job takes ten times that.

    `images` is the size of the dataset to estimate for, by default that of the shards. Raises UserError if no image
    of the shards decodes.
    """
    import torch

    load, device = os.getloadavg()[0], loaded.model.image_encoder.proj.device
    shards = expand_shards(config.shards)
    read = read_some(shards, limit)
    pixels, decoding = decode_all(read, loaded.model.config.image_size, config)
    rates = {"reading": len(read.images) / read.seconds, "decoding, one process": len(read.images) / decoding}
    tried = try_batch_sizes(loaded, pixels, config, seconds)
    best = max(tried, key=lambda one: one.images_per_second)
    batch = repeated(pixels, best.batch_size)
    rates |= rates_of_stages(loaded.model, batch, config, seconds)
    chosen = config.model_copy(update={"batch_size": best.batch_size})
    batches = max(4, math.ceil(10 * seconds * best.images_per_second / best.batch_size))
    rates["writing"] = rate_of_writing(chosen, loaded, shards, batch, batches)
    # The fastest of several sizes is partly luck, and machines drift: the model is timed again, before and after.
    before = rate_of_model(loaded, batch, chosen, seconds)
    whole, size = rate_of_job(chosen, loaded, shards, read, batches)
    rates |= {"model": (before + rate_of_model(loaded, batch, chosen, seconds)) / 2, "whole job": whole}
    count = read.total if images is None else images
    return Report(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        precision=str(loaded.resolved.precision),
        threads=torch.get_num_threads(),
        load=load,
        maps=config.maps,
        images_read=len(read.images),
        batch_size=best.batch_size,
        tried=tried,
        rates=rates,
        peak_bytes=best.peak_bytes,
        estimate=estimate(count, rates["whole job"], size, max(1, round(len(shards) * count / read.total))),
    )


def estimate(images: int, rate: float, bytes_each: int, shards: int) -> Estimate:
    """At `rate` images per second and worker, with a quarter to spare; no more elements than there are shards."""
    hours = images / rate / 3600
    elements = min(shards, max(1, math.ceil(hours * _SPARE / _HOURS)))
    return Estimate(
        images=images,
        worker_hours=hours,
        array_elements=elements,
        hours_each=hours * _SPARE / elements,
        output_bytes=images * bytes_each,
    )


@click.command(name="bench", short_help="Measure the speed of mining here, and estimate what a dataset takes.")
@click.option("--shards", multiple=True, help="Tar shards, as for mine: paths, globs, {000..012} ranges, URLs.")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="The PromptSG checkpoint (.pth or .safetensors).")
@click.option("--maps", multiple=True, help="A map to mine; repeatable.  [default: as mine]")
@click.option("--precision", help="auto (default), bf16, fp16 or fp32.")
@click.option("--device", help="auto (default), cpu, cuda or cuda:N.")
@click.option("--workers", type=int, help="Decoding processes.  [default: by the machine]")
@click.option("--model-settings", type=click.Path(path_type=Path), help="The training code's YAML.")
@click.option("--prompt-mode", help="composed (default) or simplified.")
@click.option("--images", type=click.IntRange(1), help="Size of the dataset to estimate for.  [default: the shards']")
@click.option("--limit", type=click.IntRange(1), default=LIMIT, show_default=True, help="Images to read at most.")
@click.option("--seconds", type=click.FloatRange(0.01), default=1.5, show_default=True, help="For each part; the whole "
              "job takes ten times that.")  # fmt: skip
@click.option("--folder", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Write the temporary run "
              "here: the file system that the real one will be on.  [default: the system's]")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def command(images: int | None, limit: int, seconds: float, folder: Path | None, as_json: bool, **options: Any) -> None:
    """Measure reading, decoding, model and writing, alone and together, and estimate what the dataset takes.

    Needs about a minute on two cores; nothing stays behind.

    \b
    Example:
      promptsg bench --shards 'shards/*.tar' --checkpoint ViT-B-16_60.pth
      promptsg bench --shards 'shards/*.tar' --checkpoint ViT-B-16_60.pth --images 100000000 --json
    """
    from jobs.mining.model import load

    config = build_config(None, {**options, "output": folder or Path(tempfile.gettempdir())})
    report = bench(config, load(config, (), expand_shards(config.shards)), limit=limit, seconds=seconds, images=images)
    click.echo(json.dumps(asdict(report), indent=1) if as_json else describe(report))


def describe(report: Report) -> str:
    """The report for people."""
    load = f"load {report.load:.1f}"
    lines = [f"{report.device}, {report.precision}, {report.threads} threads, {load}; {', '.join(report.maps)}", ""]
    lines.append(f"{'images per second':24s}{'each stage alone, batches of ' + str(report.batch_size):>20s}")
    lines += [f"  {name:22s}{rate:12,.1f}" for name, rate in report.rates.items()]
    share = report.rates["whole job"] / report.rates["model"]
    lines += [f"  (the whole job runs at {share:.2f} of the model's speed)", "", "batch size  images/s  peak memory"]
    for one in report.tried:
        memory = "-" if one.peak_bytes is None else f"{one.peak_bytes / 2**30:.2f} GiB"
        best = "  best" if one.batch_size == report.batch_size else ""
        lines.append(f"{one.batch_size:10d}{one.images_per_second:10,.1f}{memory:>13s}{best}")
    cost = report.estimate
    unit = "CPU worker" if report.device == "cpu" else "GPU"
    lines += [
        "",
        f"{cost.images:,} images: {cost.worker_hours:,.2f} {unit} hours, {cost.output_bytes / 1e9:,.2f} GB of output;",
        f"  promptsg submit --array-tasks {cost.array_elements} --time {clock(cost.hours_each)} "
        f"--set batch_size={report.batch_size}   (one worker per task)",
    ]
    return "\n".join(lines)


def clock(hours: float) -> str:
    """Hours as SLURM writes time limits, rounded up to ten minutes: 1:20:00."""
    minutes = 10 * max(1, math.ceil(hours * 6))
    return f"{minutes // 60}:{minutes % 60:02d}:00"
