"""Names of layers and of the maps that models compute themselves (no torch).

The lists are those of all families of this package, for those who look at a request without a model: see
ReidModel.layers and ReidModel.native_maps.
"""

from __future__ import annotations

MIM_ATTENTION = "mim_attention"  # the map that PromptSG's MIM itself makes
CLS_ATTENTION = "cls_attention"  # of CLS to the patches, in the last block
LOCAL_ATTENTION = "local_attention"  # of CLS to the patches of each stripe, where stripes are read apart
ACTIVATION = "activation"  # the sum of squares over the channels of a CNN's last layer
PATCH_TEXT = "patch_text"  # the cosine of each projected patch token to the image's text
CROSS_ATTENTION = "cross_attention"  # of a text, or of a word in it, to the patches
LAYER_NAMES = ("mim", "vit_last", "vit_proj", "bottleneck", "classifier", "vit_norm", "local_norm", "conv5")
NATIVE_MAP_NAMES = (MIM_ATTENTION, CLS_ATTENTION, LOCAL_ATTENTION, PATCH_TEXT, CROSS_ATTENTION, ACTIVATION)
