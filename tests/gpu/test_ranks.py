"""Two `promptsg mine` at once on one GPU, and one of them killed: the end is a single process's run, to the byte."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from jobs.runs.verify import verify
from tests.gpu.mined import Inputs, assert_same_run, published
from tests.gpu.parts import end_group

pytestmark = pytest.mark.gpu

SECONDS = 120.0  # for processes that are started


@pytest.fixture(scope="module")
def inputs(device: torch.device, tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    shards, each = (40, 40) if device.type == "cuda" else (10, 3)
    return Inputs(folder=tmp_path_factory.mktemp("inputs"), shards=shards, images_each=each).write()


@pytest.fixture(scope="module")
def alone(inputs: Inputs, device: torch.device, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("alone") / "RUN"
    assert inputs.mine(run, device).exit_status == 0
    return run


def test_two_processes_on_one_device_make_one_run(
    inputs: Inputs, alone: Path, device: torch.device, tmp_path: Path
) -> None:
    with (tmp_path / "said.txt").open("w+") as said:
        both = [inputs.start(tmp_path / "RUN", device, number, 2, said) for number in range(2)]
        try:
            statuses = [process.wait(timeout=SECONDS) for process in both]
        finally:
            for process in both:
                end_group(process)
    assert statuses == [0, 0], (tmp_path / "said.txt").read_text()
    assert_same_run(tmp_path / "RUN", alone, inputs.shards)


def test_one_that_dies_stops_no_other_and_the_next_run_completes_it(
    inputs: Inputs, alone: Path, device: torch.device, tmp_path: Path
) -> None:
    run = tmp_path / "RUN"
    second_block = {f"train-{number:04d}" for number in range(inputs.shards // 2, inputs.shards)}
    with (tmp_path / "said.txt").open("w+") as said:
        survivor, victim = (inputs.start(run, device, number, 2, said) for number in range(2))
        try:
            deadline = time.monotonic() + SECONDS
            while not published(run) & second_block:
                assert time.monotonic() < deadline and victim.poll() is None, (tmp_path / "said.txt").read_text()
                time.sleep(0.002)
            end_group(victim)
            assert victim.returncode == -9 and not second_block <= published(run)
            assert survivor.wait(timeout=SECONDS) == 0, (tmp_path / "said.txt").read_text()
        finally:
            end_group(survivor)
            end_group(victim)
    left = inputs.shards - len(published(run))
    assert 0 < left < len(second_block)
    summary = inputs.mine(run, device)
    assert (summary.exit_status, summary.shards) == (0, left)
    assert_same_run(run, alone, inputs.shards)
    assert verify(run).exit_status == 0
