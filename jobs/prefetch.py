"""An iterator that runs ahead in a thread of its own."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import TypeVar

T = TypeVar("T")


def prefetched(items: Iterator[T], ahead: int) -> Iterator[T]:
    """The same items in the same order, up to `ahead` of them made while the caller is busy with earlier ones.

    What making one raises is raised here. A caller that stops early stops the thread.
    """
    made: queue.Queue[tuple[bool, T | BaseException | None]] = queue.Queue(ahead)
    stopped = threading.Event()

    def put(last: bool, item: T | BaseException | None) -> bool:
        while not stopped.is_set():
            try:
                made.put((last, item), timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def make() -> None:
        try:
            for item in items:
                if not put(False, item):
                    return
            put(True, None)
        except BaseException as error:  # raised again in the caller's thread
            put(True, error)

    thread = threading.Thread(target=make, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            last, item = made.get()
            if isinstance(item, BaseException):
                raise item
            if last:
                return
            yield item  # type: ignore[misc]
    finally:
        stopped.set()
        thread.join()
