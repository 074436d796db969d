"""Names that settings of several families may have (no torch)."""

from __future__ import annotations

import re
from typing import Literal, TypeAlias, get_args

from promptsg_core.errors import ModelError

PROMPT_MODES = ("composed", "simplified")
REWEIGHT_MODES = ("mul_mean1", "mul", "residual")
NECK_FEATS = ("before", "after")
INTERPOLATIONS = ("bilinear", "bicubic")

# What to compute in; promptsg_core/precision.py says what `auto` is on a device.
Precision: TypeAlias = Literal["auto", "bf16", "fp16", "fp32", "tf32"]
PRECISION_NAMES: tuple[str, ...] = get_args(Precision)
# Devices that torch has and that are refused for a reason of their own pass here.
_DEVICE = re.compile(r"(auto|cpu|cuda|mps|xpu|hpu|xla|meta)(:[0-9]+)?")


def check_device_name(name: str) -> None:
    """Raises ModelError for a text that is no device's name. Whether the device is there, torch knows."""
    if _DEVICE.fullmatch(name) is None:
        raise ModelError(f"device {name!r} is not one: use auto, cpu, cuda or cuda:N")


def check_precision_name(name: str) -> None:
    """Raises ModelError for a text that is no precision's name."""
    if name not in PRECISION_NAMES:
        raise ModelError(f"precision {name!r} is not one of {', '.join(PRECISION_NAMES)}")
