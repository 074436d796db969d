"""Which device and which floating-point type to compute in."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

from promptsg_core.allotted import refuse_unseen_gpus
from promptsg_core.errors import ModelError

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_device(name: str) -> torch.device:
    """The device of this name; `auto` is the first CUDA device, or else the CPU.

    Raises ModelError for a name that is no device, for a device that is not there, and for `auto` where GPUs are
    allotted to this process and none can be seen.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
        if name == "cpu":
            refuse_unseen_gpus(os.environ)
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ModelError(f"device {name!r} is not one: use auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise ModelError(f"device {name!r} is not supported: maps are computed and checked on cpu and cuda only")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ModelError(f"device {name!r} is not there: {torch.cuda.device_count()} CUDA devices are visible")
    return device


def resolve_precision(name: str, device: torch.device) -> str:
    """The precision of this name; `auto` is bf16 where the device has instructions for it, else fp16 on a GPU and fp32
    on a CPU. Raises ModelError for another name.
    """
    if name in PRECISIONS:
        return name
    if name != "auto":
        raise ModelError(f"precision {name!r} is not one of auto, {', '.join(PRECISIONS)}")
    if device.type == "cuda":
        # Volta and Turing emulate bf16; Ampere (8.0) is the first with instructions for it.
        return "bf16" if torch.cuda.get_device_capability(device)[0] >= 8 else "fp16"
    return "bf16" if _cpu_has_bf16() else "fp32"


def can_compute(precision: str, device: torch.device) -> bool:
    """Whether a device computes in this precision. A CPU without the instructions does, only more slowly; a GPU before
    Ampere has no bf16.
    """
    if device.type == "cuda" and precision == "bf16":
        return torch.cuda.get_device_capability(device)[0] >= 8
    return precision in PRECISIONS


def device_kind(device: torch.device) -> str:
    """What a device is, for people: a GPU's name and compute capability, or the kind of the processor."""
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return f"{torch.cuda.get_device_name(device)} (compute capability {major}.{minor})"
    return f"a CPU ({platform.machine() or 'unknown'}, {'with' if _cpu_has_bf16() else 'without'} bf16)"


def _cpu_has_bf16() -> bool:
    """Whether the processor has instructions for bf16; emulated bf16 is slower than float32."""
    cpuinfo = Path("/proc/cpuinfo")
    if platform.system() != "Linux" or not cpuinfo.exists():
        return False
    words = set(cpuinfo.read_text(errors="replace").split())
    return bool(words & {"avx512_bf16", "amx_bf16", "bf16"})
