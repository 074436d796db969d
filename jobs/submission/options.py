"""What is requested of SLURM for a run, and how it becomes options of sbatch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from jobs.errors import UserError

# The long name of an option of sbatch -> its value, None for an option without a value.
SbatchOptions: TypeAlias = Mapping[str, str | None]

# A GPU with a ViT-B/16 takes the images that about so many cores decode; sites give one core where none are requested.
CORES_PER_GPU = 8
_OPTION_NAME = re.compile(r"[a-z][a-z0-9-]*")
# The batch script sets these itself: its trap, its log and its blocks depend on them.
_SET_BY_SCRIPT = (
    "array",
    "chdir",
    "dependency",
    "nodes",
    "ntasks",
    "open-mode",
    "output",
    "parsable",
    "requeue",
    "signal",
    "wrap",
)


@dataclass(frozen=True, kw_only=True)
class ArrayOptions:
    """What is requested of SLURM.

    `tasks` elements each mine a block of the shards, of which `max_running` may run at a time (None: all). With
    `gpus_per_task` 0 they mine on CPUs. An element has `cpus_per_task` cores, by default 8 for each of its GPUs. `time`
    (such as 4:00:00) is the limit of an element, `finalize_time` that of the job after the array; `partition` and
    `account` are for both jobs. `sbatch` are further options of the array job, and `finalize` those of the job after
    it. An element that is interrupted goes back to the queue at most `max_requeues` times. It is asked to stop
    `drain_seconds` before its time limit.
    """

    tasks: int
    max_running: int | None = None
    gpus_per_task: int = 1
    cpus_per_task: int | None = None
    time: str | None = None
    finalize_time: str | None = None
    partition: str | None = None
    account: str | None = None
    sbatch: SbatchOptions = field(default_factory=dict)
    finalize: SbatchOptions = field(default_factory=dict)
    max_requeues: int = 10
    drain_seconds: int = 180

    @property
    def for_array(self) -> SbatchOptions:
        """The options of the array job."""
        own: dict[str, str | None] = {}
        if (cores := self._cores) is not None:
            own["cpus-per-task"] = str(cores)
        if self.gpus_per_task:
            own["gpus-per-node"] = str(self.gpus_per_task)
        return {**own, **_given({"time": self.time}), **self._of_both, **self.sbatch}

    @property
    def _cores(self) -> int | None:
        """The cores of an element; None where SLURM is to decide. It refuses --cpus-per-gpu beside --cpus-per-task."""
        if self.cpus_per_task is None and self.gpus_per_task and "cpus-per-gpu" not in self.sbatch:
            return CORES_PER_GPU * self.gpus_per_task
        return self.cpus_per_task

    @property
    def for_finalize(self) -> SbatchOptions:
        """The options of the finalize job."""
        return {**_given({"time": self.finalize_time}), **self._of_both, **self.finalize}

    @property
    def _of_both(self) -> SbatchOptions:
        return _given({"partition": self.partition, "account": self.account})


def _given(options: SbatchOptions) -> SbatchOptions:
    """The options that have a value."""
    return {name: value for name, value in options.items() if value is not None}


def sbatch_options(flag: str, words: Sequence[str]) -> SbatchOptions:
    """The options that words such as `mem=64G` or `exclusive` mean; `flag` is what gave the words.

    Raises UserError if a word is not a long option of sbatch, or is one that the batch script sets itself.
    """
    found: dict[str, str | None] = {}
    for word in words:
        name, equals, value = word.partition("=")
        name = name.removeprefix("--")
        if _OPTION_NAME.fullmatch(name) is None:
            raise UserError(f"{flag} {word!r} is not an option of sbatch: give its long name, such as {flag} mem=64G")
        if name in _SET_BY_SCRIPT:
            raise UserError(f"{flag} {name} is set by the batch script itself; see `promptsg submit --help`")
        found[name] = value if equals else None
    return found
