"""Names that settings of several families may have (no torch)."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

PROMPT_MODES = ("composed", "simplified")
REWEIGHT_MODES = ("mul_mean1", "mul", "residual")
NECK_FEATS = ("before", "after")
INTERPOLATIONS = ("bilinear", "bicubic")

# What to compute in; promptsg_core/precision.py says what `auto` is on a device.
Precision: TypeAlias = Literal["auto", "bf16", "fp16", "fp32", "tf32"]
PRECISION_NAMES: tuple[str, ...] = get_args(Precision)
