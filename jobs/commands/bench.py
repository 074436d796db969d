"""`promptsg bench`: how fast this machine mines these shards with this checkpoint, and what a dataset will take."""

from __future__ import annotations

import json
import math
import tempfile
from dataclasses import asdict
from pathlib import Path

import click

from jobs.benchmark.bench import LIMIT, SECONDS, BenchConfig, bench
from jobs.benchmark.report import BenchReport
from jobs.commands.options import (
    PRECISION_HELP,
    PromptsgCommand,
    echo,
    image_size_option,
    json_option,
    option_with_default,
    prompt_option,
    target_option,
    weights_key_option,
)
from jobs.mining.config import build_config


@click.command(name="bench", cls=PromptsgCommand)
@click.option("--shards", multiple=True, help="Tar shards, as for mine: paths, globs, {000..012} ranges, URLs.")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="The checkpoint (.pth or .safetensors).")
@weights_key_option
@click.option("--maps", multiple=True, help="A map to mine. Repeatable.  [default: as mine]")
@target_option
@prompt_option
@click.option("--precision", help=f"{PRECISION_HELP}  [default: auto]")
@click.option("--device", help="auto (default), cpu, cuda or cuda:N.")
@click.option("--workers", type=int, help="The number of decoding processes.  [default: by the machine]")
@click.option("--model-settings", type=click.Path(path_type=Path), help="The training code's YAML.")
@image_size_option
@click.option("--prompt-mode", help="composed (default) or simplified.")
@click.option("--images", type=click.IntRange(1), help="The size of the dataset to estimate for, in images.  [default: "
              "that of the shards]")  # fmt: skip
@option_with_default("--limit", type=click.IntRange(1), default=LIMIT, help="Read at most this many "
              "images.")  # fmt: skip
@option_with_default("--seconds", type=click.FloatRange(0.01), default=SECONDS, help="Measure each part "
              "for about this long. The whole job takes ten times that.")  # fmt: skip
@click.option("--folder", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Write the temporary run "
              "here: choose the file system that the real run will be on.  [default: the system's]")  # fmt: skip
@json_option
def command(
    shards: tuple[str, ...],
    checkpoint: Path | None,
    weights_key: str | None,
    maps: tuple[str, ...],
    target: str | None,
    prompts: tuple[str, ...],
    precision: str | None,
    device: str | None,
    workers: int | None,
    model_settings: Path | None,
    image_size: str | None,
    prompt_mode: str | None,
    images: int | None,
    limit: int,
    seconds: float,
    folder: Path | None,
    as_json: bool,
) -> None:
    """Measure reading, decoding, model and writing, alone and together, and estimate what the dataset takes.

    Batches of up to 256 images are tried, on a GPU of up to 1024, as far as the memory suffices. Needs about a minute
    on two cores. Nothing stays behind.

    \b
    Example:
      promptsg bench --shards 'shards/*.tar' --checkpoint ViT-B-16_60.pth
      promptsg bench --shards 'shards/*.tar' --checkpoint ViT-B-16_60.pth --images 100000000 --json
    """
    options = {
        "shards": shards,
        "checkpoint": checkpoint,
        "weights_key": weights_key,
        "maps": maps,
        "target": target,
        "prompts": prompts,
        "precision": precision,
        "device": device,
        "workers": workers,
        "model_settings": model_settings,
        "image_size": image_size,
        "prompt_mode": prompt_mode,
        "output": folder or Path(tempfile.gettempdir()),
    }
    mining = build_config(None, options)
    report = bench(BenchConfig(mining=mining, limit=limit, seconds=seconds, images=images))
    echo(as_json_text(report) if as_json else describe(report))


def as_json_text(report: BenchReport) -> str:
    """The report as JSON; the rates under the names that people read."""
    return json.dumps({**asdict(report), "rates": report.rates.by_name()}, indent=1)


def describe(report: BenchReport) -> str:
    """The report for people."""
    rates = report.rates
    head = f"{report.device}, {report.precision}, {report.threads} threads, load {report.load:.1f}; "
    return "\n".join(
        [
            head + ", ".join(report.maps),
            "",
            f"{'images per second':24s}{f'each stage alone, batches of {report.batch_size}':>20s}",
            *(f"  {name:22s}{rate:12,.1f}" for name, rate in rates.by_name().items()),
            f"  (the whole job runs at {rates.whole_job / rates.model:.2f} of the model's speed)",
            "",
            "batch size  images/s  peak memory",
            *_tried_lines(report),
            "",
            *_estimate_lines(report),
        ]
    )


def _tried_lines(report: BenchReport) -> list[str]:
    lines = []
    for one in report.tried:
        memory = "-" if one.peak_bytes is None else f"{one.peak_bytes / 2**30:.2f} GiB"
        best = "  best" if one.batch_size == report.batch_size else ""
        lines.append(f"{one.batch_size:10d}{one.images_per_second:10,.1f}{memory:>13s}{best}")
    return lines if report.sweep_stopped is None else [*lines, f"  {report.sweep_stopped}"]


def _estimate_lines(report: BenchReport) -> list[str]:
    cost = report.estimate
    unit = "CPU worker" if report.device == "cpu" else "GPU"
    return [
        f"{cost.images:,} images: {cost.worker_hours:,.2f} {unit} hours, {cost.output_bytes / 1e9:,.2f} GB of output;",
        f"  promptsg submit --array-tasks {cost.array_elements} --time {clock(cost.hours_each)} "
        f"--set batch_size={report.batch_size}   (one worker per task)",
    ]


def clock(hours: float) -> str:
    """Hours as SLURM writes time limits, rounded up to ten minutes: 1:20:00."""
    minutes = 10 * max(1, math.ceil(hours * 6))
    return f"{minutes // 60}:{minutes % 60:02d}:00"
