"""Elements of a job array: how many a run was submitted with, and which of them have shards left to mine."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from jobs.mining.blocks import block_of_element
from jobs.runs.layout import RunLayout
from jobs.runs.manifest import read_manifest
from jobs.submission.scripts import scripts_folder


def missing_elements(run: str | Path, array_count: int | None = None) -> list[int]:
    """The elements (0-based) of a run that have to run again, because not all their shards are done.

    `array_count` is the number of elements that the shard list is split over. By default it is the number of the last
    submission, or one for each shard where the run was not submitted. Raises UserError if it is not a run.
    """
    layout = RunLayout(Path(run))
    shards = [shard.name for shard in read_manifest(layout).shards]
    count = array_count or submitted_count(layout) or len(shards)
    return unfinished_elements(shards, layout.done(), count)


def unfinished_elements(shards: Sequence[str], done: Collection[str], array_count: int) -> list[int]:
    """The elements (0-based) whose block of the shard list is not all done."""
    return [
        element
        for element in range(array_count)
        if any(shard not in done for shard in block_of_element(shards, element, array_count))
    ]


def submitted_count(layout: RunLayout) -> int | None:
    """The number of elements of the last submission, by the script that it left; None if there is no such script."""
    try:
        words = (scripts_folder(layout) / "array.sbatch").read_text(encoding="utf-8").split()
        return int(words[words.index("--array-count") + 1])
    except (OSError, ValueError, IndexError):
        return None


def array_specification(numbers: Sequence[int]) -> str:
    """Rising numbers as SLURM writes them: 0-3,7,9-12."""
    ranges: list[tuple[int, int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], number)
        else:
            ranges.append((number, number))
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)
