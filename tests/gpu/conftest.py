"""The device of the tests marked `gpu`: they skip where there is none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from tests.gpu.subjects import USUAL
from tests.gpu.suite import DEVICE


@pytest.fixture(scope="session")
def device() -> torch.device:
    """A CUDA device; the CPU where the tests themselves are tried on it."""
    found = torch.device(os.environ.get(DEVICE, "cuda"))
    if found.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device that torch can use")
    return torch.device("cuda", found.index or 0) if found.type == "cuda" else found  # some calls want a number


@pytest.fixture(scope="session")
def gpu(device: torch.device) -> torch.device:
    """A real CUDA device, for what the CPU cannot stand in for."""
    if device.type != "cuda":
        pytest.skip("needs a CUDA device: the CPU has no such memory, streams or TF32")
    return device


@pytest.fixture(scope="session")
def usual_checkpoint(gpu: torch.device, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of the usual size, half a gigabyte; only where there is a GPU for it."""
    return USUAL.save(tmp_path_factory.mktemp("usual"))
