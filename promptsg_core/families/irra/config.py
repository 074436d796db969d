"""What an IRRA model is, in one frozen record (no torch)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from promptsg_core.config import ClipConfig
from promptsg_core.families.map_names import CLS_ATTENTION, CROSS_ATTENTION, PATCH_TEXT
from promptsg_core.families.published import told_by_patches


@dataclass(frozen=True, kw_only=True)
class IrraConfig(ClipConfig):
    """Everything that fixes the computation.

    `num_classes` is 0 where the identity loss was not used, and `cross_heads` where captions were not masked: there is
    no cross-attention then.
    """

    recorded_as: ClassVar[str | None] = "irra"
    no_neck: ClassVar[str | None] = "IRRA has no neck: its feature is CLS, projected"
    assumed: ClassVar[Mapping[str, str]] = {"image_size": "image size", "mean": "mean", "std": "std"}
    maps_of_prompt: ClassVar[tuple[str, ...]] = (PATCH_TEXT, CROSS_ATTENTION)
    default_maps: ClassVar[tuple[str, ...]] = (CLS_ATTENTION, "hirescam/vit_norm", "gradcam++/vit_norm")

    image_size: tuple[int, int] = (384, 128)
    num_classes: int = 0
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    vocab_size: int = 49408
    cross_heads: int = 0

    @classmethod
    def prompt_maps(cls, prompts: Sequence[str], tensors: Collection[str]) -> list[str]:
        """Cross-attention is among them where captions were masked in training."""
        crosses = "cross_attn.in_proj_weight" in tensors
        return [name for name in super().prompt_maps(prompts, tensors) if crosses or name.startswith(PATCH_TEXT)]

    @property
    def feature_dim(self) -> int:
        """Length of the retrieval feature, CLS in the joint space: 512 for ViT-B/16."""
        return self.embed_dim

    @property
    def told(self) -> frozenset[str]:
        """The image size, unless published models have several of so many patches."""
        return told_by_patches(self)

    @property
    def facts(self) -> Mapping[str, str]:
        """The towers and the cross-attention, for people."""
        return {
            "image tower": f"{self.image_tower_in_words}, joint width {self.embed_dim}",
            "text tower": self.text_tower_in_words,
            "cross attention": f"{self.cross_heads} heads" if self.cross_heads else "none",
            **({} if self.num_classes else {"classifier": "none: no class can be predicted"}),
        }
