"""Which device and which floating-point type to compute in, and what torch is told of float32 and of order."""

from __future__ import annotations

import logging
import os
import platform
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from promptsg_core.allotted import refuse_unseen_gpus
from promptsg_core.choices import PRECISION_NAMES
from promptsg_core.errors import ModelError

PRECISIONS: Mapping[str, torch.dtype] = {
    "fp32": torch.float32,
    "tf32": torch.float32,  # the products of float32 with fewer bits, see compute_float32
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}

logger = logging.getLogger(__name__)

_CUBLAS = "CUBLAS_WORKSPACE_CONFIG"
_AMPERE = 8  # the first compute capability with instructions for bf16 and TF32
_chosen: bool | None = None  # what the last call of compute_float32 chose


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
    """The precision of this name; `auto` is fp16 on a GPU, and on a CPU bf16 where it has instructions, else fp32.

    At the same speed fp16 is several times as close to fp32 as bf16. Its numbers end at 65,504: what is not finite is
    for the caller to compute again. Raises ModelError for another name, and for tf32 on a device without it.
    """
    if name == "auto":
        if device.type == "cuda":
            return "fp16"
        return "bf16" if _cpu_has_bf16() else "fp32"
    if name not in PRECISIONS:
        raise ModelError(f"precision {name!r} is not one of {', '.join(PRECISION_NAMES)}")
    if name == "tf32" and not can_compute(name, device):
        raise ModelError(
            f"the precision tf32 is of GPUs since Ampere, and {device_kind(device)} has none: take fp32, whose "
            "numbers are at least as exact"
        )
    return name


def resolve_training_precision(name: str, device: torch.device) -> str:
    """As `resolve_precision`, but `auto` is bf16 on a GPU that has it: the range of gradients counts there."""
    if name == "auto" and device.type == "cuda" and can_compute("bf16", device):
        return "bf16"
    return resolve_precision(name, device)


def can_compute(precision: str, device: torch.device) -> bool:
    """Whether a device computes in this precision. A CPU without the instructions for bf16 does, only more slowly; a
    GPU before Ampere has neither bf16 nor TF32, and a CPU has no TF32.
    """
    if device.type == "cuda" and precision in ("bf16", "tf32"):
        return torch.cuda.get_device_capability(device)[0] >= _AMPERE
    return precision in PRECISIONS and precision != "tf32"


def device_kind(device: torch.device) -> str:
    """What a device is, for people: a GPU's name and compute capability, or the kind of the processor."""
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return f"{torch.cuda.get_device_name(device)} (compute capability {major}.{minor})"
    return f"a CPU ({platform.machine() or 'unknown'}, {'with' if _cpu_has_bf16() else 'without'} bf16)"


def _cpu_has_bf16() -> bool:
    """Whether the processor has instructions for bf16; emulated bf16 is slower than float32."""
    return bool(_cpu_words() & {"avx512_bf16", "amx_bf16", "bf16"})


def cpu_has_amx() -> bool:
    """Whether the processor has Intel's instructions for products of bf16 matrices."""
    return "amx_bf16" in _cpu_words()


def _cpu_words() -> set[str]:
    """The words with which Linux describes the processor; none on other systems."""
    cpuinfo = Path("/proc/cpuinfo")
    if platform.system() != "Linux" or not cpuinfo.exists():
        return set()
    return set(cpuinfo.read_text(errors="replace").split())


def compute_float32(precision: str) -> None:
    """Sets how this process computes products of float32 from now on: TF32 for the precision tf32, else float32.

    TF32 reads the first 10 bits of a factor's 23. torch allows it for convolutions unless it is told otherwise, such as
    the patch embedding of a tower in fp32. In bf16 and fp16 too, what is float32 is float32. Products of fp16 and bf16
    are summed in float32 to the end: a partial sum in fp16 may overflow. What an earlier model was loaded with changes
    too, and a warning says so.
    """
    global _chosen
    tf32 = precision == "tf32"
    if _chosen is not None and _chosen != tf32:
        logger.warning(
            "from now on this process computes float32 %s, also for models that it loaded before",
            "in TF32" if tf32 else "without TF32",
        )
    _chosen = tf32
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*new API settings.*")  # both are set, for every version of torch
        _set_switches(tf32)
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False


def _set_switches(tf32: bool) -> None:
    """Sets the switches of old and of new versions of torch alike: where they differ, reading one raises."""
    torch.set_float32_matmul_precision("highest")  # on a CPU too
    backends: Any = torch.backends  # the types of the newer switches are not known
    backends.cuda.matmul.allow_tf32 = backends.cudnn.allow_tf32 = tf32
    if not hasattr(backends.cudnn, "conv"):  # torch before 2.9
        return
    # Each operation has a switch of its own, which wins over the general ones.
    for of_gpu in (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn):
        of_gpu.fp32_precision = "tf32" if tf32 else "ieee"
    for of_cpu in (backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn):
        of_cpu.fp32_precision = "ieee"


def compute_deterministically() -> None:
    """Sets torch's switches of this process so that a pass over the same batch gives the same bytes again.

    To be called before a model is on a GPU. cuDNN then takes no algorithm by a race of all, nor one that adds up in an
    order that changes. cuBLAS gets as much memory of its own on each stream as torch gives it on a current GPU anyway,
    so that two streams do not make it choose another algorithm. No operator is forbidden, as
    `torch.use_deterministic_algorithms` would do: of those in use, only the backward pass of fused attention adds up in
    any order, and the towers avoid it where a gradient runs. The backward pass of `gather`, by which the logit of a
    class is taken, adds one number to each place at most.
    """
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    os.environ.setdefault(_CUBLAS, ":4096:8")
