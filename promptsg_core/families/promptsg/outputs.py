"""What the two halves of PromptSG give: `encode` an Encoded, `head` a PromptSGOutput.

Legend: B batch, M patches, N = 1+M tokens (CLS first), D channels, E joint width, C classes, H heads.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from promptsg_core.families.map_names import MIM_ATTENTION
from promptsg_core.outputs import HeadOutput


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
class PromptSGOutput(HeadOutput):
    """What the head gives for a batch, beside what all heads give.

    logits_cls (B, C): of the CLS head. logits (B, C) are the MIM's. attention (B, M) float32: the mean of
    attention_heads. patch_tokens (B, M, E). v_final (B, E). cls_states: CLS (B, E) after each post block.
    """

    logits_cls: Tensor
    attention: Tensor
    patch_tokens: Tensor
    v_final: Tensor
    cls_states: list[Tensor]
