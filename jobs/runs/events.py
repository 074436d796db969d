"""What became of each shard: a report, and a log of reports that `status` reads, one JSON line per attempt."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class ShardReport:
    """What became of one shard: counts, or the error for which nothing of it was published.

    failed: rows without any map, by reason; partial: rows that lack the target's maps; zero_maps: all-zero maps.
    """

    shard: str
    error: str | None = None
    images: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    partial: dict[str, int] = field(default_factory=dict)
    zero_maps: dict[str, int] = field(default_factory=dict)
    seconds_reading: float = 0.0
    seconds_model: float = 0.0
    seconds_writing: float = 0.0

    @property
    def failed_images(self) -> int:
        """Rows without maps."""
        return sum(self.failed.values())


class EventLog:
    """Appends to logs/shards-<host>-<pid>.jsonl; each worker has its own file, so that no two write to one."""

    def __init__(self, folder: Path) -> None:
        name = f"shards-{os.uname().nodename[:64]}-{os.getpid()}.jsonl"
        self._file = (folder / name).open("a", encoding="utf-8")

    def shard(self, report: ShardReport) -> None:
        """Records what became of a shard; the file system being full must not end the job, so it only warns."""
        line = json.dumps({"time": time.time(), **asdict(report)}, ensure_ascii=False)
        try:
            self._file.write(line + "\n")
            self._file.flush()
        except OSError as error:
            logger.warning("cannot write the event log %s: %s", self._file.name, error.strerror)

    def close(self) -> None:
        """Closes the file; what could not be written has been said."""
        try:
            self._file.close()
        except OSError as error:
            logger.warning("cannot close the event log %s: %s", self._file.name, error.strerror)


def read_events(folder: Path) -> Iterator[dict[str, Any]]:
    """Every event of a run in order of time; a line that a killed worker left half-written is passed over."""
    events = []
    for path in folder.glob("shards-*.jsonl"):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict) and "shard" in event and "time" in event:
                events.append(event)
    return iter(sorted(events, key=lambda event: float(event["time"])))
