"""Ranks that share a counter: real processes, real stores, one that dies and one that stands still."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from jobs.errors import EXIT_DRAINED, EXIT_ERROR, EXIT_OK, EXIT_SOME_SHARDS_FAILED, UserError
from jobs.launch import ranks as ranks_module
from jobs.launch import store as store_module
from jobs.launch.environment import Environment, Launcher
from jobs.launch.ranks import Ranks, draw


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def rank_of(rank: int, size: int, port: int, launcher: Launcher = "srun", attempt: int = 0) -> Environment:
    return Environment(
        launcher=launcher, rank=rank, world_size=size, local_rank=rank, local_world_size=size,
        address="127.0.0.1", port=port, job=5, attempt=attempt,
    )  # fmt: skip


def take(environment: Environment, items: int, pause: float, die: bool, out: Path) -> None:
    """One rank as a process: draws, writes down what it drew, leaves with status 3 if it drew item 1."""
    ranks_module.BEAT_SECONDS, ranks_module.SILENT_SECONDS = 0.5, 4.0
    status = EXIT_OK
    with Ranks(environment, 20) as ranks:
        for item in draw(range(items), ranks):
            with (out / str(environment.rank)).open("a") as file:
                file.write(f"{item}\n")
            if die:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(pause)
            status = EXIT_SOME_SHARDS_FAILED if item == 1 else status
        sys.exit(ranks.leave(status))


def start(
    out: Path, environments: Sequence[Environment], die: int | None = None, pause: Sequence[float] = ()
) -> list[int]:
    """Exit codes of the ranks, in order, once all have ended."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["torch.distributed", "tests.launch.test_ranks"]
    )  # torch is imported once for all ranks
    pauses = pause or [0.05] * len(environments)
    processes = [
        context.Process(target=take, args=(environment, 20, pauses[environment.rank], environment.rank == die, out))
        for environment in environments
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert None not in codes, f"still running after 60 s: {codes}"
    return [int(code) for code in codes if code is not None]


def drawn(out: Path) -> dict[int, list[int]]:
    return {int(path.name): [int(line) for line in path.read_text().split()] for path in out.iterdir()}


def test_alone_nothing_is_connected() -> None:
    with Ranks(Environment()) as ranks:
        assert list(draw("abc", ranks)) == ["a", "b", "c"] and ranks.leave(EXIT_DRAINED) == EXIT_DRAINED
    with pytest.raises(ValueError, match="own"), Ranks(Environment()):
        raise ValueError("own")


def test_ranks_draw_each_item_once_and_a_slow_one_holds_nobody_up(tmp_path: Path) -> None:
    port = free_port()
    codes = start(tmp_path, [rank_of(rank, 3, port) for rank in range(3)], pause=[0.02, 0.02, 2.0])
    found = drawn(tmp_path)
    assert sorted(item for items in found.values() for item in items) == list(range(20))
    assert all(items == sorted(items) for items in found.values()) and len(found.get(2, [])) <= 3
    assert sorted(codes) == [EXIT_OK, EXIT_OK, EXIT_SOME_SHARDS_FAILED]  # under srun each answers for itself


def test_a_rank_that_dies_costs_its_item_and_hangs_nobody(tmp_path: Path) -> None:
    port = free_port()
    codes = start(tmp_path, [rank_of(rank, 3, port) for rank in range(3)], die=1)
    found = drawn(tmp_path)
    assert codes[1] == -signal.SIGKILL and codes[2] in (EXIT_OK, EXIT_SOME_SHARDS_FAILED)
    assert sorted(item for items in found.values() for item in items) == list(range(20))


def test_without_the_host_a_rank_stops_with_one_line(tmp_path: Path) -> None:
    from torch.distributed import TCPStore

    port = free_port()
    host = TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=5))
    ranks = Ranks(rank_of(1, 2, port))
    assert ranks.next() == 0
    del host
    started = time.monotonic()
    with pytest.raises(UserError, match=r"rank 1 lost the ranks' counter at 127.0.0.1:[0-9]+ .* run the same command"):
        ranks.next()
    with pytest.raises(UserError, match=r"rank 1 cannot reach the ranks' counter .* did rank 0 start\?"):
        Ranks(rank_of(1, 2, port), connect_seconds=1)
    assert time.monotonic() - started < 30


def test_a_host_that_stands_still_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    code = (
        "import time; from torch.distributed import TCPStore;"
        f"store = TCPStore('127.0.0.1', {port}, is_master=True, wait_for_workers=False);"
        "print('up', flush=True); time.sleep(99)"
    )
    host = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert host.stdout is not None and host.stdout.readline() == b"up\n"
        ranks = Ranks(rank_of(1, 2, port))
        assert [ranks.next(), ranks.next()] == [0, 1]
        monkeypatch.setattr(store_module, "ANSWER_SECONDS", 1.0)
        host.send_signal(signal.SIGSTOP)
        os.waitpid(host.pid, os.WUNTRACED)  # it has stopped, all its threads with it
        with pytest.raises(UserError, match="no answer in 1 s"):
            ranks.next()
    finally:
        host.kill()
        host.communicate()


def test_a_restart_counts_from_zero() -> None:
    port = free_port()
    first = Ranks(rank_of(0, 2, port))
    assert [first.next(), first.next()] == [0, 1]
    again = Ranks(rank_of(1, 2, port, attempt=1))
    assert again.next() == 0


@pytest.mark.parametrize(
    ("statuses", "answer"),
    [((0, 0), EXIT_OK), ((3, 0), EXIT_SOME_SHARDS_FAILED), ((0, 75), EXIT_DRAINED), ((75, 3), EXIT_DRAINED),
     ((1, 75), EXIT_ERROR)],
)  # fmt: skip
def test_under_torchrun_the_last_to_leave_answers_for_all(statuses: tuple[int, int], answer: int) -> None:
    from torch.distributed import TCPStore

    agent = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    both = [Ranks(replace(rank_of(rank, 2, agent.port, "torchrun"), agent_store=True)) for rank in range(2)]
    assert [one.leave(status) for one, status in zip(both, statuses, strict=True)] == [EXIT_OK, answer]
