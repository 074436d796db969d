"""Progress: a bar on a terminal, elsewhere a line every 30 seconds with the rate and the time left."""

from __future__ import annotations

import logging
import sys
import time

from tqdm import tqdm

logger = logging.getLogger(__name__)
INTERVAL_SECONDS = 30.0


class Progress:
    """Counts images; the share done is told by the bytes of shards, since tars do not say how many images they hold."""

    def __init__(self, total_bytes: int | None, terminal: bool | None = None) -> None:
        self.total_bytes = total_bytes
        self.images = 0
        self._done_bytes = 0
        self._shard_bytes = 0
        self._started = self._said = time.monotonic()
        self._bar: tqdm | None = None
        if sys.stderr.isatty() if terminal is None else terminal:
            self._bar = tqdm(unit=" images", dynamic_ncols=True, smoothing=0.05, mininterval=0.2)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self, images: int, position: int | None) -> None:
        """Some images more; `position` is the byte reached in the shard in hand, None if it is compressed."""
        self.images += images
        self._shard_bytes = position or self._shard_bytes
        if self._bar is not None:
            self._bar.set_postfix_str(self._left(), refresh=False)
            self._bar.update(images)
        elif time.monotonic() - self._said >= INTERVAL_SECONDS:
            self._said = time.monotonic()
            logger.info("%d images, %.0f a second, %s", self.images, self.rate, self._left())

    def finish_shard(self, size: int | None) -> None:
        """The shard in hand is over, however it ended; `size` in bytes."""
        self._done_bytes += size or 0
        self._shard_bytes = 0

    @property
    def rate(self) -> float:
        """Images a second since the start."""
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
