"""Elements of a job array: how many a run was submitted with, and which of them have shards left to mine."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Collection, Sequence
from pathlib import Path

from jobs.mining.blocks import block_of_element
from jobs.runs.footer import read_facts
from jobs.runs.layout import RunLayout
from jobs.runs.manifest import read_manifest
from jobs.submission.scripts import ADD_MAPS, scripts_folder


def missing_elements(run: str | Path, array_count: int | None = None) -> list[int]:
    """The elements (0-based) of a run that have to run again, because not all their shards are done.

    `array_count` is the number of elements that the shard list is split over. By default it is the number of the last
    submission, or one for each shard where the run was not submitted. Where the last submission adds maps, only shards
    that are mined and do not have them count: the same submission again can do nothing for the others. Raises
    UserError if it is not a run.
    """
    layout = RunLayout(Path(run))
    manifest = read_manifest(layout)
    shards = [shard.name for shard in manifest.shards]
    count = array_count or submitted_count(layout) or len(shards)
    done = layout.done()
    if maps := submitted_maps(layout):
        number = manifest.addition_of(maps[0])
        lacking = {
            shard for shard in done if not (number and read_facts(layout.shard_metadata(shard)).added_file(number))
        }
        done = set(shards) - lacking
    return unfinished_elements(shards, done, count)


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


def submitted_maps(layout: RunLayout) -> list[str]:
    """The maps that the last submission adds to the run, by the script that it left; none where it mines shards."""
    try:
        words = shlex.split((scripts_folder(layout) / "array.sbatch").read_text(encoding="utf-8"), comments=True)
    except (OSError, ValueError):
        return []
    return [name for word, name in itertools.pairwise(words) if word == ADD_MAPS]


def array_specification(numbers: Sequence[int]) -> str:
    """Rising numbers as SLURM writes them: 0-3,7,9-12."""
    ranges: list[tuple[int, int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], number)
        else:
            ranges.append((number, number))
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)
