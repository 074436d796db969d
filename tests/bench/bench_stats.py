"""`promptsg stats` over many maps, against reading the same datasets with h5py in a bare loop.

    python -m tests.bench.bench_stats RUN [--by camid] [--repetitions 5] [--cold]
    python -m tests.bench.bench_stats RUN --make 1000000 [--shuffled]

The arms take turns, so that a busy machine slows all, on files that the operating system already has in memory, or
with `--cold` on files that it has been told to forget, as those of a long run are. `bare` reads every dataset of the
first map slice by slice and does nothing with it; `pass` opens the run, chooses the images and adds up all their maps;
`command` is a whole `promptsg stats` in a process of its own, with intervals, figures and report, whose peak memory is
taken. `--make` first writes a run of that many made-up 16x8 maps, packed by name as `promptsg shard` packs, or in no
order.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the command does

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

from jobs.memory import keep_freed_memory
from jobs.runs.maps_file import MAPS
from jobs.runs.run import Run, open_run
from jobs.shards.samples import Sample
from jobs.statistics.accumulate import accumulate
from jobs.statistics.chosen import choose_images
from jobs.statistics.question import make_question
from jobs.statistics.stats import block_shards
from jobs.statistics.stored import stored_columns
from tests.support.made_runs import made_manifest, made_shard

SHARD, STEP = 10_000, 1024
COMMAND = "from jobs.cli import main; main()"


def make(root: Path, count: int, shuffled: bool, seed: int = 0) -> None:
    """Shards of 10,000 images, about 50 of an identity, before six cameras; one in a hundred is junk.

    The images do not depend on the seed, their maps do.
    """
    names = [f"train-{index:06d}" for index in range(-(-count // SHARD))]
    manifest = made_manifest(root, names)
    rows, columns = np.mgrid[0:16, 0:8]
    for index, name in enumerate(names):
        rng = np.random.default_rng(index)
        size = min(SHARD, count - index * SHARD)
        people = rng.integers(max(1, count // 50), size=size) if shuffled else (index * SHARD + np.arange(size)) // 50
        cameras = rng.integers(6, size=size)
        if not shuffled:
            cameras = cameras[np.lexsort((cameras, people))]
        pid = np.where(rng.random(size) < 0.01, -1, people)
        rng = np.random.default_rng((seed, index)) if seed else rng
        y, x = 6 + pid % 5 + rng.normal(0, 1, size), 3.5 + rng.normal(0, 0.7, size)
        peak = np.exp(-((rows - y[:, None, None]) ** 2) / 18 - (columns - x[:, None, None]) ** 2 / 5)
        maps = (peak * rng.gamma(2, 0.5, peak.shape)).astype(np.float32)
        samples = [
            Sample(key=f"{name}-{i:05d}", tar_index=i, pid=int(p), camid=int(c), split="train")
            for i, (p, c) in enumerate(zip(pid, cameras, strict=True))
        ]
        made_shard(root, manifest, name, samples, mim_attention=maps)


def bare_loop(run: Run) -> int:
    """Values read."""
    total = 0
    for shard in sorted(run.layout.done()):
        with h5py.File(run.layout.shard_maps(shard), "r", locking=False) as file:
            dataset = file[f"{MAPS}/{run.maps[0]}"]
            for start in range(0, len(dataset), STEP):
                total += dataset[start : start + STEP].size
    return total


def one_pass(root: Path, by: list[str]) -> int:
    """Images chosen; from opening the run to all sums over the first map."""
    run = open_run(root)
    question = make_question(run, by=by, maps=run.maps[:1])
    chosen = choose_images(run, question, block_shards(run, None), stored_columns(run, question.maps))
    return int(accumulate(chosen).images.sum())


def whole(run: Run, by: list[str], folder: str) -> None:
    """The command in a new process."""
    words = ["--map", run.maps[0], "--output", folder, *(word for name in by for word in ("--by", name))]
    subprocess.run(
        [sys.executable, "-c", COMMAND, "stats", str(run.layout.root), *words], check=True, stdout=subprocess.DEVNULL
    )


def forget(root: Path) -> None:
    """Drops the run's files from the operating system's memory, so that the next reader waits for the disk."""
    for path in root.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fdatasync(file.fileno())  # only what is on disk is dropped
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def spread(values: list[float]) -> str:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:7.2f} [{low:.2f}, {high:.2f}]"


def main() -> None:
    """Prints the seconds of each arm, how many times the bare loop's they are, and the command's peak memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--by", action="append")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--cold", action="store_true", help="Read from the disk each time.")
    parser.add_argument("--shuffled", action="store_true", help="Of --make: images in no order.")
    parser.add_argument("--make", type=int, metavar="COUNT", help="Write RUN, of this many images.")
    asked = parser.parse_args()
    keep_freed_memory()  # as the command does
    if asked.make:
        make(asked.run, asked.make, asked.shuffled)
    run, by = open_run(asked.run), asked.by or ["camid"]
    seconds: dict[str, list[float]] = {"bare": [], "pass": [], "command": []}
    processor: dict[str, list[float]] = {name: [] for name in seconds}
    with tempfile.TemporaryDirectory() as folder:
        arms = {
            "bare": lambda: bare_loop(run),
            "pass": lambda: one_pass(asked.run, by),
            "command": lambda: whole(run, by, folder),
        }
        for repetition in range(asked.repetitions + 1):
            for name, arm in arms.items():
                if asked.cold:
                    forget(asked.run)
                started, used = time.perf_counter(), sum(os.times()[:4])
                arm()
                if repetition:  # the first warms the caches
                    seconds[name].append(time.perf_counter() - started)
                    processor[name].append(sum(os.times()[:4]) - used)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(
        f"{bare_loop(run):,} values, {asked.repetitions} repetitions, "
        f"{'cold' if asked.cold else 'warm'}: median [quartiles]"
    )
    for kind, times in (("wall seconds", seconds), ("processor seconds", processor)):
        for name, values in times.items():
            ratios = [value / bare for value, bare in zip(values, times["bare"], strict=True)]
            print(f"{kind:18s} {name:8s} {spread(values)}   times bare {spread(ratios)}")
    print(f"peak memory of the command: {peak:,.0f} MiB")


if __name__ == "__main__":
    main()
