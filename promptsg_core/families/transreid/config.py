"""What a TransReID model is, in one frozen record (no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from promptsg_core.config import PatchConfig, check_heads, check_name, transformer_in_words
from promptsg_core.errors import ModelError
from promptsg_core.families.published import camera_rows_in_words, told_by_patches
from promptsg_core.families.transreid.stripes import STRIPES, Shuffle, stripes

BASE = "vit_base_patch16_224_TransReID"
DEIT_SMALL = "deit_small_patch16_224_TransReID"
SMALL = "vit_small_patch16_224_TransReID"
GLOBAL, ALL = "global", "all"  # heads
TYPES = (BASE, "deit_base_patch16_224_TransReID", DEIT_SMALL, SMALL)  # names of the training code
_ID_LOSSES = ("softmax", "arcface", "cosface", "amsoftmax", "circle")


@dataclass(frozen=True, kw_only=True)
class TransReidConfig(PatchConfig):
    """Everything that fixes the computation.

    `qkv_bias` is false for "vit_small" alone, which scales its scores by the whole width. `camera_rows` is 0 without
    camera embeddings, and `sie_coe` what they are multiplied by. `shift_num` to `re_arrange` say how JPM deals out the
    patches. With another `id_loss_type` than softmax a logit is a cosine times `cosine_scale`.
    """

    recorded_as: ClassVar[str | None] = "transreid"
    default_maps: ClassVar[tuple[str, ...]] = ("cls_attention", "hirescam/vit_norm", "gradcam++/vit_norm")
    assumed: ClassVar[Mapping[str, str]] = {
        "sie_coe": "camera coefficient",
        "shift_num": "JPM's shift",
        "shuffle_group": "JPM's groups",
        "devide_length": "JPM's divisor",
        "re_arrange": "JPM's shuffle",
        "id_loss_type": "identity loss",
        "cosine_scale": "scale of cosines",
        "neck_feat": "neck",
        "mean": "mean",
        "std": "std",
        "image_size": "image size",
    }
    stated: ClassVar[tuple[str, ...]] = ("image_size", "stride", "vision_heads")

    vision_width: int = 768
    vision_layers: int = 12
    vision_heads: int = 12
    mlp_width: int = 3072
    qkv_bias: bool = True
    transformer_type: str = BASE
    camera_rows: int = 0
    sie_camera: bool = False
    sie_view: bool = False
    sie_coe: float = 3.0
    jpm: bool = False
    shift_num: int = 5
    shuffle_group: int = 2
    devide_length: int = 4
    re_arrange: bool = True
    id_loss_type: str = "softmax"
    cosine_scale: float = 30.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_heads("vision_width", self.vision_width, "vision_heads", self.vision_heads)
        check_name("id_loss_type", self.id_loss_type, _ID_LOSSES)
        if self.vision_layers < 1 + self.jpm:
            raise ModelError("the image tower has too few blocks")
        if self.jpm:
            self.stripes()

    @property
    def scale(self) -> float:
        """What the scores of attention are multiplied by."""
        return float((self.vision_width // self.vision_heads if self.qkv_bias else self.vision_width) ** -0.5)

    @property
    def feature_dim(self) -> int:
        """Length of the retrieval feature: CLS, with JPM five times, 3840 for ViT-B/16."""
        return self.vision_width * (1 + STRIPES * self.jpm)

    def stripes(self) -> list[list[int]]:
        """The numbers of the patches of JPM's stripes. Raises ModelError where they cannot be dealt out."""
        h, w = self.grid
        shuffle = Shuffle(
            shift_num=self.shift_num,
            shuffle_group=self.shuffle_group,
            devide_length=self.devide_length,
            re_arrange=self.re_arrange,
        )
        return stripes(h * w, shuffle)

    @property
    def heads(self) -> tuple[str, ...]:
        """That of all patches; with JPM also the sum of it and of the four stripes'."""
        return (GLOBAL, ALL) if self.jpm else (GLOBAL,)

    @property
    def without_effect(self) -> frozenset[str]:
        """The coefficient without cameras, JPM's settings without JPM, and the scale of cosines with softmax."""
        idle: set[str] = set() if self.camera_rows else {"sie_coe"}
        idle |= set() if self.jpm else {"shift_num", "shuffle_group", "devide_length", "re_arrange"}
        return frozenset(idle | ({"cosine_scale"} if self.id_loss_type == "softmax" else set()))

    @property
    def told(self) -> frozenset[str]:
        """The image size, unless published models have several of so many patches."""
        return told_by_patches(self)

    @property
    def camera_coefficient(self) -> float | None:
        """`sie_coe`, where the model has cameras."""
        return self.sie_coe if self.camera_rows else None

    @property
    def facts(self) -> Mapping[str, str]:
        """The tower, the stripes, the cameras and the classifier, for people."""
        shuffled = f"shift {self.shift_num}, {self.shuffle_group} groups" if self.re_arrange else "not shuffled"
        rows = camera_rows_in_words(self.camera_rows)
        cameras = f"{rows}, coefficient {self.sie_coe:g}; their mean is an approximation"
        cosine = f"{self.id_loss_type}: a logit is {self.cosine_scale:g} times a cosine"
        tower = transformer_in_words(self.vision_width, self.vision_layers, self.vision_heads)
        return {
            "image tower": f"{tower}, scale {self.scale:.4g}",
            "JPM": f"{STRIPES} stripes of {len(self.stripes()[0])} patches, {shuffled}" if self.jpm else "none",
            "cameras": cameras if self.camera_rows else "none",
            "identity loss": "softmax" if self.id_loss_type == "softmax" else cosine,
        }
