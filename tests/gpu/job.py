"""The whole job from local shards: images per second of one and of several `promptsg mine` on one GPU."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from jobs.processes import available_cores
from jobs.runs.events import ShardEvent, read_events
from tests.gpu.parts import Kept, end_group, environment
from tests.gpu.setting import Setting
from tests.gpu.subjects import SEVEN
from tests.gpu.watch import GpuUse, Watch
from tests.support.imports import REPOSITORY

_START_SECONDS = 60.0  # until every process has published a shard
_LOOK_SECONDS = 0.1
_MOST_WORKERS = 8


@dataclass(frozen=True, kw_only=True)
class Arm:
    """So many processes at once. A `batch` of None is the program's own choice."""

    processes: int
    batch: int | None


@dataclass(frozen=True, kw_only=True)
class JobSpeed:
    """What the processes of an arm did together, from when each had published a shard.

    `main_process_us` is the processor time of the main processes, in microseconds an image. `gpu` is None without one.
    `problem` is what a process said that ended too early.
    """

    processes: int
    batch: int | None
    workers_each: int
    images_per_second: float | None
    main_process_us: float | None
    shards: int
    gpu: GpuUse | None
    problem: str = ""


def measure(setting: Setting, kept: Kept) -> None:
    """Keeps a JobSpeed for each arm."""
    batch, seconds = (4, 6.0) if setting.small else (256, 10.0)
    counts = (1, 2) if setting.small else (1, 3, 5)
    found: list[dict[str, object]] = []
    for arm in [*(Arm(processes=count, batch=batch) for count in counts), Arm(processes=1, batch=None)]:
        found.append(asdict(_speed_of(arm, setting, seconds)))
        print(found[-1])
        kept.put(found)


def command_of(arm: Arm, number: int, setting: Setting, run: Path) -> list[str]:
    """One of the processes: it mines its block of the shards."""
    words = [sys.executable, "-m", "jobs", "mine", "--shards", str(setting.shards), "--output", str(run)]
    words += ["--checkpoint", str(setting.checkpoint), "--image-size", "x".join(map(str, setting.image_size))]
    words += ["--device", setting.device, "--workers", str(workers_each(arm.processes, setting))]
    words += ["--array-index", str(number), "--array-count", str(arm.processes)]
    words += [word for name in SEVEN for word in ("--maps", name)]
    return words if arm.batch is None else [*words, "--batch-size", str(arm.batch)]


def workers_each(processes: int, setting: Setting) -> int:
    """Decoding processes of each: the cores that are left beside the main processes, divided."""
    cores = 1 + processes if setting.small else available_cores()
    return max(1, min(_MOST_WORKERS, cores // processes - 1))


def _speed_of(arm: Arm, setting: Setting, seconds: float) -> JobSpeed:
    folder = setting.scratch / "job"
    folder.mkdir()
    run = folder / "RUN"
    index = torch.device(setting.device).index or 0 if setting.on_gpu else None
    processes: list[subprocess.Popen[bytes]] = []
    with Watch(index) as watch:
        try:
            for number in range(arm.processes):
                with (folder / f"said-{number}.txt").open("w") as said:
                    words = command_of(arm, number, setting, run)
                    processes.append(subprocess.Popen(words, cwd=REPOSITORY, env=environment(), stdout=said,
                                                      stderr=said, start_new_session=True))  # fmt: skip
            problem = _until(lambda: _all_at_work(run), processes, _START_SECONDS)
            began, cpu_before = time.time(), _cpu_seconds(processes)
            if not problem:
                problem = _until(lambda: time.time() > began + seconds, processes, seconds + 1)
            ended, cpu = time.time(), _cpu_seconds(processes) - cpu_before
        finally:
            for process in processes:
                end_group(process)
    words_said = [path.read_text(errors="replace")[-600:] for path in sorted(folder.glob("said-*.txt"))]
    events = [event for event in read_events(run / "logs") if event.error is None] if run.exists() else []
    images = sum(event.images for event in events if began <= event.time <= ended)
    result = JobSpeed(
        processes=arm.processes,
        batch=arm.batch,
        workers_each=workers_each(arm.processes, setting),
        images_per_second=rate_between(events, began, ended),
        main_process_us=round(1e6 * cpu / images, 1) if images else None,
        shards=len(events),
        gpu=watch.between(began, ended),
        problem=f"{problem}: {words_said}" if problem else "",
    )
    shutil.rmtree(folder)
    return result


def rate_between(events: Sequence[ShardEvent], start: float, end: float) -> float | None:
    """Images per second from the last shard before `start` to the last one before `end`; None with fewer than two."""
    times = [event.time for event in events if event.time <= end]
    first = max((moment for moment in times if moment <= start), default=None)
    if first is None or (last := max(times)) <= first:
        return None
    return round(sum(event.images for event in events if first < event.time <= last) / (last - first), 1)


def _all_at_work(run: Path) -> bool:
    """Whether each process has published a shard: each has its own log."""
    logs = list((run / "logs").glob("shards-*.jsonl"))
    started = len(list(run.parent.glob("said-*.txt")))
    return len([log for log in logs if log.stat().st_size]) == started


def _until(condition: Callable[[], bool], processes: Sequence[subprocess.Popen[bytes]], seconds: float) -> str:
    """Waits for a condition. Says what happened instead: a process ended, or the time was over."""
    ends = time.time() + seconds
    while not condition():
        if any(process.poll() not in (None, 0) for process in processes):
            return f"a process ended with status {[process.poll() for process in processes]}"
        if all(process.poll() == 0 for process in processes):
            return "" if condition() else "all shards were mined too soon"
        if time.time() > ends:
            return f"not within {seconds:.0f} s"
        time.sleep(_LOOK_SECONDS)
    return ""


def _cpu_seconds(processes: Sequence[subprocess.Popen[bytes]]) -> float:
    """The processor time of processes, without that of the processes that they started."""
    ticks = 0
    for process in processes:
        with contextlib.suppress(OSError):  # it has ended
            fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])  # utime and stime of proc(5)
    return ticks / os.sysconf("SC_CLK_TCK")
