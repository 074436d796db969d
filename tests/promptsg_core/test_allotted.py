"""GPUs that are allotted and not seen: an error instead of days on the CPU."""

from __future__ import annotations

import pytest
import torch

from promptsg_core.allotted import allotted_gpus
from promptsg_core.errors import ModelError
from promptsg_core.precision import can_compute, resolve_device

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({}, None),
        ({"CUDA_VISIBLE_DEVICES": "0,1", "SLURM_JOB_GPUS": "4"}, "CUDA_VISIBLE_DEVICES=0,1"),
        ({"CUDA_VISIBLE_DEVICES": "GPU-8f2c"}, "CUDA_VISIBLE_DEVICES=GPU-8f2c"),
        ({"CUDA_VISIBLE_DEVICES": "", "SLURM_JOB_GPUS": "0"}, "SLURM_JOB_GPUS=0"),
        ({"SLURM_STEP_GPUS": "2", "SLURM_GPUS_ON_NODE": "1"}, "SLURM_STEP_GPUS=2"),
        ({"SLURM_GPUS_ON_NODE": "2"}, "SLURM_GPUS_ON_NODE=2"),
        ({"SLURM_GPUS_ON_NODE": "0"}, None),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, None),  # how people hide GPUs
        ({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, None),  # how older Slurms do
        ({"NVIDIA_VISIBLE_DEVICES": "all"}, None),  # in every image of NVIDIA's
    ],
)
def test_what_allots_gpus(variables: dict[str, str], found: str | None) -> None:
    assert allotted_gpus(variables) == found


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")


@pytest.mark.usefixtures("no_gpu")
def test_auto_does_not_fall_back_to_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "12.4")
    with pytest.raises(ModelError, match=r"\(CUDA_VISIBLE_DEVICES=0\) and torch sees none; torch .* built for 12.4: "
                       r"check with nvidia-smi .* --device cpu runs on the CPU on purpose"):  # fmt: skip
        resolve_device("auto")
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(ModelError, match="is built for CPUs only: install a build for GPUs"):
        resolve_device("auto")
    assert resolve_device("cpu") == CPU
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert resolve_device("auto") == CPU


def test_what_a_device_can_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(can_compute(precision, CPU) for precision in ("fp32", "bf16", "fp16"))
    for capability, bf16 in [((7, 0), False), ((7, 5), False), ((8, 0), True), ((9, 0), True)]:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, found=capability: found)
        gpu = torch.device("cuda", 0)
        assert (can_compute("fp32", gpu), can_compute("fp16", gpu), can_compute("bf16", gpu)) == (True, True, bf16)
