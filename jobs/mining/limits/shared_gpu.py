"""Workers that compute on one and the same GPU are told so: mostly a missing option of srun."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping

import torch

from jobs.launch.environment import Environment
from jobs.launch.ranks import Counter

logger = logging.getLogger(__name__)

_PART = "MIG-"  # how parts of a GPU are named


def tell_if_shared(device: torch.device, environment: Environment, counter: Counter) -> None:
    """One warning where a second rank of a task computes on the same GPU, by whichever of them comes second.

    It is allowed: with NVIDIA's MPS, or where one process cannot keep a GPU busy, it is meant.
    """
    if device.type != "cuda" or environment.world_size == 1:
        return
    gpu = gpu_identity(device, os.environ)
    if gpu is not None and counter.count(f"gpu/{gpu}") == 2:
        logger.warning(
            "several workers compute on one GPU (%s, %s), each with a part of its memory and its time: unless that is "
            "meant, give srun --gpus-per-task=1, or start one worker for each GPU",
            device, torch.cuda.get_device_name(device),
        )  # fmt: skip


def gpu_identity(device: torch.device, variables: Mapping[str, str]) -> str | None:
    """What tells the GPU of a CUDA device from any other, also where each process sees its own as number 0.

    Parts of a GPU (MIG) may report the whole one: they are told apart by CUDA_VISIBLE_DEVICES. None where torch does
    not say.
    """
    visible = [name.strip() for name in variables.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    number = device.index or 0
    if number < len(visible) and visible[number].startswith(_PART):
        return visible[number]
    uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
    return None if uuid is None else str(uuid)
