"""What tells a process of this machine from any other, so that nobody is taken for dead, or for alive, by mistake."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

_START, _ZOMBIE = 19, "Z"  # where a process's stat has its start, counted behind its name; and the state of a dead one


@dataclass(frozen=True, kw_only=True)
class ProcessMark:
    """A process: `boot` is that of its machine, `namespace` that of its numbers, `start` the ticks when it began.

    Hosts may share a name, containers a machine, and a number is given again: all three together are one process's.
    """

    boot: str
    namespace: str
    pid: int
    start: str

    @classmethod
    def of_this_process(cls) -> ProcessMark | None:
        """That of whoever calls it; None where the system does not tell (it is not Linux)."""
        try:
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            namespace = str(Path("/proc/self/ns/pid").readlink())
            state = _state_of(os.getpid())
        except OSError:
            return None
        return cls(boot=boot, namespace=namespace, pid=os.getpid(), start=state[1])

    def seen_from_here(self) -> Literal["alive", "gone", "unknown"]:
        """Whether the process is there: unknown for one of another machine or container, or that may not be seen."""
        own = ProcessMark.of_this_process()
        if own is None or (own.boot, own.namespace) != (self.boot, self.namespace):
            return "unknown"
        try:
            os.kill(self.pid, 0)  # sends nothing; a system may hide others' folders in /proc, and not this
        except ProcessLookupError:
            return "gone"
        except OSError:
            return "unknown"
        try:
            state, start = _state_of(self.pid)
        except OSError:
            return "unknown"
        return "alive" if start == self.start and state != _ZOMBIE else "gone"


def _state_of(pid: int) -> tuple[str, str]:
    """The state of a process, and its start in ticks since the machine was booted. Raises OSError."""
    behind_name = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    return behind_name[0], behind_name[_START]
