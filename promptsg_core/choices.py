"""Names that settings of several families may have (no torch)."""

from __future__ import annotations

PROMPT_MODES = ("composed", "simplified")
REWEIGHT_MODES = ("mul_mean1", "mul", "residual")
NECK_FEATS = ("before", "after")
INTERPOLATIONS = ("bilinear", "bicubic")
# The layers and the maps of their own that the families of this package have, for those who look at a request without a
# model: see ReidModel.layers and ReidModel.native_maps.
LAYER_NAMES = ("mim", "vit_last", "vit_proj", "bottleneck", "classifier", "vit_norm", "local_norm", "conv5")
NATIVE_MAP_NAMES = ("mim_attention", "cls_attention", "local_attention", "patch_text", "cross_attention", "activation")
