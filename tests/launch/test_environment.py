"""torchrun's and SLURM's variables as one object, on environments recorded from both."""

from __future__ import annotations

import pytest

from jobs.errors import UserError
from jobs.launch.environment import Environment
from jobs.launch.slurm import first_host

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


@pytest.mark.parametrize(
    ("cores", "on_node", "sharing"),
    [(12, "96", 1), (96, "96", 8), (12, "12", 8), (12, None, 8)],
)
def test_tasks_that_srun_has_bound_do_not_share_their_cores(cores: int, on_node: str | None, sharing: int) -> None:
    """Twelve cores of ninety-six are the task's own. All that the job has here, or an unknown part, is shared."""
    variables = {"SLURM_STEP_ID": "0", "SLURM_PROCID": "3", "SLURM_LOCALID": "3", "SLURM_STEP_NUM_TASKS": "8"}
    if on_node is not None:
        variables["SLURM_CPUS_ON_NODE"] = on_node
    found = Environment.from_variables({**variables, "SLURM_STEP_TASKS_PER_NODE": "8", "SLURM_JOB_ID": "1"})
    assert found.ranks_sharing(cores) == sharing


def test_ranks_of_torchrun_share_all_cores() -> None:
    found = Environment(launcher="torchrun", world_size=8, local_world_size=8, cores_on_node=96)
    assert found.ranks_sharing(12) == 8
    assert Environment().ranks_sharing(12) == 1


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


def test_a_list_with_gaps_may_be_redone_where_the_place_is_given() -> None:
    """`sbatch --array=0-3,7` of `status --missing`: SLURM cannot tell a position, the script's options do."""
    gaps = {"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "0",
            "SLURM_ARRAY_TASK_MAX": "7", "SLURM_ARRAY_TASK_COUNT": "5", "SLURM_ARRAY_TASK_STEP": "1"}  # fmt: skip
    with pytest.raises(UserError, match="--array-index"):
        Environment.from_variables(gaps)
    assert Environment.from_variables(gaps, placed=True).element == "5_7"
