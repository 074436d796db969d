"""`promptsg status`: what of a run is done, failed or missing, how fast it goes, and what to look at."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import click

from jobs.commands.options import PromptsgCommand, echo, json_option, run_argument
from jobs.errors import EXIT_ERROR
from jobs.phrases import counted, json_text, shown
from jobs.progress import duration
from jobs.runs.layout import RunLayout
from jobs.runs.presence.judge import WorkerStatus
from jobs.runs.presence.presence import AT_LIMIT
from jobs.runs.restart import only_parts_compared
from jobs.runs.status import METADATA_DAMAGED, RunStatus, failed_inputs, status
from jobs.submission.array import array_specification, missing_elements
from jobs.submission.queue import queued_elements

_SHOWN = 10
_IDLE_SECONDS = 600.0


@click.command(name="status", cls=PromptsgCommand)
@run_argument
@json_option
@click.option("--failed", "list_failed", is_flag=True, help="List the shards and images that failed, with the reason.")
@click.option("--missing", "list_missing", is_flag=True, help="Print the array elements to run again, such as 0-3,7.")
@click.option("--array-count", type=click.IntRange(1), help="The number of elements that the shard list is split "
              "over.  [default: as submitted, else one for each shard]")  # fmt: skip
def command(run: Path, as_json: bool, list_failed: bool, list_missing: bool, array_count: int | None) -> None:
    """Say what of RUN is done, failed or missing, how fast it goes, and how many images failed for which reason.

    Where a shard's metadata is damaged, the file is named, with what to do, and the exit status is 1.

    \b
    Example:
      promptsg status RUN
      promptsg status RUN --failed
      sbatch --array=$(promptsg status RUN --missing) RUN/slurm/array.sbatch
    """
    found = status(run)
    exit_status = found.exit_status
    if list_failed:
        for entry in failed_inputs(found):
            fields = asdict(entry)
            echo(json_text(fields, None) if as_json else "\t".join(map(shown, fields.values())))
            exit_status = EXIT_ERROR if entry.status == METADATA_DAMAGED else exit_status
    elif list_missing:
        echo(array_specification(missing_elements(run, array_count)))
        for error in found.damaged.values():
            echo(f"promptsg: {error}", err=True)
    else:
        queue = queued_elements(RunLayout(run))
        content = {**asdict(found), "queue": queue}
        echo(json_text(content) if as_json else describe(found, queue))
    sys.exit(exit_status)


def describe(found: RunStatus, queue: Mapping[str, Sequence[str]]) -> str:
    """The state for people. `queue` is SLURM's state -> the elements of this run that have it."""
    lines = [
        f"{found.root}: {found.done} of {counted(found.shards, 'shard')} done, {len(found.failed)} failed, "
        f"{len(found.missing)} missing" + (f"; {len(found.damaged)} damaged" if found.damaged else ""),
        f"{counted(found.images, 'image')} with maps, {sum(found.failed_images.values())} failed",
    ]
    lines += [f"  {count} {reason}" for reason, count in sorted(found.failed_images.items())]
    lines += [f"  {count} {reason}: kept, without the target's maps" for reason, count in found.partial_images.items()]
    lines += [f"  {counted(count, 'all-zero map')} of {name}" for name, count in sorted(found.zero_maps.items())]
    if found.done_again:
        lines.append(f"  {counted(found.done_again, 'image')} done again in fp32: numbers were not finite before")
    if found.begun:
        begun = ", ".join(f"{count} of {name}" for name, count in found.begun.items())
        lines.append(f"first images, by mine --limit: {begun}")
    for added in found.added:
        lines.append(f"maps {added.describe()}")
        lines += [
            f"  {counted(count, 'image')} {reason}: without these maps"
            for reason, count in sorted(added.failed.items())
        ]
        if added.failed:
            lines.append("  the command with --add-maps and --retry-failed adds them again where images lack them")
    lines += _workers(found)
    if found.done < found.shards and found.rate is not None:
        lines.append(_speed(found.rate, found))
    for state, elements in queue.items():
        lines.append(f"SLURM: {len(elements)} {state.lower()}: {', '.join(elements[:_SHOWN])}")
    lines += [f"changed after being mined: {name}: {how}" for name, how in list(found.changed.items())[:_SHOWN]]
    if len(found.changed) > _SHOWN:
        lines.append(f"... and {counted(len(found.changed) - _SHOWN, 'more changed shard')}")
    if found.rewritten:
        lines.append(only_parts_compared(found.rewritten))
    lines += [f"damaged: {error}" for error in list(found.damaged.values())[:_SHOWN]]
    if len(found.damaged) > _SHOWN:
        lines.append(f"... and {counted(len(found.damaged) - _SHOWN, 'more damaged shard')} (--failed lists them)")
    lines += [f"failed: {error}" for error in list(found.failed.values())[:_SHOWN]]
    if len(found.failed) > _SHOWN:
        lines.append(f"... and {counted(len(found.failed) - _SHOWN, 'more failed shard')} (--failed lists them)")
    if found.done < found.shards and not found.is_running and not _will_go_on(queue):
        lines.append(f"run the same command again{', without --limit,' if _had_limit(found) else ''} to continue")
    return "\n".join(lines)


