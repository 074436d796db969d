"""Who this process is: torchrun's and SLURM's variables as one checked object (no torch)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from jobs.errors import UserError

Launcher = Literal["none", "torchrun", "srun"]

# SLURM_STEP_ID of a batch script, where a version of Slurm sets it there (SLURM_BATCH_SCRIPT in slurm.h).
_BATCH_STEP = 0xFFFFFFFB
# Below the ports that Linux hands out by itself (32768 and up) and above the well-known ones.
_FIRST_PORT, _PORTS = 12_000, 20_000


@dataclass(frozen=True, kw_only=True)
class Environment:
    """A process's place: among the ranks of its task, and that task's place in its array.

    `array_index` is 0-based. `job` is the array's job id where there is an array, `task` the element's own id.
    `attempt` counts SLURM's requeues and `restart` torchrun's restarts, from 0. `deadline` is in seconds since 1970.
    `address` and `port` are where the ranks' counter is served: by torchrun's agent if `agent_store`, else by rank 0.
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

    @classmethod
    def from_variables(cls, variables: Mapping[str, str], *, placed: bool = False) -> Environment:
        """Reads `os.environ` or the like. Raises UserError naming the variables that are odd or contradict each other.

        With `placed` the place in the array is given otherwise, and SLURM's own is not looked at. torchrun's ranks win
        over srun's, since torchrun runs inside a task; a batch script's SLURM_PROCID is no rank.
        """
        read = _Variables(variables)
        index, count = (0, 1) if placed else _array(read)  # a redone list such as 0-3,7 has gaps
        parent, own = read.count("SLURM_ARRAY_JOB_ID"), read.count("SLURM_JOB_ID")
        end = read.count("SLURM_JOB_END_TIME")
        found = cls(
            array_index=index,
            array_count=count,
            job=own if parent is None else parent,
            task=read.count("SLURM_ARRAY_TASK_ID"),
            attempt=read.count("SLURM_RESTART_COUNT") or 0,
            deadline=float(end) if end else None,  # 0 where there is no limit
        )
        if "RANK" in read or "TORCHELASTIC_RUN_ID" in read:
            return _with_torchrun(found, read)
        step = read.count("SLURM_STEP_ID")
        if step is not None and step != _BATCH_STEP and "SLURM_PROCID" in read:
            return _with_srun(found, read, step)
        return found

    @property
    def element(self) -> str | None:
        """What `squeue` and `scontrol` call this task: 123_4 in an array, 123 else, None outside SLURM."""
        if self.job is None:
            return None
        return str(self.job) if self.task is None else f"{self.job}_{self.task}"

    @property
    def launch(self) -> str:
        """A name that differs between any two starts of this task, for keys that must begin afresh."""
        return f"{self.element or 'local'}.{self.attempt}.{self.restart}"


