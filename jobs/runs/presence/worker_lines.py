"""The lines of a worker in its event log: that it began, which process it is, and that it ended."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from jobs.runs.presence.process_mark import ProcessMark


@dataclass(frozen=True, kw_only=True)
class WorkerPlace:
    """Which part of the work is a worker's: its rank of `ranks`, in element `array_index` of `array_count`; from 0."""

    rank: int = 0
    ranks: int = 1
    array_index: int = 0
    array_count: int = 1


@dataclass(frozen=True, kw_only=True)
class WorkerBegan:
    """A worker has begun, at `began` by its host's clock, in seconds since 1970.

    `inode` is that of the log: in a copy of the run it is another, and the time of the copy is no sign of life. Some
    file systems, such as sshfs, number files anew, so that another inode alone is not proof of a copy.
    """

    host: str
    pid: int
    began: float
    place: WorkerPlace
    mark: ProcessMark | None = None
    inode: int | None = None


@dataclass(frozen=True, kw_only=True)
class WorkerEnded:
    """A worker has ended in order, at `ended`, and `how`."""

    ended: float
    how: str


_LINE = TypeAdapter(WorkerBegan | WorkerEnded)


def read_worker(path: Path) -> tuple[WorkerBegan, WorkerEnded | None] | None:
    """The last worker that wrote into an event log, and its end if it said one. None where none wrote.

    A process number is given again, so that two workers may share a log. Raises OSError.
    """
    began: WorkerBegan | None = None
    ended: WorkerEnded | None = None
    for line in path.read_bytes().splitlines():
        if b'"began"' not in line and b'"ended"' not in line:  # a shard's, of which there are many
            continue
        try:
            found = _LINE.validate_json(line)
        except ValidationError:
            continue
        if isinstance(found, WorkerBegan):
            began, ended = found, None
        else:
            ended = found
    return None if began is None else (began, ended)
