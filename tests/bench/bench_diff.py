"""`promptsg diff` over many maps of two runs, against reading the same datasets of both with h5py in a bare loop.

    python -m tests.bench.bench_diff RUN_A RUN_B [--by camid] [--repetitions 5] [--cold]
    python -m tests.bench.bench_diff RUN_A RUN_B --make 1000000

The arms take turns. `bare` reads every dataset of the first map of both runs slice by slice and does nothing with it;
`pass` opens the runs, joins their images and measures and adds up all pairs; `command` is a whole `promptsg diff` in a
process of its own, with intervals, figures and report, whose peak memory is taken. `--make` first writes two runs of
that many made-up 16x8 maps of the same images, packed by name.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the command does

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from jobs.comparison.accumulate import accumulate_pairs, stored_columns
from jobs.comparison.pairing import Pairing
from jobs.memory import keep_freed_memory
from jobs.runs.run import Run, open_run
from jobs.statistics.chosen import choose_images
from jobs.statistics.question import make_question
from tests.bench.bench_stats import COMMAND, bare_loop, forget, make, spread


def one_pass(roots: tuple[Path, Path], by: list[str], folder: Path) -> int:
    """Pairs compared; from opening the runs to all sums over the first map."""
    a, b = (open_run(root) for root in roots)
    question = make_question(a, by=by, maps=a.maps[:1])
    chosen = choose_images(a, question, a.published())
    pairing = Pairing(a, b, stored_columns(question.maps))
    sums = accumulate_pairs(chosen, pairing, folder / "diff.parquet", {}, 1000)
    return int(sums.cluster_pairs.sum())


def whole(roots: tuple[Path, Path], name: str, by: list[str], folder: Path) -> None:
    """The command in a new process."""
    words = [*map(str, roots), "--map", name, "--output", str(folder), *(word for one in by for word in ("--by", one))]
    subprocess.run([sys.executable, "-c", COMMAND, "diff", *words], check=True, stdout=subprocess.DEVNULL)


def bare(runs: tuple[Run, Run]) -> int:
    """Values read of both runs."""
    return sum(bare_loop(run) for run in runs)


def main() -> None:
    """Prints the seconds of each arm, how many times the bare loop's they are, and the command's peak memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs=2)
    parser.add_argument("--by", action="append")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--cold", action="store_true", help="Read from the disk each time.")
    parser.add_argument("--make", type=int, metavar="COUNT", help="Write the runs, of this many images.")
    asked = parser.parse_args()
    keep_freed_memory()  # as the command does
    roots, by = (asked.runs[0], asked.runs[1]), asked.by or ["camid"]
    if asked.make:
        for seed, root in enumerate(roots):
            make(root, asked.make, shuffled=False, seed=seed)
    runs = (open_run(roots[0]), open_run(roots[1]))
    seconds: dict[str, list[float]] = {"bare": [], "pass": [], "command": []}
    processor: dict[str, list[float]] = {name: [] for name in seconds}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        arms = {
            "bare": lambda: bare(runs),
            "pass": lambda: one_pass(roots, by, folder),
            "command": lambda: whole(roots, runs[0].maps[0], by, folder),
        }
        for repetition in range(asked.repetitions + 1):
            for name, arm in arms.items():
                if asked.cold:
                    for root in roots:
                        forget(root)
                started, used = time.perf_counter(), sum(os.times()[:4])
                arm()
                if repetition:  # the first warms the caches
                    seconds[name].append(time.perf_counter() - started)
                    processor[name].append(sum(os.times()[:4]) - used)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"{bare(runs):,} values, {asked.repetitions} repetitions: median [quartiles], load {os.getloadavg()[0]:.1f}")
    for kind, times in (("wall seconds", seconds), ("processor seconds", processor)):
        for name, values in times.items():
            ratios = [value / one for value, one in zip(values, times["bare"], strict=True)]
            print(f"{kind:18s} {name:8s} {spread(values)}   times bare {spread(ratios)}")
    print(f"peak memory of the command: {peak:,.0f} MiB")


if __name__ == "__main__":
    main()
