"""torchrun's and SLURM's variables as one object, on environments recorded from both, and blocks of the shard list."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from jobs.errors import EXIT_DRAINED, EXIT_ERROR, EXIT_OK, EXIT_SOME_SHARDS_FAILED, UserError
from jobs.launch import ranks as ranks_module
from jobs.launch.environment import Environment, Launcher, first_host
from jobs.launch.ranks import Ranks, draw
from jobs.launch.split import block_of

# Printed by Slurm 22.05 in a batch script (--array=10-40:10) and in the second task of an srun step of it.
BATCH = {
    "SLURM_ARRAY_JOB_ID": "1", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_ID": "20", "SLURM_ARRAY_TASK_MAX": "40",
    "SLURM_ARRAY_TASK_MIN": "10", "SLURM_ARRAY_TASK_STEP": "10", "SLURM_JOB_ID": "3", "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0", "SLURM_NODELIST": "vm", "SLURM_NPROCS": "2", "SLURM_NTASKS": "2", "SLURM_PROCID": "0",
    "SLURM_TASKS_PER_NODE": "2",
}  # fmt: skip
STEP = {
    **BATCH, "SLURM_LOCALID": "1", "SLURM_PROCID": "1", "SLURM_STEP_ID": "0", "SLURM_STEP_NODELIST": "vm",
    "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_LAUNCH_NODE_IPADDR": "127.0.0.1",
}  # fmt: skip
TORCHRUN = {
    "RANK": "2", "WORLD_SIZE": "3", "LOCAL_RANK": "2", "LOCAL_WORLD_SIZE": "3", "GROUP_WORLD_SIZE": "1",
    "MASTER_ADDR": "localhost", "MASTER_PORT": "29511", "TORCHELASTIC_RUN_ID": "x", "TORCHELASTIC_RESTART_COUNT": "0",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
}  # fmt: skip


def test_alone() -> None:
    alone = Environment.from_variables({"HOME": "/", "RANK": "", "MASTER_PORT": "29500"})
    assert alone == Environment() and (alone.rank, alone.world_size, alone.array_count, alone.element) == (
        0,
        1,
        1,
        None,
    )


def test_a_batch_script_is_one_process_at_its_array_position() -> None:
    found = Environment.from_variables({**BATCH, "SLURM_JOB_END_TIME": "1790000000", "SLURM_RESTART_COUNT": "2"})
    assert (found.launcher, found.rank, found.world_size) == ("none", 0, 1)
    assert (found.array_index, found.array_count, found.job, found.task, found.element) == (1, 4, 1, 20, "1_20")
    assert (found.attempt, found.deadline, found.launch) == (2, 1790000000.0, "1_20.2.0")
    plain = Environment.from_variables({"SLURM_JOB_ID": "9", "SLURM_PROCID": "0", "SLURM_JOB_END_TIME": "0"})
    assert (plain.element, plain.array_count, plain.deadline, plain.launcher) == ("9", 1, None, "none")
    batch_step = Environment.from_variables({**BATCH, "SLURM_STEP_ID": "4294967291"})
    assert (batch_step.launcher, batch_step.world_size) == ("none", 1)


def test_srun_gives_ranks() -> None:
    found = Environment.from_variables(STEP)
    assert (found.launcher, found.rank, found.world_size, found.local_rank, found.local_world_size) == (
        "srun",
        1,
        2,
        1,
        2,
    )
    assert (found.address, found.port, found.agent_store, found.array_index) == ("vm", 12_000 + 31 * 3, False, 1)
    nodes = {"SLURM_STEP_NODELIST": "gpu[07-08]-ib,x1", "SLURM_STEP_NUM_TASKS": "11", "SLURM_PROCID": "9",
             "SLURM_STEP_TASKS_PER_NODE": "4(x2),3", "SLURM_NODEID": "2", "MASTER_PORT": "4321"}  # fmt: skip
    found = Environment.from_variables({**STEP, **nodes})
    assert (found.rank, found.world_size, found.local_world_size) == (9, 11, 3)
    assert (found.address, found.port) == ("gpu07-ib", 4321)


def test_torchrun_wins_inside_a_step() -> None:
    one_task = {**STEP, "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_STEP_NUM_TASKS": "1"}
    found = Environment.from_variables({**one_task, **TORCHRUN})
    assert (found.launcher, found.rank, found.world_size) == ("torchrun", 2, 3)
    assert (found.local_rank, found.local_world_size) == (2, 3)
    assert (found.address, found.port, found.agent_store, found.array_index) == ("localhost", 29511, True, 1)
    assert Environment.from_variables({**TORCHRUN, "TORCHELASTIC_RESTART_COUNT": "4"}).launch == "local.0.4"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({**TORCHRUN, "RANK": "two"}, "RANK is 'two', not a whole number"),
        ({**TORCHRUN, "RANK": "-1"}, "RANK is '-1'"),
        ({**TORCHRUN, "RANK": "3"}, r"RANK is 3 and WORLD_SIZE 3; ranks are 0..WORLD_SIZE - 1"),
        ({**TORCHRUN, "WORLD_SIZE": ""}, "RANK is set and WORLD_SIZE is not"),
        ({**TORCHRUN, "RANK": ""}, "TORCHELASTIC_RUN_ID is set and RANK is not"),
        ({**TORCHRUN, "LOCAL_RANK": "3"}, "LOCAL_RANK is 3, not below LOCAL_WORLD_SIZE, 3"),
        ({**TORCHRUN, "LOCAL_WORLD_SIZE": "4"}, "LOCAL_WORLD_SIZE is 4, more than WORLD_SIZE, which is 3"),
        ({**TORCHRUN, "MASTER_PORT": ""}, "WORLD_SIZE is 3 and MASTER_PORT is not set"),
        ({**TORCHRUN, "MASTER_PORT": "70000"}, "MASTER_PORT is 70000, not a port"),
        ({**STEP, **TORCHRUN}, "srun started 2 tasks .* each its own torchrun"),
        ({**STEP, "SLURM_PROCID": "2"}, "SLURM_PROCID is 2 and SLURM_STEP_NUM_TASKS 2"),
        ({**STEP, "SLURM_STEP_TASKS_PER_NODE": "2,,"}, "SLURM_STEP_TASKS_PER_NODE is '2,,'"),
        ({**STEP, "SLURM_NODEID": "1"}, "SLURM_NODEID is 1, but .* has 1 nodes"),
        ({**BATCH, "SLURM_ARRAY_TASK_COUNT": ""}, "SLURM_ARRAY_TASK_ID is set and SLURM_ARRAY_TASK_COUNT is not"),
        ({**BATCH, "SLURM_ARRAY_TASK_ID": "50"}, "SLURM_ARRAY_TASK_ID is 50, outside its array of 4 from 10 to 40"),
        ({**BATCH, "SLURM_ARRAY_TASK_COUNT": "3"}, "a list of ids has no positions; give --array-index"),
        ({**BATCH, "SLURM_ARRAY_TASK_ID": "25"}, "a list of ids has no positions"),
    ],
)  # fmt: skip
def test_odd_variables_are_named(changes: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Environment.from_variables(changes)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("vm", "vm"), ("a1,b2", "a1"), ("gpu[003-007,9]", "gpu003"), ("r[1-2]n[07,09],z", "r1n07"), ("n[4]-ib", "n4-ib")],
)
def test_the_first_host_of_a_list(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


@pytest.mark.parametrize(("count", "parts"), [(12, 4), (7, 3), (3, 8), (0, 2), (10_000, 64), (1, 1), (1001, 1000)])
def test_blocks_cover_the_list_once_in_order(count: int, parts: int) -> None:
    blocks = [block_of(count, index, parts) for index in range(parts)]
    assert [position for block in blocks for position in block] == list(range(count))
    assert max(map(len, blocks)) - min(map(len, blocks)) <= 1


def test_a_position_outside_the_array_is_refused() -> None:
    assert list(block_of(7, 1, 3)) == [2, 3]  # 7 = 2 + 2 + 3
    for index, parts in ((3, 3), (-1, 3), (0, 0)):
        with pytest.raises(UserError, match="--array-count"):
            block_of(7, index, parts)


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
        ["torch.distributed", "tests.launch.test_environment"]
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
    from datetime import timedelta

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
        monkeypatch.setattr(ranks_module, "ANSWER_SECONDS", 1.0)
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
    from dataclasses import replace

    from torch.distributed import TCPStore

    agent = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    both = [Ranks(replace(rank_of(rank, 2, agent.port, "torchrun"), agent_store=True)) for rank in range(2)]
    assert [one.leave(status) for one, status in zip(both, statuses, strict=True)] == [EXIT_OK, answer]


def test_a_list_with_gaps_may_be_redone_where_the_place_is_given() -> None:
    """`sbatch --array=0-3,7` of `status --missing`: SLURM cannot tell a position, the script's options do."""
    gaps = {"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "0",
            "SLURM_ARRAY_TASK_MAX": "7", "SLURM_ARRAY_TASK_COUNT": "5", "SLURM_ARRAY_TASK_STEP": "1"}  # fmt: skip
    with pytest.raises(UserError, match="--array-index"):
        Environment.from_variables(gaps)
    assert Environment.from_variables(gaps, placed=True).element == "5_7"
