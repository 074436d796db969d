"""What the two halves of a model give: `encode` an Encoded, `head` a HeadOutput.

Legend: B batch, M patches, N = 1+M tokens (CLS first), D channels, E joint width, C classes, H heads.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypedDict

from torch import Tensor

from promptsg_core.taps import Tap

MIM_ATTENTION = "mim_attention"  # the map that the MIM itself makes


def attention_map_name(prompt: str) -> str:
    """The name of the attention map for a further prompt."""
    return f"{MIM_ATTENTION}:{prompt}"


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """What the frozen part of the model gives for a batch. Nothing here carries a gradient.

    tokens (B, N, D): the last ViT block's output, CLS first. cls_final (B, D): `ln_post` of CLS. v (B, E): its
    projection. text (B, E), or (1, E) for a prompt that is the same for every image. prompt_texts: the same for each
    further prompt, by name.
    """

    tokens: Tensor
    cls_final: Tensor
    v: Tensor
    text: Tensor
    prompt_texts: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class HeadOutput:
    """What the head gives for a batch.

    logits and logits_cls (B, C): of the MIM's and of the CLS head. features (B, D+E): for retrieval. attention (B, M)
    float32, the mean of attention_heads (B, H, M). patch_tokens (B, M, E). v_final (B, E). cls_states: CLS (B, E) after
    each post block. prompt_attention: (B, M) by the name of each further prompt. taps: by the name of each layer.
    """

    logits: Tensor
    logits_cls: Tensor
    features: Tensor
    attention: Tensor
    attention_heads: Tensor
    patch_tokens: Tensor
    v_final: Tensor
    cls_states: list[Tensor]
    prompt_attention: dict[str, Tensor] = field(default_factory=dict)
    taps: dict[str, Tap] = field(default_factory=dict)

    @property
    def native_maps(self) -> dict[str, Tensor]:
        """(B, M) by name: the maps that the model computes itself, one for each prompt."""
        further = {attention_map_name(prompt): attention for prompt, attention in self.prompt_attention.items()}
        return {MIM_ATTENTION: self.attention, **further}


class AttentionOutputs(TypedDict):
    """What `forward_with_attention` gives.

    logits: (B, C) of the CLS head and of the MIM head. features (B, D+E). mim_attention (B, 1, M). patch_tokens
    (B, M, E). text_features (B, E). cls_states: CLS (B, E) after each post block. v_final (B, E).
    """

    logits: list[Tensor]
    features: Tensor
    mim_attention: Tensor
    patch_tokens: Tensor
    text_features: Tensor
    cls_states: list[Tensor]
    v_final: Tensor
