"""Whether mining's memory stays flat over the length of a run: its peak after many images over that after few.

    python -m tests.bench.bench_memory --shards 'shards/*.tar' --checkpoint CKPT [--few 2000] [--many 20000]

Each run is a `promptsg mine` in a process of its own, over links to the shards under new names, as many as it takes to
hold that many images. The peak is the resident memory of the largest process, the one with the model.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from itertools import cycle
from pathlib import Path

from jobs.shards.samples import read_samples
from jobs.shards.tar import TarReader
from jobs.shards.urls import expand_shards


def link_shards(patterns: list[str], images: int, folder: Path) -> int:
    """Links to the shards, over and over, until they hold at least `images`; how many they hold."""
    shards = expand_shards(patterns)
    sizes = {}
    for shard in shards:
        with TarReader(shard) as tar:
            sizes[shard.url] = sum(data is not None for _, data in read_samples(tar, shard.name))
    if not sum(sizes.values()):
        raise SystemExit(f"{', '.join(patterns)}: no images in these shards")
    held = 0
    for number, shard in enumerate(cycle(shards)):
        if held >= images:
            return held
        (folder / f"copy-{number:06d}.tar").symlink_to(Path(shard.url).resolve())
        held += sizes[shard.url]
    return held


def peak_of_mining(shards: Path, words: list[str], output: Path) -> tuple[int, str]:
    """Bytes resident at the peak of `promptsg mine` over a folder of shards, and its last line."""
    command = [sys.executable, "-m", "jobs", "mine", "--shards", str(shards / "*.tar"), "--output", str(output), *words]
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        said.seek(0)
        last = re.split(r"[\r\n]+", said.read().strip())[-1]
    if status:
        raise SystemExit(f"mining failed: {last}")
    return 1024 * usage.ru_maxrss, last


def main() -> None:
    """Prints the peak of each length, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", nargs="+", required=True)
    parser.add_argument("--few", type=int, default=2000)
    parser.add_argument("--many", type=int, default=20_000)
    asked, words = parser.parse_known_args()
    peaks = []
    for images in (asked.few, asked.many):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            held = link_shards(asked.shards, images, folder)
            peak, last = peak_of_mining(folder, words, folder / "RUN")
            print(f"{held:,} images: peak {peak / 2**20:,.0f} MiB; {last}", flush=True)
            peaks.append(peak)
    print(f"ratio of the peaks: {peaks[1] / peaks[0]:.3f}")


if __name__ == "__main__":
    main()
