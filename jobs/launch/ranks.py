"""The ranks of one task share its shards: each draws the next from a counter in torch.distributed's store.

No collectives: a rank that dies leaves its shard undone, and nobody waits for it. Whoever loses the store stops with
one line.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol, TypeVar

from jobs.errors import EXIT_DRAINED, EXIT_ERROR, EXIT_OK, EXIT_SOME_SHARDS_FAILED, UserError
from jobs.launch.environment import Environment

if TYPE_CHECKING:
    from torch.distributed import Store

T = TypeVar("T")

CONNECT_SECONDS = 300.0  # ranks start apart: a cold file system takes minutes to deliver torch to a node
ANSWER_SECONDS = 30.0
BEAT_SECONDS = 5.0
SILENT_SECONDS = 60.0
# What a task answers when its ranks differ: the one that says most about what to do next.
_WORST = (EXIT_OK, EXIT_SOME_SHARDS_FAILED, EXIT_DRAINED, EXIT_ERROR)


class Counter(Protocol):
    """Hands out 0, 1, 2, ... once each."""

    def next(self) -> int:
        """The next number."""


def draw(items: Sequence[T], counter: Counter) -> Iterator[T]:
    """The items that this rank draws, in order; all ranks must pass the same list."""
    while (position := counter.next()) < len(items):
        yield items[position]


class Ranks:
    """The ranks of this task: a counter that they share, and the exit status that they answer with together.

    Use as a context manager around the work. Alone (world_size 1) nothing is connected and torch is not imported.
    Raises UserError where the store cannot be served, reached, or stops answering.
    """

    def __init__(self, environment: Environment, connect_seconds: float = CONNECT_SECONDS) -> None:
        self.environment = environment
        self._alone = environment.world_size == 1
        self._hosts = not self._alone and not environment.agent_store and environment.rank == 0
        self._count = 0
        self._left = threading.Event()
        self._store: Store | None = None if self._alone else self._connect(connect_seconds)

    def __enter__(self) -> Ranks:
        if not self._alone:
            self._beat()
            threading.Thread(target=self._keep_beating, daemon=True, name="rank beat").start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._alone or self._left.is_set():
            return
        if kind is None:
            self.leave(EXIT_OK)
        else:  # on the way out with an error: say so, but do not wait, and do not hide the error behind another
            self._say_left(EXIT_ERROR)

    def next(self) -> int:
        """The next number of the counter that all ranks of this launch share."""
        if self._store is None:
            self._count += 1
            return self._count - 1
        store = self._store
        return int(self._ask(lambda: store.add(self._key("drawn"), 1))) - 1

    def leave(self, status: int) -> int:
        """Says that this rank is done, with its exit status; returns the status to end the process with.

        torchrun kills all ranks when one ends non-zero, so there every rank returns 0 but the last to leave, which
        answers for all. Under srun each answers for itself. The rank that serves the store waits for the others: it
        returns when each has left or has been silent for a minute.
        """
        if self._left.is_set() or self._store is None:
            return status
        last = self._say_left(status)
        if self._hosts:
            self._await_others()
        if self.environment.launcher != "torchrun":
            return status
        if self._hosts:
            return self._worst()
        return (self._worst() if last else EXIT_OK) if self.environment.agent_store else EXIT_OK

    def _say_left(self, status: int) -> bool:
        """Whether this rank is the last to leave."""
        self._left.set()
        store = self._store
        assert store is not None
        try:
            self._ask(lambda: store.add(self._key(f"status/{status}"), 1))
            return int(self._ask(lambda: store.add(self._key("left"), 1))) == self.environment.world_size
        except UserError:
            return False  # the store is gone, and with it whoever could be told

    def _worst(self) -> int:
        store = self._store
        assert store is not None
        seen = [s for s in _WORST if self._ask(lambda s=s: store.add(self._key(f"status/{s}"), 0))]  # type: ignore[misc]
        return seen[-1] if seen else EXIT_OK

    def _await_others(self) -> None:
        """Serves until nobody can want the counter any more."""
        store = self._store
        assert store is not None
        beats: dict[int, tuple[int, float]] = {}
        while int(store.add(self._key("left"), 0)) < self.environment.world_size:
            now = time.monotonic()
            for rank in range(1, self.environment.world_size):
                beat = int(store.add(self._key(f"beat/{rank}"), 0))
                if rank not in beats or beats[rank][0] != beat:
                    beats[rank] = (beat, now)
            if all(now - seen > SILENT_SECONDS for _, seen in beats.values()):
                return
            time.sleep(0.2)

    def _beat(self) -> None:
        store = self._store
        assert store is not None
        self._ask(lambda: store.add(self._key(f"beat/{self.environment.rank}"), 1))

    def _keep_beating(self) -> None:
        while not self._left.wait(BEAT_SECONDS):
            try:
                self._beat()
            except UserError:  # the next draw meets the same and says so
                return

    @property
    def _place(self) -> str:
        return f"{self.environment.address}:{self.environment.port}"

    def _key(self, name: str) -> str:
        return f"promptsg/{self.environment.launch}/{name}"

    def _connect(self, seconds: float) -> Store:
        from torch.distributed import DistError, TCPStore

        environment = self.environment
        assert environment.address is not None and environment.port is not None
        try:
            return TCPStore(
                environment.address,
                environment.port,
                is_master=self._hosts,
                wait_for_workers=False,
                timeout=timedelta(seconds=seconds),
            )
        except (DistError, RuntimeError) as error:
            what = "serve" if self._hosts else "reach"
            advice = "set MASTER_PORT to a free port" if self._hosts else "did rank 0 start?"
            raise UserError(
                f"rank {environment.rank} cannot {what} the ranks' counter at {self._place}: "
                f"{str(error).splitlines()[0]}; {advice}"
            ) from error

    def _ask(self, question: Callable[[], int]) -> int:
        """An answer of the store within ANSWER_SECONDS: a host that vanished without a word would block for ever."""
        answer: list[int] = []
        failure: list[Exception] = []

        def ask() -> None:
            try:
                answer.append(question())
            except Exception as error:
                failure.append(error)

        thread = threading.Thread(target=ask, daemon=True, name="store question")
        thread.start()
        thread.join(ANSWER_SECONDS)
        if answer:
            return answer[0]
        reason = str(failure[0]).splitlines()[0] if failure else f"no answer in {ANSWER_SECONDS:.0f} s"
        raise UserError(
            f"rank {self.environment.rank} lost the ranks' counter at {self._place} ({reason}): the "
            "process that served it has ended; what is done stays done, run the same command again"
        )
