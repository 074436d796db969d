"""The ranks of one task share its shards: each draws the next from a counter that they share.

There are no collectives: a rank that dies leaves its shard undone, and nobody waits for it. A rank that loses the
counter stops with one line.
"""

from __future__ import annotations

import threading
import time
from collections import Counter as Counts
from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar

from jobs.errors import EXIT_DRAINED, EXIT_ERROR, EXIT_OK, EXIT_SOME_SHARDS_FAILED, UserError
from jobs.launch.environment import Environment
from jobs.launch.store import SharedCounters

T = TypeVar("T")

CONNECT_SECONDS = 300.0  # ranks start apart: a cold file system takes minutes to deliver torch to a node
BEAT_SECONDS = 5.0
SILENT_SECONDS = 60.0
_LOOK_SECONDS = 0.2
# From best to worst. If the ranks of a task differ, the worst is the task's: it says most about what to do next.
_STATUSES = (EXIT_OK, EXIT_SOME_SHARDS_FAILED, EXIT_DRAINED, EXIT_ERROR)


class Counter(Protocol):
    """Hands out 0, 1, 2, ... once each, counts ranks and calls by a name, and keeps the first number proposed."""

    def next(self) -> int:
        """The next number."""

    def count(self, name: str) -> int:
        """How many ranks have called this with the name so far, this one included."""

    def one_more(self, name: str) -> int:
        """How often all ranks have called this with the name so far, this call included."""

    def propose(self, name: str, number: int) -> None:
        """Proposes a number, which counts unless another rank has proposed one under the name before."""

    def proposed(self, name: str) -> int:
        """The number that counts; 0 where it is not known yet."""


def draw(items: Sequence[T], counter: Counter) -> Iterator[T]:
    """The items that this rank draws, in order; all ranks must pass the same list."""
    while (position := counter.next()) < len(items):
        yield items[position]


class Ranks:
    """The ranks of this task: a counter that they share, and the exit status that they agree on.

    Use as a context manager around the work. Alone (world_size 1) nothing is connected and torch is not imported.
    Raises UserError where the counter cannot be served or reached, or does not answer.
    """

    def __init__(self, environment: Environment, connect_seconds: float = CONNECT_SECONDS) -> None:
        self.environment = environment
        self._serves = environment.rank == 0 and not environment.agent_store
        self._drawn_alone = 0
        self._counts_alone: Counts[str] = Counts()
        self._proposed_alone: dict[str, int] = {}
        self._left = threading.Event()
        self._counters: SharedCounters | None = None
        if environment.world_size > 1:
            self._counters = SharedCounters(environment, serves=self._serves, connect_seconds=connect_seconds)

    def __enter__(self) -> Ranks:
        if self._counters is not None:
            self._beat(self._counters)
            threading.Thread(target=self._keep_beating, args=(self._counters,), daemon=True, name="rank beat").start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._counters is None or self._left.is_set():
            return
        if kind is None:
            self.leave(EXIT_OK)
        else:  # an error is on its way out: the others are told, but nothing may delay or hide it
            self._say_left(self._counters, EXIT_ERROR)

    def next(self) -> int:
        """The next number of the counter that all ranks of this launch share."""
        if self._counters is not None:
            return self._counters.add("drawn", 1) - 1
        self._drawn_alone += 1
        return self._drawn_alone - 1

    def count(self, name: str) -> int:
        """How many ranks of this launch have called this with the name so far, this one included."""
        if self._counters is not None:
            return self._counters.add(f"count/{name}", 1)
        return 1

    def one_more(self, name: str) -> int:
        """How often all ranks of this launch have called this with the name so far, this call included."""
        if self._counters is not None:
            return self._counters.add(f"tally/{name}", 1)
        self._counts_alone[name] += 1
        return self._counts_alone[name]

    def propose(self, name: str, number: int) -> None:
        """Proposes a number, which counts unless another rank has proposed one under the name before."""
        if self._counters is None:
            self._proposed_alone.setdefault(name, number)
        elif self._counters.add(f"proposals/{name}", 1) == 1:
            self._counters.add(f"proposed/{name}", number)

    def proposed(self, name: str) -> int:
        """The number that counts; 0 where it is not known yet."""
        if self._counters is not None:
            return self._counters.add(f"proposed/{name}", 0)
        return self._proposed_alone.get(name, 0)

    def leave(self, status: int) -> int:
        """Says that this rank is done, with its exit status; returns the status to end the process with.

        torchrun kills all ranks when one ends with another status than 0. So there every rank returns 0 but one, which
        answers for all: the rank that serves the counter, else the last to leave. Under srun each answers for itself.
        The rank that serves the counter waits until each of the others has left or was silent for a minute.
        """
        if self._counters is None or self._left.is_set():
            return status
        is_last = self._say_left(self._counters, status)
        if self._serves:
            self._await_others(self._counters)
        if self.environment.launcher != "torchrun":
            return status
        answers_for_all = is_last if self.environment.agent_store else self._serves
        return self._worst_status(self._counters) if answers_for_all else EXIT_OK

    def _say_left(self, counters: SharedCounters, status: int) -> bool:
        """Whether this rank is the last to leave."""
        self._left.set()
        try:
            counters.add(f"status/{status}", 1)
            return counters.add("left", 1) == self.environment.world_size
        except UserError:
            return False  # the counter is lost, and with it the way to tell the others

    def _worst_status(self, counters: SharedCounters) -> int:
        reported = [status for status in _STATUSES if counters.add(f"status/{status}", 0)]
        return reported[-1] if reported else EXIT_OK

    def _await_others(self, counters: SharedCounters) -> None:
        """Serves until every other rank has left or has been silent for too long."""
        others = range(1, self.environment.world_size)
        beats = dict.fromkeys(others, -1)
        heard = dict.fromkeys(others, time.monotonic())
        while counters.add("left", 0) < self.environment.world_size:
            now = time.monotonic()
            for rank in others:
                if (beat := counters.add(f"beat/{rank}", 0)) != beats[rank]:
                    beats[rank], heard[rank] = beat, now
            if all(now - last > SILENT_SECONDS for last in heard.values()):
                return
            time.sleep(_LOOK_SECONDS)

    def _beat(self, counters: SharedCounters) -> None:
        counters.add(f"beat/{self.environment.rank}", 1)

    def _keep_beating(self, counters: SharedCounters) -> None:
        while not self._left.wait(BEAT_SECONDS):
            try:
                self._beat(counters)
            except UserError:  # the next draw meets the same error and reports it
                return
