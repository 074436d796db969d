"""The state of a run: which shards and images are done, failed or missing, and how fast it goes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from jobs.errors import UserError
from jobs.runs.events import ShardReport, read_events
from jobs.runs.footer import read_footer, read_rows
from jobs.runs.layout import RunLayout
from jobs.runs.manifest import read_manifest
from jobs.runs.speed import speed_of
from jobs.shards.samples import KEPT

SHARD_FAILED = "shard_failed"


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """Counts over a run.

    Each shard is done, or failed (its name, and why its last attempt failed), or missing. `images` have maps.
    `failed_images` counts those without maps by reason. `partial_images` counts, by reason, those that lack only the
    target's maps. `zero_maps` counts the maps that are zero everywhere, by name.

    `rate` is in images per second, all workers together, lately. `seconds_left` is the time that the rest takes at that
    rate. `idle` is the number of seconds since the last shard ended. None means unknown.
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


@dataclass(frozen=True, kw_only=True)
class FailedInput:
    """A failed shard, whose `input` is its address, or a failed image, whose `input` is `address#key`."""

    shard: str
    input: str
    status: str
    error: str | None


def status(run: str | Path) -> RunStatus:
    """The state of a run. Raises UserError if the folder is not a run.

    A shard is done if its files are published. The counts come from the event log, or from the footer of a shard's
    metadata where the worker died before it could write to the log.
    """
    layout = RunLayout(Path(run))
    shards = read_manifest(layout).shards
    published = layout.done()
    done = [shard for shard in shards if shard.name in published]
    undone = {shard.name: shard for shard in shards if shard.name not in published}
    events = read_events(layout.logs)
    succeeded = {event.shard: event for event in events if event.error is None}
    errors = {event.shard: event.error for event in events if event.error is not None}
    reports = [succeeded.get(shard.name) or _report_of_footer(layout, shard.name) for shard in done]
    speed = speed_of(events, done, list(undone.values()), time.time())
    return RunStatus(
        root=str(run),
        shards=len(shards),
        done=len(done),
        failed={name: error for name, error in errors.items() if name in undone},
        missing=[name for name in undone if name not in errors],
        images=sum(report.images for report in reports),
        failed_images=_total([report.failed for report in reports]),
        partial_images=_total([report.partial for report in reports]),
        zero_maps={name: count for name, count in _total([report.zero_maps for report in reports]).items() if count},
        rate=speed.rate,
        seconds_left=speed.seconds_left,
        idle=speed.idle,
    )


def failed_inputs(status: RunStatus) -> Iterator[FailedInput]:
    """First each failed shard of a run, then each failed image of the shards that are done.

    Raises UserError where a shard's metadata is damaged.
    """
    layout = RunLayout(Path(status.root))
    urls = {shard.name: shard.url for shard in read_manifest(layout).shards}
    for name, error in status.failed.items():
        yield FailedInput(shard=name, input=urls[name], status=SHARD_FAILED, error=error)
    for name in sorted(layout.done() & urls.keys()):
        yield from _failed_images(layout, name, urls[name])


def _report_of_footer(layout: RunLayout, shard: str) -> ShardReport:
    """The report of a published shard by the footer of its metadata."""
    try:
        footer = read_footer(layout.shard_metadata(shard))
    except UserError:  # `verify` names the damage; the other shards still count
        return ShardReport(shard=shard, failed={"metadata_damaged": 1})
    return ShardReport(
        shard=shard,
        images=footer.images,
        failed=dict(footer.failed),
        partial=dict(footer.partial),
        zero_maps=dict(footer.zero_maps),
    )


def _total(counts: list[dict[str, int]]) -> dict[str, int]:
    """The sums of several counts, name by name."""
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(total)


def _failed_images(layout: RunLayout, shard: str, url: str) -> Iterator[FailedInput]:
    path = layout.shard_metadata(shard)
    if not read_footer(path).failed:
        return
    for row in read_rows(path, ["key", "status", "error"]).to_pylist():
        if row["status"] not in KEPT:
            yield FailedInput(shard=shard, input=f"{url}#{row['key']}", status=row["status"], error=row["error"])
