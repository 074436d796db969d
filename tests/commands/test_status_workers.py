"""What `promptsg status` says of the workers of a run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import pytest

from jobs.commands.status import describe
from jobs.runs.presence.judge import WorkerState, WorkerStatus
from jobs.runs.presence.presence import AT_LIMIT
from jobs.runs.status import RunStatus

AGAIN = "run the same command again to continue"


def worker(state: WorkerState, because: str, *, rank: int = 0, ranks: int = 1, ago: float = 12.4) -> WorkerStatus:
    now = time.time()
    return WorkerStatus(
        host="node7",
        pid=4242,
        rank=rank,
        ranks=ranks,
        array_index=0,
        array_count=1,
        began=now - ago - 60,
        last_sign=now - ago,
        state=state,
        because=because,
    )


def said(
    workers: Sequence[WorkerStatus], *, done: int = 1, queue: Mapping[str, Sequence[str]] = {}, **more: object
) -> list[str]:
    found = RunStatus(
        root="RUN", shards=3, done=done, failed={}, missing=["b"], images=7, workers=list(workers), **more
    )  # type: ignore[arg-type]
    return describe(found, queue).split("\n")[2:]


def test_those_that_run_are_told_and_nobody_is_asked_to_run_it_again() -> None:
    two = [worker("running", "its process is on this machine", rank=rank, ranks=2) for rank in (0, 1)]
    sign = "pid 4242 on node7, last sign of life 12 s ago: its process is on this machine"
    assert said(two) == [
        "running: 2 workers, the last sign of life 12 s ago",
        f"running: rank 0/2, {sign}",
        f"running: rank 1/2, {sign}",
    ]
    assert said(two[:1]) == [f"running: rank 0/2, {sign}"]


@pytest.mark.parametrize("state", ["died", "silent"])
def test_those_that_are_lost_are_told_beside_those_that_run(state: WorkerState) -> None:
    lost = worker(state, "how it is known", rank=1, ranks=2, ago=3 * 3600)
    line = f"{state}: rank 1/2, pid 4242 on node7, last sign of life 3 h 00 min ago: how it is known"
    assert said([lost]) == [line, AGAIN]
    assert said([lost], done=3) == []  # the work is done all the same
    assert said([worker("running", "it is"), lost])[-1] == line


def test_the_end_of_the_last_one_is_told_where_nobody_works() -> None:
    ended = [worker("ended", "done", ago=9000), worker("ended", "stopped on SIGTERM", ago=3 * 3600)]
    assert said(ended) == ["not running: the last worker ended 2 h 30 min ago: done", AGAIN]
    assert said([]) == [AGAIN]
    assert said(ended, done=3) == []


def test_after_a_first_try_the_same_command_is_not_the_way_on() -> None:
    """It has nothing to do: its limit is reached."""
    without = "run the same command again, without --limit, to continue"
    limited = worker("ended", f"{AT_LIMIT} of 20", ago=60)
    assert said([limited]) == [
        "not running: the last worker ended 60 s ago: stopped at its --limit of 20",
        without,
    ]
    assert said([], begun={"query-0": 3})[-1] == without
    assert said([limited, worker("ended", "stopped on SIGTERM")])[-1] == AGAIN  # of a later command
    assert said([limited], done=3) == []


def test_what_waits_in_the_queue_is_not_to_be_started_again() -> None:
    for state in ("PENDING", "RUNNING"):
        assert said([], queue={state: ["7_1"]}) == [f"SLURM: 1 {state.lower()}: 7_1"]
    assert said([], queue={"PENDING": ["7_[2-9%4]", "8"]})[-1] == "SLURM: 2 pending: 7_[2-9%4], 8"
    assert said([], queue={"PENDING": ["8"]})[-1] == AGAIN  # it finalizes, and mines nothing
