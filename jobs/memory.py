"""Memory: how this process keeps what it has freed, how much there is, and how to tell that there was not enough."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_LARGE_SIZES = (1 << 30, 32 << 20)  # the second is the most that older versions allow
# What torch and its libraries say, beside raising torch.OutOfMemoryError.
_OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "ALLOC_FAILED")


def keep_freed_memory(mallopt: Callable[[int, int], int] | None = None) -> bool:
    """Makes glibc's malloc reuse large blocks instead of returning each to the system. Returns whether it will.

    A batch allocates and frees tensors of tens of megabytes, and the system clears every page of them each time. On
    two cores that was a fifth of the time of the head and its gradients (measured). In return the process keeps as much
    memory as it has ever used. Without glibc nothing happens. `mallopt` is glibc's own unless it is given.
    """
    try:
        set_option = mallopt or ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # no glibc
        return False
    for size in _LARGE_SIZES:
        if set_option(_MMAP_THRESHOLD, size):
            # Only now: the trim threshold alone would fix the other one at its small default.
            return bool(set_option(_TRIM_THRESHOLD, size))
    return False


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory, of the machine or of a GPU, did not suffice (no torch)."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)


def free_what_failed() -> None:
    """After an attempt that memory did not suffice for: gives back what it held, on a GPU as well (imports no torch).

    To be called once its error is gone, which holds what the attempt had allocated.
    """
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def machine_memory() -> int | None:
    """The bytes of memory that the machine, or the job's control group, has in all; None where neither says."""
    found = []
    with contextlib.suppress(OSError, ValueError, AttributeError):
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # "max" is no number
            found.append(int(Path(path).read_text()))
    return min((size for size in found if size > 0), default=None)


@contextlib.contextmanager
def limited_growth(size: int) -> Iterator[None]:
    """Lets this process allocate at most `size` more bytes; allocating beyond fails, and is not killed later.

    It is a limit of the whole process, so that no other thread should work meanwhile. Nothing happens on systems other
    than Linux, and where /proc is not to be had.
    """
    allocated = _allocated()
    if allocated is None:
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    bounds = [allocated + size, *(bound for bound in before if bound != resource.RLIM_INFINITY)]
    resource.setrlimit(resource.RLIMIT_DATA, (min(bounds), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _allocated() -> int | None:
    """The bytes that count for RLIMIT_DATA, private memory that can be written; None where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmData:")), None)
