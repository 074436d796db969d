"""Iterators whose items are made in threads, ahead of the caller."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
Result = TypeVar("Result")


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


def in_threads(work: Callable[[T], Result], items: Iterable[T], threads: int) -> Iterator[Result]:
    """What `work` makes of each item, in their order, by so many threads; a few items more than these are taken ahead.

    `work` should not hold Python's lock for long. What it raises is raised here, behind the results before it.
    """
    pool = ThreadPoolExecutor(threads, "work")
    try:
        waiting: deque[Future[Result]] = deque()
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
