"""SIGKILL at random instants, other numbers of workers, two jobs at once: the end is an undisturbed run's.

20 kills by default, 300 with `-m slow`; each test prints how many jobs were killed while they ran.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs.runs.layout import RunLayout
from jobs.runs.status import status
from jobs.runs.verify import verify
from tests.support.shard_files import market_shard
from tests.support.tiny import tiny_checkpoint

SHARDS, IMAGES = 14, 12
WORKERS = (0, 1, 2, 3)

# Imports torch once, then runs each job in a fork of its own, whose SIGKILL is as real as that of any process.
SERVER = """
import os, sys
import torch
torch.set_num_threads(1)
import jobs.mining.model, jobs.mining.worker, jobs.launch.drain
from jobs.cli import main
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        sys.stdin.close()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        if not os.environ.get("PROMPTSG_TEST_LOUD"):
            os.dup2(null, 2)
        os.setsid()
        main(line.rstrip("\\n").split("\\t"))
    print(child, flush=True)
"""


class Jobs:
    """Starts `promptsg` processes quickly, and kills them."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch  # the system's folder for temporary files, as the jobs see it
        self.server = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(scratch)},
        )

    def start(self, *words: object) -> int:
        assert self.server.stdin and self.server.stdout
        self.server.stdin.write("\t".join(str(word) for word in words) + "\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline())

    @staticmethod
    def kill(process: int) -> None:
        """SIGKILL to the job and all its processes, and waits until it is gone (its parent does not reap it)."""
        try:
            os.killpg(process, signal.SIGKILL)
        except ProcessLookupError:
            os.kill(process, signal.SIGKILL)

    @staticmethod
    def ended(process: int) -> bool:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"

    def wait(self, process: int, seconds: float = 240) -> None:
        deadline = time.monotonic() + seconds
        while not self.ended(process):
            assert time.monotonic() < deadline, "the job hangs"
            time.sleep(0.02)

    def close(self) -> None:
        assert self.server.stdin
        self.server.stdin.close()
        self.server.wait(timeout=30)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kill")
    tiny_checkpoint(folder / "m.pth", image_size=(64, 32))
    for number in range(SHARDS):
        market_shard(folder / f"train-{number:06d}.tar", IMAGES, first=IMAGES * number)
    return folder


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jobs]:
    jobs = Jobs(tmp_path_factory.mktemp("scratch"))
    yield jobs
    jobs.close()


def words(inputs: Path, output: Path, workers: int) -> list[object]:
    return [
        "mine", "--shards", f"{inputs}/*.tar", "--checkpoint", inputs / "m.pth", "--output", output,
        "--workers", workers,
        "--batch-size", 3, "--precision", "fp32", "--device", "cpu",
    ]  # fmt: skip


def contents(output: Path) -> tuple[list[dict], dict[str, dict[str, np.ndarray]]]:
    """All metadata rows, and all arrays by shard and name."""
    rows = [row for path in sorted((output / "metadata").iterdir()) for row in pq.read_table(path).to_pylist()]
    arrays: dict[str, dict[str, np.ndarray]] = {}
    for path in sorted((output / "maps").iterdir()):
        with h5py.File(path) as file:
            found = arrays.setdefault(path.name, {})
            file.visititems(
                lambda name, item, found=found: found.update({name: item[:]}) if hasattr(item, "shape") else None
            )
    return rows, arrays


@pytest.fixture(scope="module")
def undisturbed(inputs: Path, jobs: Jobs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("whole") / "RUN"
    jobs.wait(jobs.start(*words(inputs, output, 0)))
    assert status(output).done == SHARDS
    return output


def batter(jobs: Jobs, inputs: Path, output: Path, kills: int, at_once: int, seed: int) -> None:
    """Starts jobs with changing numbers of workers and kills each at a random instant; then lets one finish."""
    chance = random.Random(seed)
    tally: Counter[str] = Counter()
    for number in range(kills // at_once):
        workers = [WORKERS[(number + n) % len(WORKERS)] for n in range(at_once)]
        running = [jobs.start(*words(inputs, output, count)) for count in workers]
        for process, count in zip(running, workers, strict=True):
            time.sleep(chance.uniform(0.02, 0.8) / at_once)
            tally["after the end" if jobs.ended(process) else f"{count} workers"] += 1
            jobs.kill(process)
        for process in running:
            jobs.wait(process, 30)
        tally["temporary files left"] += len(leftovers(jobs, output))
        # Between any two attempts nothing half is seen: what is published is right.
        if (output / "run.json").exists() and number % 5 == 0:
            assert verify(output).problems == []
            tally["runs verified in between"] += 1
        if status_done(output) == SHARDS:  # all done before the kills ran out: begin again, so that each kill counts
            for path in list((output / "metadata").iterdir())[: SHARDS // 2]:
                path.unlink()
    last = [jobs.start(*words(inputs, output, n + 1)) for n in range(at_once)]
    for process in last:
        jobs.wait(process)
    left = len(leftovers(jobs, output))
    print(f"{kills} kills, {at_once} at once: {dict(sorted(tally.items()))}; {left} temporary files left at the end")


def leftovers(jobs: Jobs, output: Path) -> list[Path]:
    """Temporary files and folders of jobs, in the run and where the system has such files."""
    hidden = [path for path in output.rglob(".*") if path.name != RunLayout(output).lock.name]
    return [*hidden, *(path for path in jobs.scratch.iterdir() if not is_of_python(path))]


def is_of_python(path: Path) -> bool:
    """Whether Python's own library left it, which no program can sweep: it holds nothing that tells whose it is.

    `multiprocessing` has a folder for its sockets, and `tempfile` tries out a folder with a file of four bytes.
    """
    if path.is_dir():
        return path.name.startswith("pymp-") and all(inside.is_socket() for inside in path.iterdir())
    return path.read_bytes() in (b"", b"blat")


def status_done(output: Path) -> int:
    return status(output).done if (output / "run.json").exists() else 0


def assert_same(jobs: Jobs, output: Path, undisturbed: Path) -> None:
    rows, arrays = contents(output)
    wanted_rows, wanted_arrays = contents(undisturbed)
    assert len(rows) == SHARDS * IMAGES and rows == wanted_rows
    assert arrays.keys() == wanted_arrays.keys()
    for shard, wanted in wanted_arrays.items():
        assert arrays[shard].keys() == wanted.keys()
        for name, values in wanted.items():
            np.testing.assert_array_equal(arrays[shard][name], values, err_msg=f"{shard} {name}")
    verdict = verify(output)
    assert (verdict.problems, verdict.missing, verdict.intact) == ([], [], SHARDS)
    assert leftovers(jobs, output) == []


@pytest.mark.parametrize("at_once", [1, 2])
def test_kills_lose_and_double_nothing(
    inputs: Path, jobs: Jobs, undisturbed: Path, tmp_path: Path, at_once: int
) -> None:
    batter(jobs, inputs, tmp_path / "RUN", kills=20, at_once=at_once, seed=at_once)
    assert_same(jobs, tmp_path / "RUN", undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("at_once", [1, 2])
def test_three_hundred_kills(inputs: Path, jobs: Jobs, undisturbed: Path, tmp_path: Path, at_once: int) -> None:
    batter(jobs, inputs, tmp_path / "RUN", kills=300, at_once=at_once, seed=10 + at_once)
    assert_same(jobs, tmp_path / "RUN", undisturbed)
