"""GPUs that were allotted to this process and that torch does not see: a mistake, not a reason to use the CPU."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from promptsg_core.errors import ModelError

# Set by schedulers and by users. (NVIDIA_VISIBLE_DEVICES is in many container images, with or without GPUs.)
_VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "SLURM_STEP_GPUS",
    "SLURM_JOB_GPUS",
    "SLURM_GPUS_ON_NODE",
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "GPU_DEVICE_ORDINAL",
)
_NONE = ("", "-1", "nodevfiles", "none", "void")  # how the variables say that there is no GPU
_COUNTS = ("SLURM_GPUS_ON_NODE",)  # a number, not a list of ids


def allotted_gpus(variables: Mapping[str, str]) -> str | None:
    """The first variable that allots GPUs, such as `CUDA_VISIBLE_DEVICES=0,1`; None if there is none."""
    for name in _VARIABLES:
        value = variables.get(name, "").strip()
        if value.lower() not in _NONE and not (name in _COUNTS and value == "0"):
            return f"{name}={value}"
    return None


def refuse_unseen_gpus(variables: Mapping[str, str]) -> None:
    """Raises ModelError where GPUs are allotted, if torch sees none: the CPU would take days, and nobody asked for it.

    To be called where torch sees no GPU.
    """
    if (found := allotted_gpus(variables)) is None:
        return
    built_for = torch.version.cuda or getattr(torch.version, "hip", None)
    if built_for is None:
        why = f"torch {torch.__version__} is built for CPUs only: install a build for GPUs"
    else:
        why = (
            f"torch {torch.__version__} is built for {built_for}: check with nvidia-smi that the driver runs, shows "
            "the GPU and is new enough for that, and that the job asks for GPUs"
        )
    raise ModelError(f"GPUs are allotted ({found}) and torch sees none; {why}. --device cpu runs on the CPU on purpose")
