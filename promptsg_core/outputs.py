"""What the head of a model gives, whatever its family.

Legend: B batch, M patches, C classes, F feature length, H heads.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from torch import Tensor

from promptsg_core.taps import Tap

NamedOutputs: TypeAlias = dict[str, Tensor | list[Tensor]]


@dataclass(frozen=True, kw_only=True)
class HeadOutput:
    """What the head gives for a batch.

    logits (B, C): their largest is the predicted class. scores (B, C): the logits of the head whose score is explained.
    features (B, F): for retrieval. native_maps: (B, M) by name, the maps that the model computes itself.
    attention_heads (B, H, M): the heads of its own attention; H is 0 without attention. text_scores (B, T): the
    likeness of each image to each of the texts that it chooses from, where the family has texts, else None; then
    text_problem may say why. taps: by the name of each layer. parts: what else the family gives, under the names of its
    own code.
    """

    logits: Tensor
    scores: Tensor
    features: Tensor
    native_maps: dict[str, Tensor]
    attention_heads: Tensor
    text_scores: Tensor | None = None
    text_problem: str | None = None
    taps: dict[str, Tap] = field(default_factory=dict)
    parts: NamedOutputs = field(default_factory=dict)
