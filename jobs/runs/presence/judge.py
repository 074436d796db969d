"""Who works on a run now: running, ended in order, died, or silent, with how that is known.

Hosts have clocks of their own, and processes of other hosts cannot be looked at. So a worker is only said to have died
where its own machine says that the process is gone. Elsewhere it is silent, once it has been so for 10 minutes: SLURM
itself needs clocks that agree within 5.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jobs.progress import duration
from jobs.runs.events import event_logs
from jobs.runs.presence.worker_lines import WorkerBegan, WorkerEnded, read_worker

SILENT_SECONDS = 600.0  # twenty beats
WorkerState = Literal["running", "ended", "died", "silent"]


@dataclass(frozen=True, kw_only=True)
class WorkerStatus:
    """A worker of a run. Times are in seconds since 1970; `because` says how its state is known.

    `last_sign` is the time of its event log, which it touches every half minute, or of its end.
    """

    host: str
    pid: int
    rank: int
    ranks: int
    array_index: int
    array_count: int
    began: float
    last_sign: float
    state: WorkerState
    because: str

    @property
    def name(self) -> str:
        """`rank 1/4 of element 3, pid 4242 on node7`: as little as tells it from the others."""
        parts = [f"rank {self.rank}/{self.ranks}"] if self.ranks > 1 else []
        parts += [f"element {self.array_index}/{self.array_count}"] if self.array_count > 1 else []
        return ", ".join([*parts, f"pid {self.pid} on {self.host}"])


def workers_of(logs: Path, now: float) -> list[WorkerStatus]:
    """The last worker of each place, in order; a worker whose work another took over later is left out."""
    found = list(_all_workers(logs, now))
    last = [one for one in found if one.state == "running" or not _is_taken_over(one, found)]
    return sorted(last, key=lambda one: (one.array_index, one.rank, one.began))


def _all_workers(logs: Path, now: float) -> Iterator[WorkerStatus]:
    for path in event_logs(logs):
        with contextlib.suppress(OSError):  # of what is not there, nothing is said
            facts, read = path.stat(), read_worker(path)
            if read is not None:
                is_own = read[0].inode in (None, facts.st_ino)
                yield _judged(*read, facts.st_mtime, now, is_own=is_own)


def _judged(began: WorkerBegan, ended: WorkerEnded | None, touched: float, now: float, *, is_own: bool) -> WorkerStatus:
    state, because = _state(began, ended, touched, now, is_own=is_own)
    return WorkerStatus(
        host=began.host,
        pid=began.pid,
        rank=began.place.rank,
        ranks=began.place.ranks,
        array_index=began.place.array_index,
        array_count=began.place.array_count,
        began=began.began,
        last_sign=touched if ended is None else ended.ended,
        state=state,
        because=because,
    )


def _state(
    began: WorkerBegan, ended: WorkerEnded | None, touched: float, now: float, *, is_own: bool
) -> tuple[WorkerState, str]:
    """A worker's state, and how it is known. The log `is_own` unless its inode is not the one that the worker saw."""
    if ended is not None:
        return "ended", ended.how
    seen = "unknown" if began.mark is None else began.mark.seen_from_here()
    if seen == "alive" and (is_own or 0 <= now - touched <= SILENT_SECONDS):  # nobody touches a copy for long
        return "running", "its process is on this machine"
    if seen == "gone":
        return "died", "its process is no longer on this machine, and did not say that it ended"
    if not is_own:
        return "silent", "its log is a copy, or the file system numbers files anew: its time is no sign of life"
    if touched - now > SILENT_SECONDS:
        return "silent", f"the time of its log is {duration(touched - now)} ahead of this host's clock"
    if now - touched > SILENT_SECONDS:
        return "silent", "its process cannot be looked at from here; it may have died, or its host may be cut off"
    return "running", f"its log was touched {duration(max(0.0, now - touched))} ago"


def _is_taken_over(one: WorkerStatus, others: Sequence[WorkerStatus]) -> bool:
    """Whether a later launch has the work of a worker that is not running any more."""
    return any(
        other.began > one.last_sign and (other.array_index == one.array_index or other.array_count != one.array_count)
        for other in others
        if other is not one
    )
