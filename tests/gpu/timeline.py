"""What a GPU did over time: how long it worked, and the gaps in which it waited."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_COPIES = ("Memcpy", "Memset")  # as the profiler calls what is no kernel


@dataclass(frozen=True, kw_only=True)
class Work:
    """A kernel or a copy, from its start to its end in microseconds."""

    name: str
    start: float
    end: float


@dataclass(frozen=True, kw_only=True)
class Gap:
    """Milliseconds in which nothing ran, and what ran before and after."""

    milliseconds: float
    after: str
    before: str


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """Kernels and copies that ran, milliseconds from the first start to the last end and of them with work, largest
    gaps first.
    """

    kernels: int
    copies: int
    span: float
    busy: float
    gaps: tuple[Gap, ...]


def timeline_of(work: Sequence[Work], most_gaps: int = 8) -> Timeline:
    """The timeline of what ran, in any order; what overlaps counts once."""
    ordered = sorted(work, key=lambda one: one.start)
    busy, gaps, last = 0.0, list[Gap](), ordered[0]
    until = last.start
    for one in ordered:
        if one.start > until:
            gaps.append(Gap(milliseconds=round((one.start - until) / 1000, 4), after=last.name, before=one.name))
        busy += max(0.0, one.end - max(one.start, until))
        if one.end > until:
            until, last = one.end, one
    copies = sum(one.name.startswith(_COPIES) for one in ordered)
    return Timeline(
        kernels=len(ordered) - copies,
        copies=copies,
        span=round((until - ordered[0].start) / 1000, 4),
        busy=round(busy / 1000, 4),
        gaps=tuple(sorted(gaps, key=lambda gap: -gap.milliseconds)[:most_gaps]),
    )
