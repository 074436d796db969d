"""What is being done and how far it is: bars on a terminal, elsewhere a line every 30 seconds.

Whatever may last more than 3 seconds is a `LongTask`, or a loop over `tracked` items. It says nothing if it is short.
"""

from __future__ import annotations

import functools
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import NoReturn, ParamSpec, Protocol, TypeVar

from tqdm import tqdm

from jobs.logs import bars_are_shown
from jobs.phrases import counted

T = TypeVar("T")
P = ParamSpec("P")

logger = logging.getLogger(__name__)
INTERVAL_SECONDS = 30.0
# What is shorter says nothing. On a terminal a bar that comes and goes disturbs less than a line in a log.
_FIRST_LINE_SECONDS, _FIRST_BAR_SECONDS, _BAR_SECONDS = 3.0, 1.0, 0.5
_BETWEEN_SECONDS = 10.0


class _Between:
    """The time between two lines of all tasks, so that tasks within tasks do not fill the log."""

    def __init__(self) -> None:
        self._lock, self._next = threading.Lock(), 0.0

    def until_next(self) -> float:
        """The seconds until a line may be written; 0 where one is written now."""
        with self._lock:
            now = time.monotonic()
            if now < self._next:
                return self._next - now
            self._next = now + _BETWEEN_SECONDS
            return 0.0


_between = _Between()


class LongTask:
    """Something that may last: says what it is, how long it has been going on, and how far it is.

    A thread says it, also while the work is one long call. Nothing is said of what ends soon; with `at_once` it is said
    before it begins, for work that may stop all threads, such as an import. Where `total` is given, call `advance` for
    each `unit`.

    >>> with LongTask("reading the footers", total=40, unit="shard") as task:
    ...     task.advance(12)      # after 3 seconds: reading the footers: 12 of 40 shards, 7 s left
    """

    def __init__(
        self,
        what: str,
        total: int | None = None,
        unit: str = "step",
        plural: str | None = None,
        *,
        at_once: bool = False,
    ) -> None:
        self.what, self.total, self.unit, self.plural = what, total, unit, plural
        self.count = 0
        self._started = time.monotonic()
        self._at_once = at_once
        self._over = threading.Event()
        self._watch = threading.Thread(
            target=self._show_bar if bars_are_shown() else self._write_lines, daemon=True, name="progress"
        )

    def __enter__(self) -> LongTask:
        if self._at_once:
            logger.info("%s", self.what)
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._watch.join()

    def advance(self, count: int = 1) -> None:
        """So many more units are done."""
        self.count += count

    def line(self) -> str:
        """What is done, how far it is, and the time that is left or has passed."""
        seconds = time.monotonic() - self._started
        if self.total is None:
            done = f": {counted(self.count, self.unit, self.plural)}" if self.count else ""
            return f"{self.what}{done}, {duration(seconds)} so far"
        left = f", {duration(seconds * (self.total / self.count - 1))} left" if self.count else ""
        return f"{self.what}: {self.count:,} of {counted(self.total, self.unit, self.plural)}{left}"

    def _write_lines(self) -> None:
        wait = INTERVAL_SECONDS if self._at_once else _FIRST_LINE_SECONDS
        while not self._over.wait(wait):
            wait = _between.until_next()
            if not wait:
                logger.info("%s", self.line())
                wait = INTERVAL_SECONDS

    def _show_bar(self) -> None:
        if self._over.wait(_FIRST_BAR_SECONDS):
            return
        with tqdm(total=0, bar_format="{desc}", leave=False, dynamic_ncols=True) as bar:
            while True:
                bar.set_description_str(self.line())
                if self._over.wait(_BAR_SECONDS):
                    return


def told(what: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """A function each of whose calls is a `LongTask` of this name."""

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            with LongTask(what):
                return function(*args, **kwargs)

        return call

    return decorate


def loading_torch() -> LongTask:
    """The import of torch: it takes seconds, or minutes from a file system that has not read it lately."""
    return LongTask("loading torch", at_once="torch" not in sys.modules)


def tracked(items: Iterable[T], what: str, unit: str, total: int | None = None) -> Iterator[T]:
    """The items, each counted as done when the next one is asked for. `total` is by default their number if known."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with LongTask(what, total, unit) as task:
        for item in items:
            yield item
            task.advance()


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
        if bars_are_shown() if terminal is None else terminal:
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
            logger.info("%s, %.0f a second, %s", counted(self.images, "image"), self.rate, self._left())

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
