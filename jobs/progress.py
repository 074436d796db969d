"""Progress of mining: a bar on a terminal, elsewhere a line every 30 seconds with the rate and the time left."""

from __future__ import annotations

import logging
import sys
import time
from typing import NoReturn, Protocol

from tqdm import tqdm

logger = logging.getLogger(__name__)
INTERVAL_SECONDS = 30.0


class ShardProgress(Protocol):
    """What a worker tells of its progress."""

    def advance(self, images: int, position: int | None) -> None:
        """Counts more images; `position` is the byte reached in the current shard, None if it is compressed."""

    def finish_shard(self, size: int | None) -> None:
        """The current shard has ended, whether it succeeded or not; `size` is in bytes."""


class Progress:
    """Counts images, and shows the rate and the time left.

    The share that is done is estimated from the sizes of the shards, because a tar does not say how many images it
    holds. `total_bytes` is the size of all shards, None if it is not known. `terminal` chooses the bar; by default the
    bar is shown where standard error is a terminal.
    """

    def __init__(self, total_bytes: int | None, terminal: bool | None = None) -> None:
        self.total_bytes = total_bytes
        self.images = 0
        self._done_bytes = 0
        self._shard_bytes = 0
        self._started = self._last_line = time.monotonic()
        self._bar: tqdm[NoReturn] | None = None
        if sys.stderr.isatty() if terminal is None else terminal:
            self._bar = tqdm(unit=" images", dynamic_ncols=True, smoothing=0.05, mininterval=0.2)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self, images: int, position: int | None) -> None:
        """Counts more images; `position` is the byte reached in the current shard, None if it is compressed."""
        self.images += images
        self._shard_bytes = position or self._shard_bytes
        if self._bar is not None:
            self._bar.set_postfix_str(self._left(), refresh=False)
            self._bar.update(images)
        elif time.monotonic() - self._last_line >= INTERVAL_SECONDS:
            self._last_line = time.monotonic()
            logger.info("%d images, %.0f a second, %s", self.images, self.rate, self._left())

    def finish_shard(self, size: int | None) -> None:
        """The current shard has ended, whether it succeeded or not; `size` is in bytes."""
        self._done_bytes += size or 0
        self._shard_bytes = 0

    @property
    def rate(self) -> float:
        """Images per second since the start."""
        return self.images / max(1e-9, time.monotonic() - self._started)

    def _left(self) -> str:
        if not self.total_bytes:
            return "time left unknown"
        share = min(1.0, (self._done_bytes + self._shard_bytes) / self.total_bytes)
        if share <= 0:
            return "0 %"
        seconds = (time.monotonic() - self._started) * (1 - share) / share
        return f"{100 * share:.0f} %, {duration(seconds)} left"


def duration(seconds: float) -> str:
    """A time as people say it: 42 s, 12 min, 3 h 05 min, 4 d 2 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02d} min"
    return f"{hours // 24} d {hours % 24} h"
