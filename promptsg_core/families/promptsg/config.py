"""What a PromptSG model is: sizes, prompt, reweighting and preprocessing, in one frozen record (no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from promptsg_core.choices import PROMPT_MODES, REWEIGHT_MODES
from promptsg_core.config import ClipConfig, check_heads, check_name, transformer_in_words
from promptsg_core.errors import ModelError
from promptsg_core.prompts import PROMPTS, Prompt


@dataclass(frozen=True, kw_only=True)
class ModelConfig(ClipConfig):
    """Everything that fixes the computation. Sizes are (height, width) in pixels; the grid is in patches.

    `token_rows` lists the token ids of the embedding's rows where the embedding holds only some tokens. None means that
    row n is token n.

    Raises ModelError when a name is unknown or the sizes do not fit each other.
    """

    assumed: ClassVar[Mapping[str, str]] = {
        "mim_heads": "MIM heads",
        "reweight": "reweight",
        "prompt_mode": "prompt",
        "neck_feat": "neck",
        "mean": "mean",
        "std": "std",
    }

    default_maps: ClassVar[tuple[str, ...]] = ("mim_attention", "gradcam/mim", "gradcam++/mim")
    maps_of_prompt: ClassVar[tuple[str, ...]] = ("mim_attention",)

    vocab_size: int = 49408
    token_rows: tuple[int, ...] | None = None
    inversion_widths: tuple[int, int] = (512, 512)
    inversion_affine: bool = True
    mim_heads: int = 8
    mim_layers: int = 2
    mim_qkv_bias: bool = False
    reweight: str = "mul_mean1"
    prompt_mode: str = "composed"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_name("reweight", self.reweight, REWEIGHT_MODES)
        check_name("prompt_mode", self.prompt_mode, PROMPT_MODES)
        check_heads("embed_dim", self.embed_dim, "mim_heads", self.mim_heads)
        if self.mim_layers < 1:
            raise ModelError("a MIM has at least one post block: without one no score reaches the patch tokens")
        if self.token_rows is not None and len(self.token_rows) != self.vocab_size:
            raise ModelError(f"{len(self.token_rows)} token rows are named, but the embedding has {self.vocab_size}")

    @property
    def prompt(self) -> Prompt:
        """The template of this prompt mode."""
        return PROMPTS[self.prompt_mode]

    @property
    def heads(self) -> tuple[str, ...]:
        """One: the logits of the CLS head never reach a patch token."""
        return ("proj",)

    @property
    def feature_dim(self) -> int:
        """Length of the retrieval feature: [CLS_final, v_final], 1280 for ViT-B/16."""
        return self.vision_width + self.embed_dim

    @property
    def facts(self) -> Mapping[str, str]:
        """The towers, the MIM and the prompt, for people."""
        return {
            "image tower": self.image_tower_in_words,
            "text tower": self.text_tower_in_words,
            "MIM": f"{transformer_in_words(self.embed_dim, self.mim_layers, self.mim_heads)}, {self.reweight}",
            "prompt": f'{self.prompt_mode}: "{self.prompt.text}"',
        }
