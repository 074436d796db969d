"""torchrun on the CPU: the ranks share a list, a killed rank ends the job soon, and the rerun completes it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from jobs.errors import UserError
from jobs.launch.environment import Environment
from jobs.launch.placement import idle_because, place_in_array
from jobs.mining.config import MineOptions, build_config
from jobs.mining.mine import mine
from jobs.mining.model import device_of_rank
from jobs.runs.run import open_run
from jobs.runs.verify import verify
from tests.support.shard_files import market_shard
from tests.support.tiny import tiny_checkpoint

SHARDS, IMAGES = 7, 10


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    tiny_checkpoint(folder / "m.pth", image_size=(64, 32))
    for number in range(SHARDS):
        market_shard(folder / f"train-{number}.tar", IMAGES, first=IMAGES * number)
    return folder


def options(inputs: Path, output: Path) -> dict:
    return {"shards": str(inputs / "*.tar"), "checkpoint": inputs / "m.pth", "output": output, "workers": 0,
            "batch_size": 5, "precision": "fp32", "device": "cpu"}  # fmt: skip


@pytest.fixture(scope="module")
def alone(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("alone") / "RUN"
    assert mine(build_config(None, options(inputs, output))).exit_status == 0
    return output


def start(inputs: Path, output: Path, ranks: int) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m", "jobs"]
    words.append("mine")
    for key, value in options(inputs, output).items():
        words += [f"--{key.replace('_', '-')}", str(value)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def assert_same(output: Path, alone: Path) -> None:
    one, other = open_run(output), open_run(alone)
    assert one.layout.done() == other.layout.done() and len(one.layout.done()) == SHARDS
    for shard in other.layout.done():
        assert one.read_keys(shard) == other.read_keys(shard)
        for name in other.maps:
            wanted = other.read_maps(name, shard)
            np.testing.assert_allclose(one.read_maps(name, shard), wanted, rtol=1e-4, atol=1e-5 * wanted.max())
    assert verify(output).exit_status == 0 and verify(output).images == SHARDS * IMAGES


@pytest.mark.slow  # by default two ranks complete what a killed job has left, below
def test_three_ranks_mine_what_one_process_mines(inputs: Path, alone: Path, tmp_path: Path) -> None:
    process = start(inputs, tmp_path / "RUN", 3)
    out, _ = process.communicate(timeout=240)
    assert process.returncode == 0, out
    assert_same(tmp_path / "RUN", alone)
    counts = [int(line.split(" images in ")[1].split()[0]) for line in out.splitlines() if " images in " in line]
    assert sum(counts) == SHARDS, out  # each shard was drawn once


def test_a_killed_rank_ends_the_job_and_the_rerun_completes_it(inputs: Path, alone: Path, tmp_path: Path) -> None:
    slow = tmp_path / "slow"
    slow.mkdir()
    for path in inputs.iterdir():
        (slow / path.name).symlink_to(path)
    process = start(slow, tmp_path / "RUN", 2)
    deadline = time.monotonic() + 120
    victims: list[int] = []
    while not victims:
        assert time.monotonic() < deadline, "no rank is at work"
        time.sleep(0.05)
        if list(tmp_path.glob("RUN/maps/.*.tmp")):  # a rank is at work
            victims = ranks_of(process.pid)
    os.kill(victims[-1], signal.SIGKILL)
    out, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "Signal 9 (SIGKILL)" in out or "exitcode  : -9" in out or "exitcode: -9" in out
    again = start(slow, tmp_path / "RUN", 2)
    out, _ = again.communicate(timeout=240)
    assert again.returncode == 0, out
    assert_same(tmp_path / "RUN", alone)


def ranks_of(parent: int) -> list[int]:
    """The processes that torchrun started."""
    listed = subprocess.run(["pgrep", "-P", str(parent)], capture_output=True, text=True)
    return [int(word) for word in listed.stdout.split()]


def test_blocks_without_slurm_make_the_whole(inputs: Path, alone: Path, tmp_path: Path) -> None:
    """--array-index and --array-count; more elements than shards leave some with nothing to do."""
    config = build_config(None, options(inputs, tmp_path / "RUN"))
    for index in reversed(range(9)):
        place = place_in_array(Environment(), index, 9)
        assert mine(config, MineOptions(environment=place)).exit_status == 0
    assert_same(tmp_path / "RUN", alone)


def test_places_that_make_no_sense_are_refused() -> None:
    with pytest.raises(UserError, match="--array-index needs --array-count"):
        place_in_array(Environment(), 1, None)
    with pytest.raises(UserError, match="--array-count needs --array-index"):
        place_in_array(Environment(), None, 3)
    with pytest.raises(UserError, match="--array-index is 3, but it counts from 0"):
        place_in_array(Environment(), 3, 3)
    submitted = Environment(array_index=2, array_count=4, task=2)
    assert place_in_array(submitted, None, None) == submitted
    assert place_in_array(submitted, 1, None).array_index == 1


def test_who_is_idle_is_said() -> None:
    assert idle_because(Environment(array_index=8, array_count=9), 0) == (
        "this element 8 of 9 has no shard: there are fewer shards than elements"
    )
    assert idle_because(Environment(world_size=4), 3) == "3 shards for 4 workers: 1 stay idle"
    assert idle_because(Environment(world_size=4), 4) is None


def test_one_gpu_for_each_rank_or_an_error_before_any_work() -> None:
    node = {"launcher": "torchrun", "world_size": 4, "local_world_size": 4, "rank": 3, "local_rank": 3}
    assert str(device_of_rank("auto", Environment(**node), gpus=4)) == "cuda:3"  # type: ignore[arg-type]
    with pytest.raises(UserError, match="4 workers were started on this node, but 2 GPUs are visible"):
        device_of_rank("auto", Environment(**node), gpus=2)  # type: ignore[arg-type]
    assert str(device_of_rank("auto", Environment(**node), gpus=0)) == "cpu"  # type: ignore[arg-type]
    own = {**node, "launcher": "srun"}
    assert str(device_of_rank("cuda", Environment(**own), gpus=1)) == "cuda:0"  # type: ignore[arg-type]
