"""Which process this is among others: torchrun's and SLURM's variables as one checked object (no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from jobs.errors import UserError
from jobs.launch.slurm import array_place, first_host, step_of, tasks_of_step, tasks_on_this_node
from jobs.launch.variables import Variables

Launcher = Literal["none", "torchrun", "srun"]

# Below the ports that Linux hands out by itself (32768 and up) and above the well-known ones.
_FIRST_PORT, _PORTS = 12_000, 20_000


@dataclass(frozen=True, kw_only=True)
class Environment:
    """The place of a process among the ranks of its task, and of that task in its array.

    `array_index` is 0-based. `job` is the id of the array if there is one, else of the job; `task` is the id of the
    array's element. `attempt` counts SLURM's requeues and `restart` torchrun's restarts, both from 0. `deadline` is in
    seconds since 1970. `cores_on_node` are those that SLURM gave the job here. The ranks' counter is served at
    `address` and `port`: by torchrun's agent if `agent_store`, else by rank 0.
    """

    launcher: Launcher = "none"
    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    address: str | None = None
    port: int | None = None
    agent_store: bool = False
    array_index: int = 0
    array_count: int = 1
    job: int | None = None
    task: int | None = None
    attempt: int = 0
    restart: int = 0
    deadline: float | None = None
    cores_on_node: int | None = None

    @classmethod
    def from_variables(cls, variables: Mapping[str, str], *, placed: bool = False) -> Environment:
        """Reads `os.environ` or the like. Raises UserError naming variables that are invalid or contradict each other.

        With `placed`, options give the place in the array and SLURM's variables for it are ignored. torchrun's ranks
        take precedence over srun's, since torchrun runs inside a task. A batch script's SLURM_PROCID is not a rank.
        """
        read = Variables(variables)
        index, count = (0, 1) if placed else array_place(read)  # a redone list such as 0-3,7 has gaps
        parent, own = read.count("SLURM_ARRAY_JOB_ID"), read.count("SLURM_JOB_ID")
        end = read.count("SLURM_JOB_END_TIME")
        found = cls(
            array_index=index,
            array_count=count,
            job=own if parent is None else parent,
            task=read.count("SLURM_ARRAY_TASK_ID"),
            attempt=read.count("SLURM_RESTART_COUNT") or 0,
            deadline=float(end) if end else None,  # 0 where there is no limit
            cores_on_node=read.count("SLURM_CPUS_ON_NODE"),
        )
        if "RANK" in read or "TORCHELASTIC_RUN_ID" in read:
            return _with_torchrun(found, read)
        step = step_of(read)
        return found if step is None else _with_srun(found, read, step)

    @property
    def element(self) -> str | None:
        """What `squeue` and `scontrol` call this task: 123_4 in an array, else 123; None outside SLURM."""
        if self.job is None:
            return None
        return str(self.job) if self.task is None else f"{self.job}_{self.task}"

    @property
    def is_first(self) -> bool:
        """Whether this is the first rank of the array's first element, which says what all would say."""
        return self.rank == 0 and self.array_index == 0

    def ranks_sharing(self, cores: int) -> int:
        """How many ranks share the `cores` that this process may use.

        srun binds each task to cores of its own unless told otherwise: then a task may use fewer than the job has on
        the node. torchrun's ranks all may use all of them.
        """
        is_bound = self.launcher == "srun" and self.cores_on_node is not None and cores < self.cores_on_node
        return 1 if is_bound else self.local_world_size

    @property
    def launch(self) -> str:
        """A name that differs between any two starts of this task, for keys that must not outlive a start."""
        return f"{self.element or 'local'}.{self.attempt}.{self.restart}"


def _with_torchrun(found: Environment, read: Variables) -> Environment:
    because = "RANK" if "RANK" in read else "TORCHELASTIC_RUN_ID"
    rank, world_size = read.required("RANK", because), read.required("WORLD_SIZE", because)
    local_rank, local_size = read.count("LOCAL_RANK"), read.count("LOCAL_WORLD_SIZE")
    if local_rank is None:
        if world_size > 1:
            raise UserError(f"RANK is {rank} of WORLD_SIZE {world_size} and LOCAL_RANK is not set; start with torchrun")
        local_rank = 0
    _refuse_many_torchruns(read)
    found = replace(
        found,
        launcher="torchrun",
        rank=rank,
        world_size=world_size,
        local_rank=local_rank,
        local_world_size=world_size if local_size is None else local_size,
        address=read.text("MASTER_ADDR"),
        port=_port(read),
        agent_store=read.text("TORCHELASTIC_USE_AGENT_STORE") == "True",
        restart=read.count("TORCHELASTIC_RESTART_COUNT") or 0,
    )
    if world_size > 1 and (found.address is None or found.port is None):
        missing = "MASTER_ADDR" if found.address is None else "MASTER_PORT"
        raise UserError(f"WORLD_SIZE is {world_size} and {missing} is not set; start with torchrun, or set it")
    return _checked(found, ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"))


def _refuse_many_torchruns(read: Variables) -> None:
    tasks = tasks_of_step(read) or 1
    if read.count("GROUP_WORLD_SIZE") == 1 and "SLURM_STEP_ID" in read and tasks > 1:
        raise UserError(
            f"srun started {tasks} tasks (SLURM_STEP_NUM_TASKS) and each its own torchrun: all would do the same; "
            "start one torchrun in a task, or give torchrun --nnodes and --rdzv-endpoint"
        )


def _with_srun(found: Environment, read: Variables, step: int) -> Environment:
    rank, tasks = read.required("SLURM_PROCID", "SLURM_STEP_ID"), tasks_of_step(read)
    if tasks is None:
        raise UserError("SLURM_PROCID is set and neither SLURM_STEP_NUM_TASKS nor SLURM_NTASKS is; start with srun")
    local_rank = read.required("SLURM_LOCALID", "SLURM_PROCID")
    nodes = read.text("SLURM_STEP_NODELIST") or read.text("SLURM_NODELIST") or "localhost"
    port = _port(read)
    found = replace(
        found,
        launcher="srun",
        rank=rank,
        world_size=tasks,
        local_rank=local_rank,
        local_world_size=tasks_on_this_node(read, tasks),
        address=read.text("MASTER_ADDR") or first_host(nodes),
        port=_FIRST_PORT + (31 * (read.count("SLURM_JOB_ID") or 0) + step) % _PORTS if port is None else port,
    )
    return _checked(found, ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"))


def _port(read: Variables) -> int | None:
    port = read.count("MASTER_PORT")
    if port is not None and not 0 < port < 65_536:
        raise UserError(f"MASTER_PORT is {port}, not a port (1..65535)")
    return port


def _checked(found: Environment, names: tuple[str, str, str, str]) -> Environment:
    rank, size, local_rank, local_size = names
    if found.rank >= found.world_size:
        raise UserError(f"{rank} is {found.rank} and {size} {found.world_size}; ranks are 0..{size} - 1")
    if found.local_rank >= found.local_world_size:
        raise UserError(f"{local_rank} is {found.local_rank}, not below {local_size}, {found.local_world_size}")
    if found.local_world_size > found.world_size:
        raise UserError(f"{local_size} is {found.local_world_size}, more than {size}, which is {found.world_size}")
    return found
