"""What became of each shard: a report for each attempt, and the log of them, one JSON line for each."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from jobs.phrases import json_text
from jobs.system_errors import naming

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ShardReport:
    """What became of one shard: counts, or the error because of which nothing of it was published.

    `failed` counts the rows without maps by reason. `partial` counts, by reason, the rows that lack only the target's
    maps. `zero_maps` counts the maps that are zero everywhere, by name. `passed_over` counts, by kind, the members of
    the tar of which nothing was made. `done_again` counts the rows that were computed in fp32, since their numbers were
    not finite in the run's precision. `only_first` says that the shard is not done: only its first images are mined.
    """

    shard: str
    error: str | None = None
    only_first: bool = False
    images: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    partial: dict[str, int] = field(default_factory=dict)
    zero_maps: dict[str, int] = field(default_factory=dict)
    passed_over: dict[str, int] = field(default_factory=dict)
    done_again: int = 0
    seconds_reading: float = 0.0
    seconds_model: float = 0.0
    seconds_writing: float = 0.0

    @property
    def failed_images(self) -> int:
        """The number of rows without maps."""
        return sum(self.failed.values())

    @property
    def rows(self) -> int:
        """The number of rows, with maps and without."""
        return self.images + self.failed_images


@dataclass(frozen=True, kw_only=True)
class ShardEvent(ShardReport):
    """A report in the log, with the time at which the shard ended, in seconds since 1970."""

    time: float

    @property
    def started(self) -> float:
        """When work on the shard began, in seconds since 1970: the time less what reading, model and writing took."""
        return self.time - self.seconds_reading - self.seconds_model - self.seconds_writing


def event_log(folder: Path) -> Path:
    """The log of this process in the folder of a run's logs: each worker has its own, which no other writes to."""
    return folder / f"shards-{os.uname().nodename[:64]}-{os.getpid()}.jsonl"


def event_logs(folder: Path) -> list[Path]:
    """The logs of all workers of a run."""
    return sorted(folder.glob("shards-*.jsonl"))


class EventLog:
    """Appends to logs/shards-<host>-<pid>.jsonl."""

    def __init__(self, folder: Path) -> None:
        self._file = event_log(folder).open("a", encoding="utf-8")

    def shard(self, report: ShardReport) -> None:
        """Records what became of a shard. It only warns if it cannot: a full disk must not end the job here.

        A shard of which only the first images are mined is not done, so nothing has become of it.
        """
        if report.only_first:
            return
        facts = {name: value for name, value in asdict(report).items() if name != "only_first"}
        line = json_text({"time": time.time(), **facts}, indent=None)
        try:
            self._file.write(line + "\n")
            self._file.flush()
        except OSError as error:
            logger.warning("cannot write the event log %s: %s", self._file.name, error.strerror)

    def close(self) -> None:
        """Closes the file."""
        try:
            self._file.close()
        except OSError as error:
            logger.warning("cannot close the event log %s: %s", self._file.name, error.strerror)


_EVENT = TypeAdapter(ShardEvent)


def read_events(folder: Path) -> list[ShardEvent]:
    """All events of a run, sorted by time. Skips lines of other kinds, and what a killed worker left incomplete."""
    found: list[ShardEvent] = []
    for path in event_logs(folder):
        with naming(path):
            lines = path.read_bytes().splitlines()
        found += [event for line in lines if (event := _parse(line)) is not None]
    return sorted(found, key=lambda event: event.time)


def _parse(line: bytes) -> ShardEvent | None:
    """The event of a line; None where the line is not a whole event."""
    try:
        return _EVENT.validate_json(line)
    except ValidationError:
        return None
