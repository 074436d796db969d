"""`promptsg status`: what of a run is done, failed or missing, how fast it goes, and what to look at (no torch)."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click

from jobs.errors import EXIT_OK, UserError
from jobs.launch.split import block_of
from jobs.progress import duration
from jobs.runs.events import read_events
from jobs.runs.footer import read_footer
from jobs.runs.layout import RunLayout
from jobs.runs.manifest import Manifest, read_manifest
from jobs.shards.samples import KEPT
from jobs.shards.urls import Shard
from jobs.submission.queue import queued_elements

_MANY = 10
_WINDOW_SECONDS = 1800.0  # of the latest events, from which the rate is taken
_IDLE_SECONDS = 600.0


@dataclass(frozen=True, kw_only=True)
class Status:
    """Counts over a run.

    failed: shard -> why its last attempt failed; missing: never finished; images: with maps; failed_images: without,
    by reason; partial_images: kept without the target's maps. rate: images a second of all workers together, lately;
    seconds_left: at that rate, by the shards' sizes; idle: seconds since the last shard ended; None is unknown.
    queue: SLURM's state -> array elements of this run, where squeue is there.
    """

    root: str
    shards: int
    done: int
    failed: dict[str, str]
    missing: list[str]
    images: int
    failed_images: dict[str, int] = field(default_factory=dict)
    partial_images: dict[str, int] = field(default_factory=dict)
    zero_maps: dict[str, int] = field(default_factory=dict)
    rate: float | None = None
    seconds_left: float | None = None
    idle: float | None = None
    queue: dict[str, list[str]] = field(default_factory=dict)


def status_of(root: Path) -> Status:
    """The state of a run. Raises UserError if the folder is not one.

    What is done is told by the published files; the counts come from the event log, and from a file's own footer
    where the worker died before it could log.
    """
    layout = RunLayout(root)
    manifest = read_manifest(layout)
    names = [shard.name for shard in manifest.shards]
    done = layout.done() & set(names)
    failed: dict[str, str] = {}
    reports: dict[str, dict[str, Any]] = {}
    events = list(read_events(layout.logs))
    for event in events:
        if event.get("error") is None:
            reports[event["shard"]] = event
        else:
            failed[event["shard"]] = event["error"]
    failed = {name: error for name, error in failed.items() if name not in done}
    totals: dict[str, Counter[str]] = {"failed": Counter(), "partial": Counter(), "zero_maps": Counter()}
    images = 0
    for name in done:
        report = reports.get(name) or _from_footer(layout, name)
        images += report["images"]
        for kind, counter in totals.items():
            counter.update(report.get(kind, {}))
    undone = [shard for shard in manifest.shards if shard.name not in done]
    rate, left, idle = _speed(events, [shard for shard in manifest.shards if shard.name in done], undone, time.time())
    return Status(
        root=str(root),
        shards=len(names),
        done=len(done),
        failed=failed,
        missing=[name for name in names if name not in done and name not in failed],
        images=images,
        failed_images=dict(totals["failed"]),
        partial_images=dict(totals["partial"]),
        zero_maps={name: count for name, count in totals["zero_maps"].items() if count},
        rate=rate,
        seconds_left=left,
        idle=idle,
        queue=queued_elements(layout),
    )


def _from_footer(layout: RunLayout, shard: str) -> dict[str, Any]:
    try:
        footer = read_footer(layout.shard_metadata(shard))
    except UserError:  # `verify` names it; the other shards still count
        return {"images": 0, "failed": {"metadata_damaged": 1}, "partial": {}, "zero_maps": {}}
    return asdict(footer)


def _speed(
    events: Sequence[dict[str, Any]], done: Sequence[Shard], undone: Sequence[Shard], now: float
) -> tuple[float | None, float | None, float | None]:
    """(images a second, seconds left, seconds since the last event), each None where it cannot be told.

    A clock that jumped back gives negative times: then nothing is said.
    """
    good = [event for event in events if event.get("error") is None and event.get("images")]
    if not good:
        return None, None, None
    last = good[-1]["time"]
    idle = now - last if now >= last else None
    lately = [event for event in good if last - event["time"] <= _WINDOW_SECONDS]
    first = lately[0]
    started = first["time"] - first["seconds_reading"] - first["seconds_model"] - first["seconds_writing"]
    elapsed = last - min(started, last)
    if elapsed <= 0:
        return None, None, idle
    names = {event["shard"] for event in lately}
    rate = sum(event["images"] for event in lately) / elapsed
    if None in [shard.size for shard in [*done, *undone]]:  # sizes of what is not a local file are not known
        share = len(undone) / max(1, len(names))
    else:
        covered = sum(shard.size or 0 for shard in done if shard.name in names)
        share = sum(shard.size or 0 for shard in undone) / max(1, covered)
    return rate, elapsed * share, idle


def failed_inputs(root: Path, status: Status) -> Iterator[dict[str, str]]:
    """What to look at: each failed shard, then each failed sample, with the reason."""
    import pyarrow.parquet as pq

    layout = RunLayout(root)
    urls = {shard.name: shard.url for shard in read_manifest(layout).shards}
    for name, error in status.failed.items():
        yield {"shard": name, "input": urls[name], "status": "shard_failed", "error": error}
    for name in sorted(layout.done() & urls.keys()):
        if not read_footer(layout.shard_metadata(name)).failed:
            continue
        table = pq.read_table(layout.shard_metadata(name), columns=["key", "status", "error"])
        for row in table.to_pylist():
            if row["status"] not in KEPT:
                yield {
                    "shard": name,
                    "input": f"{urls[name]}#{row['key']}",
                    "status": row["status"],
                    "error": row["error"],
                }


def missing_elements(manifest: Manifest, done: set[str], array_count: int) -> list[int]:
    """Array elements (0-based) whose block of the shard list is not all done."""
    names = [shard.name for shard in manifest.shards]
    return [
        element
        for element in range(array_count)
        if any(names[position] not in done for position in block_of(len(names), element, array_count))
    ]


def array_specification(numbers: Sequence[int]) -> str:
    """Rising numbers as Slurm writes them: 0-3,7,9-12."""
    parts: list[tuple[int, int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1] = (parts[-1][0], number)
        else:
            parts.append((number, number))
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


@click.command(name="status", short_help="Say what of a run is done, failed or missing.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.option("--failed", "list_failed", is_flag=True, help="List the shards and images that failed, with the reason.")
@click.option("--missing", "list_missing", is_flag=True, help="Print the array elements to run again, such as 0-3,7.")
@click.option("--array-count", type=click.IntRange(1), help="Elements that the shard list is split over.  [default: as "
              "submitted, else one for each shard]")  # fmt: skip
def command(run: Path, as_json: bool, list_failed: bool, list_missing: bool, array_count: int | None) -> None:
    """Say what of RUN is done, failed or missing, how fast it goes, and how many images failed for which reason.

    \b
    Example:
      promptsg status RUN
      promptsg status RUN --failed
      sbatch --array=$(promptsg status RUN --missing) RUN/slurm/array.sbatch
    """
    status = status_of(run)
    if list_failed:
        for entry in failed_inputs(run, status):
            click.echo(json.dumps(entry, ensure_ascii=False) if as_json else "\t".join(map(str, entry.values())))
    elif list_missing:
        layout = RunLayout(run)
        manifest = read_manifest(layout)
        count = array_count or _submitted_count(layout) or len(manifest.shards)
        click.echo(array_specification(missing_elements(manifest, layout.done(), count)))
    elif as_json:
        click.echo(json.dumps(asdict(status), indent=1, ensure_ascii=False))
    else:
        click.echo(_describe(status))
    sys.exit(EXIT_OK)


def _submitted_count(layout: RunLayout) -> int | None:
    """How many elements `promptsg submit` split the shards over, by the script that it left."""
    try:
        words = (layout.root / "slurm" / "array.sbatch").read_text(encoding="utf-8").split()
        return int(words[words.index("--array-count") + 1])
    except (OSError, ValueError, IndexError):
        return None


def _describe(status: Status) -> str:
    lines = [
        f"{status.root}: {status.done} of {status.shards} shards done, {len(status.failed)} failed, "
        f"{len(status.missing)} missing",
        f"{status.images} images with maps, {sum(status.failed_images.values())} failed",
    ]
    lines += [f"  {count} {reason}" for reason, count in sorted(status.failed_images.items())]
    lines += [f"  {count} {reason}: kept, without the target's maps" for reason, count in status.partial_images.items()]
    lines += [f"  {count} all-zero maps of {name}" for name, count in sorted(status.zero_maps.items())]
    if status.done < status.shards and status.rate is not None:
        left = "" if status.seconds_left is None else f", {duration(status.seconds_left)} left at that rate"
        idle = status.idle is not None and status.idle > _IDLE_SECONDS
        since = f"; no shard has ended for {duration(status.idle or 0)}" if idle else ""
        lines.append(f"{status.rate:.0f} images a second{left}{since}")
    for state, elements in status.queue.items():
        lines.append(f"SLURM: {len(elements)} {state.lower()}: {', '.join(elements[:_MANY])}")
    shown = list(status.failed.items())[:_MANY]
    lines += [f"failed: {error}" for _, error in shown]
    if len(status.failed) > len(shown):
        lines.append(f"... and {len(status.failed) - len(shown)} more failed shards (--failed lists them)")
    if status.done < status.shards:
        lines.append("the command that made the run goes on from here")
    return "\n".join(lines)
