"""Drawing processes: every result comes back, errors are raised here, and none outlives its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jobs.errors import UserError
from jobs.rendering.processes import in_processes

PARENT = """
import sys
from pathlib import Path
from jobs.rendering.processes import in_processes
from tests.rendering.test_processes import tell_and_sleep
list(in_processes(tell_and_sleep, [Path(name) for name in sys.argv[1:]], 2))
"""


def square(number: int) -> int:
    if number < 0:
        raise UserError(f"{number} is below zero")
    return number * number


def die(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


def tell_and_sleep(path: Path) -> None:
    path.with_suffix(".part").write_text(str(os.getpid()))
    path.with_suffix(".part").rename(path)
    time.sleep(120)


def test_one_worker_works_here_in_order_and_only_as_far_as_it_is_asked() -> None:
    taken: list[int] = []

    def tasks() -> Iterator[int]:
        for number in range(5):
            taken.append(number)
            yield number

    found = in_processes(square, tasks(), 1)
    assert next(found) == (0, 0) and taken == [0]
    assert list(found) == [(number, number**2) for number in range(1, 5)]


def test_processes_return_every_result_and_raise_what_was_raised_there() -> None:
    assert sorted(in_processes(square, iter(range(20)), 2)) == [(number, number**2) for number in range(20)]
    with pytest.raises(UserError, match="-3 is below zero"):
        list(in_processes(square, [1, 2, -3, 4], 2))
    with pytest.raises(UserError, match=r"a drawing process was killed.*--workers"):
        list(in_processes(die, [1, 2], 2))


def test_processes_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    files = [tmp_path / "a", tmp_path / "b"]
    parent = subprocess.Popen([sys.executable, "-c", PARENT, *map(str, files)])
    try:
        wait_until(lambda: all(file.exists() for file in files), 60)
    finally:
        parent.kill()
        parent.wait()
    workers = [int(file.read_text()) for file in files]
    wait_until(lambda: not any(is_running(worker) for worker in workers), 20)


def wait_until(holds: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.1)


def is_running(process: int) -> bool:
    """Whether a process runs; a dead one that nobody has waited for does not."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
