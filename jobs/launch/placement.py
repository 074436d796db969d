"""Where this process stands in a job array, and whether it has anything to do."""

from __future__ import annotations

from dataclasses import replace

from jobs.errors import UserError
from jobs.launch.environment import Environment
from jobs.phrases import counted


def place_in_array(environment: Environment, index: int | None, count: int | None) -> Environment:
    """The environment with the array's place that the options give, or else with SLURM's.

    Raises UserError where only one of the two is given and SLURM does not know the other.
    """
    if index is None and count is None:
        return environment
    if count is None:
        if environment.array_count == 1:
            raise UserError("--array-index needs --array-count: how many blocks the shard list is split into")
        count = environment.array_count
    if index is None:
        if environment.task is None:
            raise UserError("--array-count needs --array-index: which block of the shard list is this one")
        index = environment.array_index
    if index >= count:
        raise UserError(f"--array-index is {index}, but it counts from 0 and --array-count is {count}")
    return replace(environment, array_index=index, array_count=count)


def idle_because(environment: Environment, shards: int) -> str | None:
    """Why this element or some of its workers have nothing to do, as one line; None where all are busy."""
    part = f"element {environment.array_index} of {environment.array_count}" if environment.array_count > 1 else "job"
    if shards == 0:
        return f"this {part} has no shard: there are fewer shards than elements"
    idle = environment.world_size - shards
    if idle > 0 and environment.rank == 0:
        return f"{counted(shards, 'shard')} for {environment.world_size} workers: {idle} stay idle"
    return None


def refuse_overwrite_by_many(environment: Environment) -> None:
    """Raises UserError where several processes would each delete what the others have made."""
    if environment.world_size > 1 or environment.array_count > 1:
        raise UserError("--overwrite is for one process: start the run anew once, then go on with many")
