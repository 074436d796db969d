"""What SLURM's variables say of a job array and of the tasks of a step (no torch)."""

from __future__ import annotations

import re

from jobs.errors import UserError
from jobs.launch.variables import Variables

# SLURM_STEP_ID of a batch script, where a version of Slurm sets it there (SLURM_BATCH_SCRIPT in slurm.h).
_BATCH_STEP = 0xFFFFFFFB


def step_of(read: Variables) -> int | None:
    """The step that srun started this process in; None in a batch script, whose SLURM_PROCID is not a rank."""
    step = read.count("SLURM_STEP_ID")
    return None if step == _BATCH_STEP or "SLURM_PROCID" not in read else step


def array_place(read: Variables) -> tuple[int, int]:
    """0-based position in the array and its length, for any ids: --array=10-40:10 gives 0..3 of 4."""
    task = read.count("SLURM_ARRAY_TASK_ID")
    if task is None:
        return 0, 1
    because = "SLURM_ARRAY_TASK_ID"
    first, last = read.required("SLURM_ARRAY_TASK_MIN", because), read.required("SLURM_ARRAY_TASK_MAX", because)
    count = read.required("SLURM_ARRAY_TASK_COUNT", because)
    step = read.count("SLURM_ARRAY_TASK_STEP") or 1
    if count == 0 or not first <= task <= last:
        raise UserError(f"SLURM_ARRAY_TASK_ID is {task}, outside its array of {count} from {first} to {last}")
    if (last - first) // step + 1 != count or (task - first) % step:
        raise UserError(
            f"SLURM_ARRAY_TASK_COUNT is {count}, but ids {first} to {last} in steps of {step} are "
            f"{(last - first) // step + 1}: a list of ids has no positions; give --array-index and --array-count"
        )
    return (task - first) // step, count


def first_host(nodes: str) -> str:
    """The first name of a SLURM host list: `gpu[003-007,9]-ib,cpu1` gives `gpu003-ib`."""
    depth, end = 0, len(nodes)
    for position, char in enumerate(nodes):
        depth += (char == "[") - (char == "]")
        if char == "," and depth == 0:
            end = position
            break
    return re.sub(r"\[([0-9]+)[^\]]*\]", r"\1", nodes[:end])


def tasks_of_step(read: Variables) -> int | None:
    """How many tasks srun started in this step; None if SLURM does not say."""
    step = read.count("SLURM_STEP_NUM_TASKS")
    return read.count("SLURM_NTASKS") if step is None else step


def tasks_on_this_node(read: Variables, tasks: int) -> int:
    """Tasks on this node: `4(x2),3` are 4, 4 and 3 tasks on nodes 0, 1 and 2."""
    text = read.text("SLURM_STEP_TASKS_PER_NODE") or read.text("SLURM_TASKS_PER_NODE")
    if text is None:
        return tasks
    per_node: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,9})(?:\(x([0-9]{1,6})\))?", part)
        if match is None:
            raise UserError(f"SLURM_STEP_TASKS_PER_NODE is {text!r}, which is not a list such as 4(x2),3")
        per_node += [int(match[1])] * int(match[2] or 1)
    node = read.count("SLURM_NODEID") or 0
    if node >= len(per_node):
        raise UserError(f"SLURM_NODEID is {node}, but SLURM_STEP_TASKS_PER_NODE {text!r} has {len(per_node)} nodes")
    return per_node[node]
