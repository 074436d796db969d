"""What malloc is told, also where it refuses; and what that saves."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys

import numpy as np
import pytest

from jobs.memory import keep_freed_memory, limited_growth, machine_memory


@pytest.mark.parametrize(
    ("largest", "asked"),
    [(1 << 40, [(-3, 1 << 30), (-1, 1 << 30)]), (32 << 20, [(-3, 1 << 30), (-3, 32 << 20), (-1, 32 << 20)])],
)
def test_the_largest_size_that_malloc_allows_is_taken(largest: int, asked: list[tuple[int, int]]) -> None:
    calls: list[tuple[int, int]] = []

    def mallopt(option: int, size: int) -> int:
        calls.append((option, size))
        return int(size <= largest)

    assert keep_freed_memory(mallopt)
    assert calls == asked


def test_after_a_refusal_nothing_is_changed() -> None:
    calls: list[int] = []

    def mallopt(option: int, size: int) -> int:
        calls.append(option)
        return 0

    assert not keep_freed_memory(mallopt)
    assert set(calls) == {-3}


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_large_blocks_are_not_cleared_again() -> None:
    code = """
import resource, sys
import numpy as np
from jobs.memory import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(12 << 20, np.float32)
before = faults()
for _ in range(20):
    np.ones(12 << 20, np.float32)  # 48 MiB
print(faults() - before)
"""
    kept, fresh = (
        int(subprocess.run([sys.executable, "-c", code, word], check=True, capture_output=True).stdout)
        for word in ("kept", "fresh")
    )
    assert kept < fresh / 4


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit is Linux's")
def test_growth_is_limited_for_a_time() -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with limited_growth(64 << 20):
        assert len(np.ones(1 << 20)) == 1 << 20  # 8 MB
        with pytest.raises(MemoryError):
            np.ones(100 << 20)
        with limited_growth(1 << 40), pytest.raises(MemoryError):  # never more than is allowed already
            np.ones(100 << 20)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    assert len(np.ones(20 << 20)) == 20 << 20


def test_the_machine_says_how_much_memory_it_has() -> None:
    found = machine_memory()
    assert found is None or 64 << 20 < found < 1 << 50
