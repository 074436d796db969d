"""Drawing in several processes: tasks go out as they are made, results come back as they are done."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

import cv2

from jobs.errors import UserError
from jobs.processes import start_worker

Task = TypeVar("Task")
Result = TypeVar("Result")
_WAITING_PER_PROCESS = 3


def in_processes(work: Callable[[Task], Result], tasks: Iterable[Task], workers: int) -> Iterator[tuple[Task, Result]]:
    """Each task with its result. With one worker, this process does the work, in the order of the tasks.

    More workers are processes. A few tasks wait for each of them, never all, and results come in the order in which
    they are done. `work` is sent to a process with every task: give a function of a module, or a method of a small
    object. What it raises is raised here. Raises UserError if a process is killed.
    """
    if workers == 1:
        yield from ((task, work(task)) for task in tasks)
        return
    # Not forked: threads of Arrow and DuckDB are running.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_start) as pool:
        waiting: dict[Future[Result], Task] = {}
        try:
            for task in tasks:
                waiting[pool.submit(work, task)] = task
                while len(waiting) >= _WAITING_PER_PROCESS * workers:
                    yield from _finished(waiting)
            while waiting:
                yield from _finished(waiting)
        except BrokenProcessPool as error:
            raise UserError("a drawing process was killed, perhaps for want of memory; try fewer --workers") from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _finished(waiting: dict[Future[Result], Task]) -> Iterator[tuple[Task, Result]]:
    """Waits for at least one result, and takes what is done out of `waiting`."""
    for future in wait(waiting, return_when=FIRST_COMPLETED).done:
        yield waiting.pop(future), future.result()


def _start() -> None:
    """Runs once in each process."""
    start_worker()
    cv2.setNumThreads(1)
