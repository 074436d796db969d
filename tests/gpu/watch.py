"""What nvidia-smi says of a GPU, several times a second, while something else runs."""

from __future__ import annotations

import statistics
import subprocess
import threading
import time
from dataclasses import dataclass

_ASKED = "utilization.gpu,memory.used,power.draw,clocks.sm"
_EVERY_MS = 200


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One reading. `working` is the share of the time just before in which a kernel ran, in percent."""

    time: float
    working: float
    memory_mib: float
    watts: float
    clock_mhz: float


@dataclass(frozen=True, kw_only=True)
class GpuUse:
    """The means over a time, and how many readings there were."""

    readings: int
    working_percent: float
    memory_mib: float
    watts: float
    clock_mhz: float


class Watch:
    """Reads in the background inside its `with` block. Without nvidia-smi it sees nothing."""

    def __init__(self, index: int | None) -> None:
        self.index = index
        self.seen: list[Seen] = []
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Watch:
        if self.index is None:
            return self
        words = ["nvidia-smi", f"--query-gpu={_ASKED}", "--format=csv,noheader,nounits", f"--loop-ms={_EVERY_MS}"]
        try:
            self._process = subprocess.Popen([*words, f"--id={self.index}"], stdout=subprocess.PIPE, text=True)
        except OSError as error:
            print(f"nvidia-smi does not start: {error}")
            return self
        threading.Thread(target=self._read, args=(self._process,), daemon=True, name="nvidia-smi").start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            try:
                working, memory, watts, clock = (float(word) for word in line.split(","))
            except ValueError:  # "[N/A]"
                continue
            self.seen.append(Seen(time=time.time(), working=working, memory_mib=memory, watts=watts, clock_mhz=clock))

    def between(self, start: float, end: float) -> GpuUse | None:
        """The means of the readings in a time, in seconds since 1970; None where there are none."""
        seen = [one for one in self.seen if start <= one.time <= end]
        if not seen:
            return None
        return GpuUse(
            readings=len(seen),
            working_percent=round(statistics.fmean(one.working for one in seen), 1),
            memory_mib=round(statistics.fmean(one.memory_mib for one in seen)),
            watts=round(statistics.fmean(one.watts for one in seen)),
            clock_mhz=round(statistics.fmean(one.clock_mhz for one in seen)),
        )