def _will_go_on(queue: Mapping[str, Sequence[str]]) -> bool:
    """Whether SLURM has elements of an array, such as 7_1, that mine: the job that finalizes has a number alone."""
    return any("_" in element for elements in queue.values() for element in elements)


def _had_limit(found: RunStatus) -> bool:
    """Whether the last of the commands was a first try: the same one again would have nothing to do."""
    last = max(found.workers, key=lambda worker: worker.last_sign, default=None)
    return bool(found.begun) or (last is not None and last.because.startswith(AT_LIMIT))


def _workers(found: RunStatus) -> list[str]:
    """Who works on the run, and while it is not finished also who stopped, died or is silent."""
    now = time.time()
    running = [worker for worker in found.workers if worker.state == "running"]
    lines = [_worker(worker, now) for worker in running[:_SHOWN]]
    if len(running) > 1:
        last = max(worker.last_sign for worker in running)
        lines = [f"running: {counted(len(running), 'worker')}, the last sign of life {_ago(last, now)}", *lines]
    if len(running) > _SHOWN:
        lines.append(f"... and {len(running) - _SHOWN} more that are running")
    if found.done == found.shards:
        return lines
    lost = [worker for worker in found.workers if worker.state in ("died", "silent")]
    lines += [_worker(worker, now) for worker in lost[:_SHOWN]]
    if len(lost) > _SHOWN:
        lines.append(f"... and {len(lost) - _SHOWN} more that died or are silent (--json lists them)")
    ended = [worker for worker in found.workers if worker.state == "ended"]
    if ended and not running and not lost:
        lines.append(_worker(max(ended, key=lambda worker: worker.last_sign), now))
    return lines


def _worker(worker: WorkerStatus, now: float) -> str:
    """`died: pid 4242 on node7, last sign of life 3 h ago: its process is gone`."""
    if worker.state == "ended":
        return f"not running: the last worker ended {_ago(worker.last_sign, now)}: {worker.because}"
    return f"{worker.state}: {worker.name}, last sign of life {_ago(worker.last_sign, now)}: {worker.because}"


def _ago(then: float, now: float) -> str:
    """The time since then; clocks of several hosts may differ a little."""
    return f"{duration(max(0.0, now - then))} ago"


def _speed(rate: float, found: RunStatus) -> str:
    line = f"{counted(round(rate), 'image')} a second"
    if found.seconds_left is not None:
        line += f", {duration(found.seconds_left)} left at that rate"
    if found.idle is not None and found.idle > _IDLE_SECONDS:
        line += f"; no shard has ended for {duration(found.idle)}"
    return line
