"""Two CPU processes against one, one thread each, on the same shards: `python -m tests.bench.bench_workers`.

The arms alternate, and each repetition starts from an empty run. Start-up (importing torch, loading the checkpoint) is
left out: the time is that from the first shard drawn to the last one published, by the run's own event log.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from jobs.runs.events import read_events
from tests.support.shard_files import market_shard
from tests.support.tiny import tiny_checkpoint


def mine_with(processes: int, inputs: Path, output: Path) -> float:
    """Images a second of one run, by the event log."""
    words = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={processes}",
        "-m",
        "jobs",
    ]
    words += ["mine", "--shards", f"{inputs}/*.tar", "--checkpoint", str(inputs / "m.pth"), "--output", str(output)]
    words += ["--device", "cpu", "--precision", "fp32", "--workers", "0", "--batch-size", "32"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    subprocess.run(words, check=True, env=environment, capture_output=True)
    events = read_events(output / "logs")
    first = min(event.started for event in events)
    return sum(event.images for event in events) / (max(event.time for event in events) - first)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--shards", type=int, default=16)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder) / "inputs"
        inputs.mkdir()
        wide = {"vision_width": 256, "vision_heads": 4, "vision_layers": 6, "embed_dim": 128, "mim_heads": 8}
        tiny_checkpoint(inputs / "m.pth", image_size=(64, 32), **wide)
        for number in range(options.shards):
            market_shard(inputs / f"s-{number:03d}.tar", 150, first=number)
        rates: dict[int, list[float]] = {1: [], 2: []}
        for repetition in range(options.repetitions):
            for processes in (1, 2):
                rates[processes].append(mine_with(processes, inputs, Path(folder) / f"RUN-{repetition}-{processes}"))
        ratios = [two / one for one, two in zip(rates[1], rates[2], strict=True)]
        quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios
        found = {"one": rates[1], "two": rates[2], "median ratio": statistics.median(ratios), "quartiles": quartiles}
        print(json.dumps({**found, "load": os.getloadavg(), "time": time.strftime("%F %T")}))


if __name__ == "__main__":
    main()