class _Variables:
    """Typed look-ups; an empty variable counts as absent."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._given = variables

    def __contains__(self, name: str) -> bool:
        return bool(self._given.get(name, "").strip())

    def text(self, name: str) -> str | None:
        return self._given[name].strip() if name in self else None

    def count(self, name: str) -> int | None:
        """A whole number from 0, None if absent."""
        text = self.text(name)
        if text is None:
            return None
        if re.fullmatch(r"[0-9]{1,18}", text) is None:
            raise UserError(f"the environment's {name} is {text!r}, not a whole number from 0; unset or mend it")
        return int(text)

    def needed(self, name: str, because: str) -> int:
        value = self.count(name)
        if value is None:
            raise UserError(f"{because} is set and {name} is not; set both (torchrun and srun do) or unset {because}")
        return value


def _array(read: _Variables) -> tuple[int, int]:
    """0-based position and count, whatever the ids: --array=10-40:10 gives 0..3 of 4."""
    task = read.count("SLURM_ARRAY_TASK_ID")
    if task is None:
        return 0, 1
    because = "SLURM_ARRAY_TASK_ID"
    first, last = read.needed("SLURM_ARRAY_TASK_MIN", because), read.needed("SLURM_ARRAY_TASK_MAX", because)
    count = read.needed("SLURM_ARRAY_TASK_COUNT", because)
    step = read.count("SLURM_ARRAY_TASK_STEP") or 1
    if count == 0 or not first <= task <= last:
        raise UserError(f"SLURM_ARRAY_TASK_ID is {task}, outside its array of {count} from {first} to {last}")
    if (last - first) // step + 1 != count or (task - first) % step:
        raise UserError(
            f"SLURM_ARRAY_TASK_COUNT is {count}, but ids {first} to {last} in steps of {step} are "
            f"{(last - first) // step + 1}: a list of ids has no positions; give --array-index and --array-count"
        )
    return (task - first) // step, count


def _with_torchrun(found: Environment, read: _Variables) -> Environment:
    because = "RANK" if "RANK" in read else "TORCHELASTIC_RUN_ID"
    rank, world_size = read.needed("RANK", because), read.needed("WORLD_SIZE", because)
    local_rank, local_size = read.count("LOCAL_RANK"), read.count("LOCAL_WORLD_SIZE")
    if local_rank is None:
        if world_size > 1:
            raise UserError(f"RANK is {rank} of WORLD_SIZE {world_size} and LOCAL_RANK is not set; start with torchrun")
        local_rank = 0
    groups, tasks = read.count("GROUP_WORLD_SIZE"), _tasks(read)
    if groups == 1 and "SLURM_STEP_ID" in read and (tasks or 1) > 1:
        raise UserError(
            f"srun started {tasks} tasks (SLURM_STEP_NUM_TASKS) and each its own torchrun: all would do the same; "
            "start one torchrun in a task, or give torchrun --nnodes and --rdzv-endpoint"
        )
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


def _with_srun(found: Environment, read: _Variables, step: int) -> Environment:
    rank, tasks = read.needed("SLURM_PROCID", "SLURM_STEP_ID"), _tasks(read)
    if tasks is None:
        raise UserError("SLURM_PROCID is set and neither SLURM_STEP_NUM_TASKS nor SLURM_NTASKS is; start with srun")
    local_rank = read.needed("SLURM_LOCALID", "SLURM_PROCID")
    nodes = read.text("SLURM_STEP_NODELIST") or read.text("SLURM_NODELIST") or "localhost"
    port = _port(read)
    found = replace(
        found,
        launcher="srun",
        rank=rank,
        world_size=tasks,
        local_rank=local_rank,
        local_world_size=_tasks_here(read, tasks),
        address=read.text("MASTER_ADDR") or first_host(nodes),
        port=_FIRST_PORT + (31 * (read.count("SLURM_JOB_ID") or 0) + step) % _PORTS if port is None else port,
    )
    return _checked(found, ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"))


def first_host(nodes: str) -> str:
    """The first name of a SLURM host list: `gpu[003-007,9]-ib,cpu1` gives `gpu003-ib`."""
    depth, end = 0, len(nodes)
    for position, char in enumerate(nodes):
        depth += (char == "[") - (char == "]")
        if char == "," and depth == 0:
            end = position
            break
    return re.sub(r"\[([0-9]+)[^\]]*\]", r"\1", nodes[:end])


def _tasks(read: _Variables) -> int | None:
    step = read.count("SLURM_STEP_NUM_TASKS")
    return read.count("SLURM_NTASKS") if step is None else step


def _tasks_here(read: _Variables, tasks: int) -> int:
    """Tasks on this node: `4(x2),3` are 4, 4 and 3 tasks on nodes 0, 1 and 2."""
    text = read.text("SLURM_STEP_TASKS_PER_NODE") or read.text("SLURM_TASKS_PER_NODE")
    if text is None:
        return tasks
    per_node: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,9})(?:\(x([0-9]{1,6})\))?", part)
        if match is None:
            raise UserError(f"SLURM_STEP_TASKS_PER_NODE is {text!r}, which is no list such as 4(x2),3")
        per_node += [int(match[1])] * int(match[2] or 1)
    node = read.count("SLURM_NODEID") or 0
    if node >= len(per_node):
        raise UserError(f"SLURM_NODEID is {node}, but SLURM_STEP_TASKS_PER_NODE {text!r} has {len(per_node)} nodes")
    return per_node[node]


def _port(read: _Variables) -> int | None:
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
