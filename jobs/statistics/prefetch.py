"""An iterator that runs ahead in a thread of its own."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class _Made(Generic[T]):
    """One item, an error, or neither: the end."""

    items: Sequence[T] = ()
    error: BaseException | None = None


def prefetched(items: Iterator[T], ahead: int) -> Iterator[T]:
    """The same items in the same order, up to `ahead` of them made while the caller is busy with earlier ones.

    What making one raises is raised here. A caller that stops early stops the thread.
    """
    made: queue.Queue[_Made[T]] = queue.Queue(ahead)
    stopped = threading.Event()

    def put(item: _Made[T]) -> bool:
        while not stopped.is_set():
            try:
                made.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def make() -> None:
        try:
            for item in items:
                if not put(_Made(items=[item])):
                    return
            put(_Made())
        except BaseException as error:  # raised again in the caller's thread
            put(_Made(error=error))

    thread = threading.Thread(target=make, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            step = made.get()
            if step.error is not None:
                raise step.error
            if not step.items:
                return
            yield from step.items
    finally:
        stopped.set()
        thread.join()
