"""Where this process stands in a job: its block of the array, its device, and whether it has anything to do."""

from __future__ import annotations

from dataclasses import replace

from jobs.errors import UserError
from jobs.launch.environment import Environment


def place_in_array(environment: Environment, index: int | None, count: int | None) -> Environment:
    """The place in the array as the options say it, or else as SLURM does.

    Raises UserError where only one of the two is given and SLURM does not tell the other.
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
    """What to say where there are fewer shards than workers; None where all are busy."""
    part = f"element {environment.array_index} of {environment.array_count}" if environment.array_count > 1 else "job"
    if shards == 0:
        return f"this {part} has no shard: there are fewer shards than elements"
    if shards < environment.world_size and environment.rank == 0:
        return f"{shards} shards for {environment.world_size} workers: {environment.world_size - shards} stay idle"
    return None


def refuse_overwrite_by_many(environment: Environment) -> None:
    """Raises UserError where several processes would each delete what the others have made."""
    if environment.world_size > 1 or environment.array_count > 1:
        raise UserError("--overwrite is for one process: start the run anew once, then go on with many")
