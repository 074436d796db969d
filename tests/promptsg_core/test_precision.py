"""What `auto` is on each device, and that fp32 is float32, whatever torch's switches were before."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from promptsg_core import load_model, precision
from promptsg_core.choices import PRECISION_NAMES
from promptsg_core.errors import ModelError
from promptsg_core.precision import (
    PRECISIONS,
    can_compute,
    compute_float32,
    resolve_precision,
    resolve_training_precision,
)
from tests.support.tiny import tiny_checkpoint

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def _float32_afterwards(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test begins as a fresh process does, and leaves torch's switches as every load in fp32 does."""
    monkeypatch.setattr(precision, "_chosen", None)
    yield
    torch.backends.fp32_precision = "none"  # type: ignore[assignment]
    monkeypatch.setattr(precision, "_chosen", None)
    compute_float32("fp32")


def gpu_of(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]) -> torch.device:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Made Up 1")
    return GPU


def switches() -> dict[str, object]:
    """All of torch's switches for float32, old and new; where they contradict each other, reading one raises."""
    backends = torch.backends
    return {
        "cuBLAS": backends.cuda.matmul.allow_tf32,
        "cuDNN": backends.cudnn.allow_tf32,
        "products": torch.get_float32_matmul_precision(),
        "cuBLAS, new": backends.cuda.matmul.fp32_precision,
        "convolutions": backends.cudnn.conv.fp32_precision,
        "CPU": backends.mkldnn.matmul.fp32_precision,
        "CPU, convolutions": backends.mkldnn.conv.fp32_precision,
    }


EXACT = {"cuBLAS": False, "cuDNN": False, "products": "highest", "cuBLAS, new": "ieee", "convolutions": "ieee",
         "CPU": "ieee", "CPU, convolutions": "ieee"}  # fmt: skip
TF32 = {**EXACT, "cuBLAS": True, "cuDNN": True, "products": "high", "cuBLAS, new": "tf32", "convolutions": "tf32"}
needs_new_switches = pytest.mark.skipif(
    not hasattr(torch.backends.cudnn, "conv"), reason="needs torch 2.9 or later, where each operation has a switch"
)


def test_the_names_are_listed_once() -> None:
    assert set(PRECISION_NAMES) == {"auto", *PRECISIONS}


def test_auto_on_a_gpu_is_fp16_and_for_training_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    for capability, training in [((7, 0), "fp16"), ((7, 5), "fp16"), ((8, 0), "bf16"), ((9, 0), "bf16")]:
        gpu = gpu_of(monkeypatch, capability)
        assert resolve_precision("auto", gpu) == "fp16"
        assert resolve_training_precision("auto", gpu) == training
        assert resolve_precision("bf16", gpu) == resolve_training_precision("bf16", gpu) == "bf16"


@pytest.mark.parametrize(("bf16", "auto"), [(True, "bf16"), (False, "fp32")])
def test_auto_on_a_cpu(monkeypatch: pytest.MonkeyPatch, bf16: bool, auto: str) -> None:
    monkeypatch.setattr(precision, "_cpu_has_bf16", lambda: bf16)
    assert resolve_precision("auto", CPU) == resolve_training_precision("auto", CPU) == auto
    with pytest.raises(ModelError, match="precision 'fp23' is not one of auto, bf16, fp16, fp32, tf32"):
        resolve_precision("fp23", CPU)


def test_tf32_is_refused_where_it_would_be_another_name_for_fp32(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert resolve_precision("tf32", gpu_of(monkeypatch, (8, 0))) == "tf32" and can_compute("tf32", GPU)
    for device, named in [(CPU, r"a CPU \(.*\)"), (gpu_of(monkeypatch, (7, 5)), r"Made Up 1 \(compute capability 7.5")]:
        assert not can_compute("tf32", device)
        with pytest.raises(ModelError, match=f"tf32 is of GPUs since Ampere, and {named}.* has none: take fp32"):
            resolve_precision("tf32", device)
    tiny_checkpoint(tmp_path / "m.pth", image_size=(64, 32))
    with pytest.raises(ModelError, match="take fp32"):
        load_model(tmp_path / "m.pth", device="cpu", precision="tf32")


@needs_new_switches
@pytest.mark.parametrize("loaded_in", ["fp32", "bf16", "fp16"])
def test_a_model_that_is_loaded_computes_float32_without_tf32(tmp_path: Path, loaded_in: str) -> None:
    tiny_checkpoint(tmp_path / "m.pth", image_size=(64, 32))
    for before in ("torch's default", "old", "new", "general"):
        torch.backends.cudnn.allow_tf32 = True
        if before == "old":
            torch.set_float32_matmul_precision("medium")
        if before == "new":
            torch.backends.cudnn.conv.fp32_precision = torch.backends.cuda.matmul.fp32_precision = "tf32"
        if before == "general":
            torch.backends.fp32_precision = "tf32"  # type: ignore[assignment]
        torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = True
        load_model(tmp_path / "m.pth", device="cpu", precision=loaded_in)
        assert switches() == EXACT, before
        assert not torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction
        assert not torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction


@needs_new_switches
def test_tf32_is_for_the_whole_process_and_a_change_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), warnings.catch_warnings():
        warnings.simplefilter("error")
        compute_float32("tf32")
        compute_float32("tf32")
        assert switches() == TF32 and not caplog.records
        compute_float32("fp16")
        assert switches() == EXACT
        compute_float32("fp32")
    assert [record.getMessage() for record in caplog.records] == [
        "from now on this process computes float32 without TF32, also for models that it loaded before"
    ]
