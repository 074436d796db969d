"""The iterator that runs ahead: order, errors, and a caller that stops."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from jobs.statistics.prefetch import in_threads, prefetched


def test_items_come_in_order_and_at_most_so_many_ahead() -> None:
    made: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(20):
            made.append(number)
            yield number

    items = prefetched(numbers(), 3)
    assert next(items) == 0
    time.sleep(0.2)
    assert len(made) <= 1 + 3 + 1  # taken, waiting, and the one that finds no room
    assert list(items) == list(range(1, 20)) and made == list(range(20))
    odd = [None, 0, "", ValueError("an item")]
    assert list(prefetched(iter(odd), 1)) == odd


def test_an_error_comes_behind_the_items_before_it() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise OSError("gone")

    items = prefetched(broken(), 4)
    assert next(items) == 1
    with pytest.raises(OSError, match="gone"):
        next(items)


def test_a_caller_that_stops_early_leaves_no_thread() -> None:
    before = threading.active_count()
    items = prefetched(iter(range(1000)), 2)
    assert next(items) == 0
    items.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_work_in_threads_keeps_the_order_and_takes_few_items_ahead() -> None:
    taken: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(50):
            taken.append(number)
            yield number

    done = in_threads(lambda number: number * number, numbers(), 3)
    assert next(done) == 0 and len(taken) == 4
    assert list(done) == [number * number for number in range(1, 50)]


def test_an_error_of_the_work_comes_behind_the_results_before_it() -> None:
    before = threading.active_count()
    done = in_threads(lambda number: 1 // (2 - number), iter(range(5)), 1)
    assert next(done) == 0 and next(done) == 1
    with pytest.raises(ZeroDivisionError):
        next(done)
    assert threading.active_count() == before
