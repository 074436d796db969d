"""Arms of a benchmark: several ways to compute the same, compared first, then timed in turns."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

Arm: TypeAlias = Callable[[], object]
Seconds: TypeAlias = dict[str, list[float]]


@dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        return cls(*(statistics.quantiles(values, n=4) if len(values) > 1 else 3 * [values[0]]))

    def __str__(self) -> str:
        return f"{self.median:.3f} [{self.low:.3f}, {self.high:.3f}]"


def distance(value: Tensor, ours: Tensor) -> float:
    """||value - ours|| / ||ours||; infinite where ours is all zero, which would prove nothing."""
    ours, value = ours.double().cpu(), value.double().cpu()
    return float((value - ours).norm() / ours.norm()) if ours.norm() > 0 else float("inf")


def require_equal(found: Mapping[str, float], tolerance: float) -> None:
    """Raises SystemExit naming what differs."""
    # `not <=` also catches NaN.
    if wrong := [f"{name} differs by {value:.2g}" for name, value in found.items() if not value <= tolerance]:
        raise SystemExit(f"the arms do not compute the same ({tolerance:g} is allowed): {'; '.join(wrong)}")


def measure(arms: Mapping[str, Arm], repetitions: int, warm_up: int, device: torch.device) -> tuple[Seconds, Seconds]:
    """Arm -> seconds of each repetition, on the wall clock and of the processor; the arms' order rotates by one."""
    names = list(arms)
    seconds: Seconds = {name: [] for name in names}
    processor: Seconds = {name: [] for name in names}
    for repetition in range(-warm_up, repetitions):
        shift = repetition % len(names)
        for name in names[shift:] + names[:shift]:
            _settle(device)
            started, used = time.perf_counter(), time.process_time()
            arms[name]()
            _settle(device)
            if repetition >= 0:
                seconds[name].append(time.perf_counter() - started)
                processor[name].append(time.process_time() - used)
        print(f"\r{repetition + 1:3d} of {repetitions}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return seconds, processor


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
