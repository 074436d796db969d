"""`promptsg bench`: how fast this machine mines these shards with this checkpoint, and what a dataset will take."""

from __future__ import annotations

import contextlib
import json
import math
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import cast

import click
import yaml

from jobs.benchmark.bench import LIMIT, SECONDS, BenchConfig, bench
from jobs.benchmark.report import BenchReport
from jobs.cli import repeated
from jobs.commands.options import (
    PRECISION_HELP,
    PromptsgCommand,
    echo,
    head_and_camera_options,
    image_size_option,
    json_option,
    option_with_default,
    prompt_option,
    prompt_set_option,
    target_option,
    weights_key_option,
)
from jobs.mining.config import build_config
from jobs.phrases import counted, json_text

_WIDE = 110  # characters of a line
_BUSY = 0.5  # of the cores were in use when the measurement began


@click.command(name="bench", cls=PromptsgCommand)
@click.option("--shards", multiple=True, help="Tar shards, as for mine: paths, globs, {000..012} ranges, URLs.")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="The checkpoint (.pth or .safetensors).")
@weights_key_option
@click.option("--maps", multiple=True, help="A map to mine. Repeatable.  [default: as mine]")
@target_option
@prompt_option
@prompt_set_option
@click.option("--precision", help=f"{PRECISION_HELP}  [default: auto]")
@click.option("--device", help="auto (default), cpu, cuda or cuda:N.")
@click.option("--workers", type=int, help="The number of decoding processes.  [default: by the machine]")
@click.option("--model-settings", type=click.Path(path_type=Path), help="The training code's YAML.")
@image_size_option
@click.option("--prompt-mode", help="composed (default) or simplified.")
@click.option("--neck-feat", help="before (default) or after.")
@head_and_camera_options
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
    images: int | None, limit: int, seconds: float, folder: Path | None, as_json: bool, **values: object
) -> None:
    """Measure reading, decoding, model and writing, alone and together, and estimate what the dataset takes.

    Batches of up to 256 images are tried, on a GPU of up to 1024, as far as the memory suffices. Needs about a minute
    on two cores. Nothing stays behind. The last lines are a `promptsg submit` for these shards, with what was given
    here: paste it, and give --partition and the like as your cluster needs them.

    \b
    Example:
      promptsg bench --shards 'shards/*.tar' --checkpoint ViT-B-16_60.pth
      promptsg bench --shards 'shards/*.tar' --checkpoint ViT-B-16_60.pth --images 100000000 --json
    """
    mining = build_config(None, {**values, "output": folder or Path(tempfile.gettempdir())})
    report = bench(BenchConfig(mining=mining, limit=limit, seconds=seconds, images=images))
    echo(as_json_text(report) if as_json else describe(report, values))


def as_json_text(report: BenchReport) -> str:
    """The report as JSON; the rates under the names that people read."""
    return json.dumps({**asdict(report), "rates": report.rates.by_name()}, indent=1)


def describe(report: BenchReport, given: Mapping[str, object] | None = None) -> str:
    """The report for people. `given` are the settings of mine that were given, for the command at the end."""
    rates = report.rates
    head = f"{report.device}, {report.precision}, {report.threads} threads, load {report.load:.1f}; "
    return "\n".join(
        [
            head + ", ".join(report.maps),
            *_busy_lines(report),
            "",
            f"{'images per second':24s}{f'each stage alone, batches of {report.batch_size}':>20s}",
            *(f"  {name:22s}{rate:12,.1f}" for name, rate in rates.by_name().items()),
            f"  (the whole job runs at {rates.whole_job / rates.model:.2f} of the model's speed)",
            "",
            "batch size  images/s  peak memory",
            *_tried_lines(report),
            "",
            *_estimate_lines(report),
            *_submit_lines(report, given or {}),
        ]
    )


def _busy_lines(report: BenchReport) -> list[str]:
    """A warning where other work ran on this machine when it began."""
    if report.load < _BUSY * report.cores:
        return []
    cores = counted(report.cores, "core")
    return [f"warning: other work ran beside this ({cores}, load {report.load:.1f}): the figures are too low"]


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
    about = "" if report.images_known else "about "
    hours, size = cost.worker_hours, cost.output_bytes
    time = f"{hours:,.1f} hours" if hours >= 1 else counted(max(1, math.ceil(60 * hours)), "minute")
    room = f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{max(1, math.ceil(size / 1e6))} MB"
    images = f"{about}{counted(cost.images, 'image takes', 'images take')}"
    lines = [f"{images} about {time} of one {unit}, and about {room} of output"]
    if cost.host_bytes is not None:
        # Not in the command: a cluster that does not know its nodes' memory refuses each that requests some.
        memory = cost.host_bytes >> 30
        lines.append(
            f"a worker needs about {memory} GB of memory; where memory is counted, add --sbatch-arg mem={memory}G"
        )
    return [*lines, "to submit it, with a quarter of the time to spare:"]


def _submit_lines(report: BenchReport, given: Mapping[str, object]) -> list[str]:
    """The command that mines the shards with what was given here and found to be best, as a shell reads it."""
    cost = report.estimate
    settings = {name: value for name, value in given.items() if value not in (None, ())}
    if "shards" in settings:
        settings["shards"] = _short(cast("tuple[str, ...]", settings["shards"]))
    if report.device != "cpu":  # cuda:1 is a place on this machine
        settings.pop("device", None)
    measured = {"batch_size": report.batch_size}
    words = ["--array-tasks", cost.array_elements, "--time", clock(cost.hours_each)]
    sets = [f"{name}={_as_yaml(value)}" for name, value in {**settings, "output": "RUN", **measured}.items()]
    job = ["--gpus-per-task", 0, "--cpus-per-task", report.cores] if report.device == "cpu" else ["--gpus-per-task", 1]
    parts: list[Sequence[object]] = [["promptsg", "submit", *words, *repeated("--set", sets[:1])]]
    parts += [["--set", one] for one in sets[1:]]
    return _folded([shlex.join(map(str, part)) for part in (*parts, job)])


def _folded(parts: Sequence[str]) -> list[str]:
    """The parts of a command on lines of moderate width, each of which but the last goes on with a backslash."""
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + len(part) < _WIDE:
            lines[-1] += f" {part}"
        else:
            lines.append(f"  {part}" if not lines else f"    {part}")
    return [*(f"{line} \\" for line in lines[:-1]), *lines[-1:]]


def _short(shards: Sequence[str]) -> Sequence[str]:
    """One pattern in the place of the tars of a folder that a shell made of it."""
    folder = Path(shards[0]).parent
    pattern = str(folder / "*.tar")
    if len(shards) > 1 and sorted(map(Path, shards)) == sorted(folder.glob("*.tar")):
        return (pattern,)
    return shards


def _as_yaml(value: object) -> str:
    """A value as --set reads it back. JSON is YAML; a text that YAML would take for something else is quoted."""
    items = [str(one) if isinstance(one, Path) else one for one in (value if isinstance(value, tuple) else (value,))]
    if len(items) == 1 and isinstance(items[0], str):
        with contextlib.suppress(yaml.YAMLError):
            if yaml.safe_load(items[0]) == items[0]:
                return items[0]
    return json_text(items if isinstance(value, tuple) else items[0], None)


def clock(hours: float) -> str:
    """Hours as SLURM writes time limits, rounded up to ten minutes: 1:20:00."""
    minutes = 10 * max(1, math.ceil(hours * 6))
    return f"{minutes // 60}:{minutes % 60:02d}:00"
