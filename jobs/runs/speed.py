"""How fast a run goes lately, and how long the rest takes at that rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jobs.runs.events import ShardEvent
from jobs.shards.urls import Shard

_WINDOW_SECONDS = 1800.0  # the rate is that of the last half hour of the log


@dataclass(frozen=True, kw_only=True)
class Speed:
    """`rate` is in images per second, all workers together. None means unknown.

    `seconds_left` is the time that the shards which are not done take at that rate. `idle` is the number of seconds
    since the last shard ended.
    """

    rate: float | None = None
    seconds_left: float | None = None
    idle: float | None = None


def speed_of(events: Sequence[ShardEvent], done: Sequence[Shard], undone: Sequence[Shard], now: float) -> Speed:
    """The speed by the events of a run, which are sorted by time; `now` is in seconds since 1970.

    Where a clock has jumped back, times would be negative: these are unknown.
    """
    useful = [event for event in events if event.error is None and event.images]
    if not useful:
        return Speed()
    last = useful[-1].time
    idle = now - last if now >= last else None
    recent = [event for event in useful if last - event.time <= _WINDOW_SECONDS]
    elapsed = last - recent[0].started
    if elapsed <= 0:
        return Speed(idle=idle)
    return Speed(
        rate=sum(event.images for event in recent) / elapsed,
        seconds_left=elapsed * _left_per_recent({event.shard for event in recent}, done, undone),
        idle=idle,
    )


def _left_per_recent(recent: set[str], done: Sequence[Shard], undone: Sequence[Shard]) -> float:
    """How many times the work of the recent shards is left: by bytes where all sizes are known, else by number."""
    if any(shard.size is None for shard in (*done, *undone)):  # only local shards have a known size
        return len(undone) / len(recent)
    covered = sum(shard.size or 0 for shard in done if shard.name in recent)
    return sum(shard.size or 0 for shard in undone) / max(1, covered)
