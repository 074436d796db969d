"""Time and memory of a call."""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class MemoryUse:
    """Bytes held before a call, and at its peak: allocated on the GPU, or resident in the process."""

    before: int
    peak: int


def median_seconds(work: Callable[[], object], device: torch.device, seconds: float) -> float:
    """The median time of a call: of at least two calls, and of more until they took `seconds` together."""
    import torch

    taken: list[float] = []
    while len(taken) < 2 or sum(taken) < seconds:
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def peak_memory(work: Callable[[], object], device: torch.device) -> MemoryUse | None:
    """Calls `work` once and returns its memory use; None where the system does not tell."""
    if device.type == "cuda":
        return _on_gpu(work, device)
    return _in_process(work)


def most_resident() -> int | None:
    """The most bytes that this process was resident in at any time; None where the system does not tell."""
    status = Path("/proc/self/status")
    return 1024 * _kibibytes(status, "VmHWM") if status.exists() else None


def available_memory() -> int | None:
    """Bytes that programs may still allocate on the host; None where the system does not tell."""
    meminfo = Path("/proc/meminfo")
    return 1024 * _kibibytes(meminfo, "MemAvailable") if meminfo.exists() else None


def _on_gpu(work: Callable[[], object], device: torch.device) -> MemoryUse:
    import torch

    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    return MemoryUse(before=before, peak=torch.cuda.max_memory_allocated(device))


def _in_process(work: Callable[[], object]) -> MemoryUse | None:
    status = Path("/proc/self/status")
    try:
        ctypes.CDLL(None).malloc_trim(0)  # memory that the allocator keeps from earlier work would hide this call's
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    except (OSError, AttributeError):
        work()
        return None
    before = 1024 * _kibibytes(status, "VmRSS")
    work()
    return MemoryUse(before=before, peak=1024 * _kibibytes(status, "VmHWM"))


def _kibibytes(file: Path, field: str) -> int:
    return next(int(line.split()[1]) for line in file.read_text().splitlines() if line.startswith(field + ":"))
