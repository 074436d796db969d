"""What a CLIP-ReID model is, in one frozen record (no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from promptsg_core.config import ClipConfig
from promptsg_core.families.published import camera_rows_in_words

BEGINNING = 5  # tokens before the learned words: the start, "A photo of a"


@dataclass(frozen=True, kw_only=True)
class ClipReidConfig(ClipConfig):
    """Everything that fixes the computation.

    `text_width` is 0 without learned prompts, of which `prompt_length` words stand in a text of `context_length`
    tokens. `camera_rows` is 0 without camera embeddings, and `sie_coe` what they are multiplied by. `stage_1` says that
    only the prompts were trained, and no classifier.
    """

    recorded_as: ClassVar[str | None] = "clipreid"
    assumed: ClassVar[Mapping[str, str]] = {
        "sie_coe": "camera coefficient",
        "neck_feat": "neck",
        "mean": "mean",
        "std": "std",
    }
    default_maps: ClassVar[tuple[str, ...]] = ("cls_attention", "hirescam/vit_norm", "gradcam++/vit_norm")
    stated: ClassVar[tuple[str, ...]] = (*ClipConfig.stated, "sie_camera", "sie_view")

    text_width: int = 0
    text_layers: int = 0
    prompt_length: int = 4
    camera_rows: int = 0
    sie_camera: bool = True
    sie_view: bool = False
    sie_coe: float = 1.0
    stage_1: bool = False

    @property
    def uses_cameras(self) -> bool:
        """Whether a row of the camera embedding is added to CLS."""
        return self.camera_rows > 0 and self.sie_camera

    @property
    def camera_coefficient(self) -> float | None:
        """`sie_coe`, where cameras are used."""
        return self.sie_coe if self.uses_cameras else None

    @property
    def without_effect(self) -> frozenset[str]:
        """The coefficient of cameras, where none are used."""
        return frozenset() if self.uses_cameras else frozenset({"sie_coe"})

    @property
    def heads(self) -> tuple[str, ...]:
        """The classifier of CLS's projection, that of CLS, and the sum of both, which is what was trained."""
        return ("proj", "cls", "both")

    @property
    def feature_dim(self) -> int:
        """Length of the retrieval feature: CLS and its projection, 1280 for ViT-B/16."""
        return self.vision_width + self.embed_dim

    @property
    def facts(self) -> Mapping[str, str]:
        """The towers, the prompts and the cameras, for people."""
        prompts = (
            f"{self.prompt_length} learned words for each class, width {self.text_width}, {self.text_layers} blocks"
        )
        cameras = f"{camera_rows_in_words(self.camera_rows)}, coefficient {self.sie_coe:g}"
        return {
            "image tower": f"{self.image_tower_in_words}, joint width {self.embed_dim}",
            "prompts": prompts if self.text_width else "none",
            "cameras": cameras if self.uses_cameras else f"{cameras}, not used" if self.camera_rows else "none",
            **({"stage": "1: only the prompts are trained, and no class can be predicted"} if self.stage_1 else {}),
        }
