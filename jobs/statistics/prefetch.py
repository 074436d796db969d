"""An iterator that runs ahead of its caller, in a thread of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class _NoMore:
    """What stands behind the last item."""


def prefetched(items: Iterator[T], ahead: int) -> Iterator[T]:
    """The same items in the same order; up to `ahead` of them are made while the caller works on earlier ones.

    An error in making one is raised here, behind the items before it. A caller that stops early stops the thread.
    """
    end = _NoMore()
    pool = ThreadPoolExecutor(1, "prefetch")  # one thread, so that items are made one after the other
    try:
        waiting: deque[Future[T | _NoMore]] = deque(pool.submit(next, items, end) for _ in range(ahead))
        while True:
            item = waiting.popleft().result()
            if isinstance(item, _NoMore):
                return
            waiting.append(pool.submit(next, items, end))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)
