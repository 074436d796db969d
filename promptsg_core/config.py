"""What a PromptSG model is: sizes, prompt, reweighting and preprocessing, in one frozen record (no torch)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, cast

from promptsg_core.errors import ModelError
from promptsg_core.phrases import did_you_mean

if TYPE_CHECKING:
    from pydantic import JsonValue

FieldValue = bool | int | float | str | Sequence[int] | Sequence[float] | None  # of a field of ModelConfig

PROMPT_MODES = ("composed", "simplified")
REWEIGHT_MODES = ("mul_mean1", "mul", "residual")
NECK_FEATS = ("before", "after")
INTERPOLATIONS = ("bilinear", "bicubic")
# What the model offers for maps, by name, for those who check a request without it: see PromptSG.layers.
LAYER_NAMES = ("mim", "vit_last", "vit_proj", "bottleneck", "classifier")
NATIVE_MAP_NAMES = ("mim_attention",)


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A tokenised text template. `slot` is the position whose embedding the pseudo word S* replaces, or None."""

    text: str
    tokens: tuple[int, ...]
    slot: int | None


# CLIP's byte-pair tokens of the two templates, with start and end of text, without the padding to 77.
PROMPTS: dict[str, Prompt] = {
    "composed": Prompt(text="A photo of a X person", tokens=(49406, 320, 1125, 539, 320, 343, 2533, 49407), slot=5),
    "simplified": Prompt(text="A photo of a person", tokens=(49406, 320, 1125, 539, 320, 2533, 49407), slot=None),
}


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Everything that fixes the computation. Sizes are (height, width) in pixels; the grid is in patches.

    `token_rows` lists the token ids of the embedding's rows where the embedding holds only some tokens. None means that
    row n is token n. `num_classes` counts the classifiers' classes, `neck_feat` says whether the retrieval feature is
    taken before or after the batch norms.

    Raises ModelError when a name is unknown or the sizes do not fit each other.
    """

    image_size: tuple[int, int] = (256, 128)
    patch_size: int = 16
    stride: int = 16
    vision_width: int = 768
    vision_layers: int = 12
    vision_heads: int = 12
    embed_dim: int = 512
    text_width: int = 512
    text_layers: int = 12
    text_heads: int = 8
    context_length: int = 77
    vocab_size: int = 49408
    token_rows: tuple[int, ...] | None = None
    inversion_widths: tuple[int, int] = (512, 512)
    inversion_affine: bool = True
    mim_heads: int = 8
    mim_layers: int = 2
    mim_qkv_bias: bool = False
    num_classes: int = 751
    reweight: str = "mul_mean1"
    prompt_mode: str = "composed"
    neck_feat: str = "before"
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        _check_name("reweight", self.reweight, REWEIGHT_MODES)
        _check_name("prompt_mode", self.prompt_mode, PROMPT_MODES)
        _check_name("neck_feat", self.neck_feat, NECK_FEATS)
        _check_heads("vision_width", self.vision_width, "vision_heads", self.vision_heads)
        _check_heads("text_width", self.text_width, "text_heads", self.text_heads)
        _check_heads("embed_dim", self.embed_dim, "mim_heads", self.mim_heads)
        if self.stride < 1 or min(self.image_size) < self.patch_size:
            raise ModelError(f"image size {self.image_size} is smaller than one {self.patch_size}-pixel patch")
        if self.mim_layers < 1:
            raise ModelError("a MIM has at least one post block: without one no score reaches the patch tokens")
        if self.token_rows is not None and len(self.token_rows) != self.vocab_size:
            raise ModelError(f"{len(self.token_rows)} token rows are named, but the embedding has {self.vocab_size}")
        if min(self.std) <= 0:
            raise ModelError(f"std {self.std} must be positive")

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of the patch grid."""
        return grid_of(self.image_size, self.patch_size, self.stride)

    @property
    def prompt(self) -> Prompt:
        """The template of this prompt mode."""
        return PROMPTS[self.prompt_mode]

    @property
    def feature_dim(self) -> int:
        """Length of the retrieval feature: [CLS_final, v_final], 1280 for ViT-B/16."""
        return self.vision_width + self.embed_dim

    @classmethod
    def from_fields(cls, values: Mapping[str, FieldValue]) -> ModelConfig:
        """A configuration with these fields and the defaults of the others. Raises ModelError as the class does."""
        cls.check_names(values)
        return cls(**cast("dict[str, Any]", dict(values)))

    @classmethod
    def fields_from(cls, values: Mapping[str, JsonValue]) -> dict[str, FieldValue]:
        """What `to_dict` gave, with its lists as tuples again.

        Raises ModelError on a name that is no field and on a value of another kind than the field's.
        """
        cls.check_names(values)
        found = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        for one in fields(cls):
            if one.name in found and not _same_kind(found[one.name], one.default):
                raise ModelError(f"{one.name} is {found[one.name]!r}, expected a value such as {one.default!r}")
        return cast("dict[str, FieldValue]", found)

    @classmethod
    def check_names(cls, names: Mapping[str, object]) -> None:
        """Raises ModelError on a name that is no field, naming the nearest field."""
        valid = [field.name for field in fields(cls)]
        if unknown := sorted(names.keys() - valid):
            raise ModelError(f"the configuration has no field {unknown[0]!r}{did_you_mean(unknown[0], valid)}")

    def to_dict(self) -> dict[str, JsonValue]:
        """Plain JSON types, tuples as lists."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


def _same_kind(value: object, example: object) -> bool:
    """Whether a value from a file is of the same type as a field's default; numbers may be written as integers."""
    if isinstance(example, tuple):
        return isinstance(value, tuple) and len(value) == len(example) and all(map(_same_kind, value, example))
    if isinstance(example, float):
        return type(value) in (int, float)
    if example is None:  # token_rows
        return value is None or (isinstance(value, tuple) and all(type(token) is int for token in value))
    return type(value) is type(example)


def _check_name(field: str, value: str, valid: Sequence[str]) -> None:
    if value not in valid:
        raise ModelError(f"{field} {value!r} is not one of {', '.join(valid)}")


def _check_heads(width_field: str, width: int, heads_field: str, heads: int) -> None:
    if heads < 1 or width % heads:
        raise ModelError(f"{width_field} {width} does not divide into {heads_field} {heads}")


def grid_of(image_size: tuple[int, int], patch_size: int, stride: int) -> tuple[int, int]:
    """(rows, columns) of the patches that an unpadded strided convolution takes from an image of (height, width)."""
    height, width = image_size
    return (height - patch_size) // stride + 1, (width - patch_size) // stride + 1
