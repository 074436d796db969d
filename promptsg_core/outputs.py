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
    attention_heads (B, H, M): the heads of its own attention; H is 0 without attention. text_score (B,): the likeness
    of each image to its text, where the family has texts; where there is none, text_problem may say why. text_scores
    (B, T): the likeness to each of the texts that an image chooses from, of which text_score is the largest; None where
    it does not choose. taps: by the name of each layer. parts: what else the family gives, under the names of its own
    code.
    """

    logits: Tensor
    scores: Tensor
    features: Tensor
    native_maps: dict[str, Tensor]
    attention_heads: Tensor
    text_score: Tensor | None = None
    text_problem: str | None = None
    text_scores: Tensor | None = None
    taps: dict[str, Tap] = field(default_factory=dict)
    parts: NamedOutputs = field(default_factory=dict)
