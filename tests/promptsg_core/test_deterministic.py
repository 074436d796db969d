"""What torch is told so that a pass gives the same bytes again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from jobs.mining.model_options import ModelOptions
from promptsg_core.precision import compute_deterministically
from tests.support.tiny import tiny_checkpoint


@pytest.mark.parametrize("before", [None, ":16:8"])
def test_the_switches_are_set_where_a_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str | None
) -> None:
    tiny_checkpoint(tmp_path / "m.pth", image_size=(64, 32))
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", before or "")
    if before is None:
        monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    ModelOptions(checkpoint=tmp_path / "m.pth", device="cpu", precision="fp32").load()
    assert torch.backends.cudnn.deterministic and not torch.backends.cudnn.benchmark
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == (before or ":4096:8")  # what a user has set stays
    assert not torch.are_deterministic_algorithms_enabled()


def test_it_can_be_called_again() -> None:
    compute_deterministically()
    compute_deterministically()
    assert torch.backends.cudnn.deterministic
