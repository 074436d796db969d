"""Names that settings of several families may have (no torch)."""

from __future__ import annotations

PROMPT_MODES = ("composed", "simplified")
REWEIGHT_MODES = ("mul_mean1", "mul", "residual")
NECK_FEATS = ("before", "after")
INTERPOLATIONS = ("bilinear", "bicubic")
