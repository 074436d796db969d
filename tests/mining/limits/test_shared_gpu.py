"""Ranks that see one GPU are told so once, and parts of a GPU are not taken for one."""

from __future__ import annotations

import logging
from collections import Counter as Counts
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from jobs.launch.environment import Environment
from jobs.launch.ranks import Ranks
from jobs.mining import model as model_module
from jobs.mining.config import MineConfig
from jobs.mining.limits.shared_gpu import gpu_identity, tell_if_shared
from jobs.mining.model import load

PAIR = Environment(launcher="srun", world_size=2, local_world_size=2, address="127.0.0.1", port=1)


class Meeting:
    """What two ranks share, without processes."""

    def __init__(self) -> None:
        self.counts: Counts[str] = Counts()

    def next(self) -> int:
        raise AssertionError("no shard is drawn")

    def count(self, name: str) -> int:
        self.counts[name] += 1
        return self.counts[name]


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The UUIDs of the GPUs that this process sees, by number."""
    uuids = ["GPU-1", "GPU-2"]
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda d: SimpleNamespace(uuid=uuids[d.index or 0]))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Made Up 1")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return uuids


def test_the_second_rank_on_a_gpu_says_so_once(gpus: list[str], caplog: pytest.LogCaptureFixture) -> None:
    meeting = Meeting()
    for _ in range(3):  # each srun task sees its own GPU as number 0, and here it is the same one
        tell_if_shared(torch.device("cuda", 0), PAIR, meeting)
    assert [record.getMessage() for record in caplog.records] == [
        "several workers compute on one GPU (cuda:0, Made Up 1), each with a part of its memory and its time: unless "
        "that is meant, give srun --gpus-per-task=1, or start one worker for each GPU"
    ]
    assert caplog.records[0].levelno == logging.WARNING and dict(meeting.counts) == {"gpu/GPU-1": 3}


def test_ranks_with_gpus_of_their_own_are_told_nothing(gpus: list[str], caplog: pytest.LogCaptureFixture) -> None:
    meeting = Meeting()
    tell_if_shared(torch.device("cuda", 0), PAIR, meeting)
    tell_if_shared(torch.device("cuda", 1), PAIR, meeting)
    gpus[0] = "GPU-3"  # of another node, or shown to this task alone
    tell_if_shared(torch.device("cuda", 0), PAIR, meeting)
    for _ in range(2):
        tell_if_shared(torch.device("cpu"), PAIR, meeting)
        tell_if_shared(torch.device("cuda", 0), Environment(), meeting)  # alone, nobody is asked
    assert not caplog.records and sorted(meeting.counts.values()) == [1, 1, 1]


@pytest.mark.usefixtures("gpus")
def test_parts_of_a_gpu_are_told_apart_by_their_names() -> None:
    two_parts = {"CUDA_VISIBLE_DEVICES": "MIG-a, MIG-b"}
    assert [gpu_identity(torch.device("cuda", n), two_parts) for n in (0, 1)] == ["MIG-a", "MIG-b"]
    assert gpu_identity(torch.device("cuda"), {"CUDA_VISIBLE_DEVICES": "MIG-b"}) == "MIG-b"
    assert gpu_identity(torch.device("cuda", 1), {"CUDA_VISIBLE_DEVICES": "3,5"}) == "GPU-2"


def test_a_rank_alone_counts_itself() -> None:
    with Ranks(Environment()) as ranks:
        assert [ranks.count("gpu/a"), ranks.count("gpu/a")] == [1, 1]
        assert [ranks.next(), ranks.next()] == [0, 1]  # shards are drawn as ever


def test_a_rank_s_own_gpu_is_the_current_one_before_anything_is_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What names no device, such as pinned memory, would else take memory of the first GPU, for each rank."""

    class Loading(Exception):
        pass

    def refuse(*_: object) -> None:
        raise Loading

    current: list[torch.device] = []
    device = torch.device("cuda", 3)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setattr(model_module, "device_of_rank", lambda *_: device)
    monkeypatch.setattr(model_module, "precision_on", refuse)
    config = MineConfig(shards=("s.tar",), checkpoint=tmp_path / "m.pth", output=tmp_path / "RUN")
    with pytest.raises(Loading):
        load(config, (), ())
    assert current == [device]
    device = torch.device("cpu")
    with pytest.raises(Loading):
        load(config, (), ())
    assert len(current) == 1
