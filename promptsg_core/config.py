"""What a model is, in one frozen record: what the records of all families have (no torch)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, cast

from promptsg_core.choices import NECK_FEATS
from promptsg_core.errors import ModelError
from promptsg_core.phrases import did_you_mean

if TYPE_CHECKING:
    from pydantic import JsonValue
    from typing_extensions import Self

FieldValue = bool | int | float | str | Sequence[int] | Sequence[float] | None  # of a field of a configuration


@dataclass(frozen=True, kw_only=True)
class FamilyConfig(ABC):
    """Everything that fixes a model's computation. Sizes are (height, width) in pixels.

    `num_classes` counts the classifiers' classes. `neck_feat` says whether the retrieval feature is taken before or
    after the batch norms. `mean` and `std` are those of the RGB channels, as shares of 255.

    Raises ModelError when a name is unknown or the sizes do not fit each other.
    """

    # The name under which run.json keeps the family; None for PromptSG, whose runs are older than the name.
    recorded_as: ClassVar[str | None] = None
    # Fields that no tensor tells for certain, and their names for people. They are assumed where nobody states them.
    assumed: ClassVar[Mapping[str, str]] = {}
    # Further fields that a user may state, since what the tensors tell of them may be ambiguous.
    stated: ClassVar[tuple[str, ...]] = ("image_size",)

    # The maps that are taken where none are named, and the model's own maps that each prompt adds.
    default_maps: ClassVar[tuple[str, ...]] = ()
    maps_of_prompt: ClassVar[tuple[str, ...]] = ()

    # In words, for a family without batch norms between the feature and the classifiers; None where there are such.
    no_neck: ClassVar[str | None] = None

    image_size: tuple[int, int] = (256, 128)
    num_classes: int = 751
    neck_feat: str = "before"
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        check_name("neck_feat", self.neck_feat, NECK_FEATS)
        if self.no_neck is not None and self.neck_feat != "before":
            raise ModelError(f"neck_feat is {self.neck_feat!r}, but {self.no_neck}")
        if min(self.std) <= 0:
            raise ModelError(f"std {self.std} must be positive")

    @property
    @abstractmethod
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of the patches, the shape of every map."""

    @property
    @abstractmethod
    def cell(self) -> tuple[int, int]:
        """The side in pixels of the square that a place of the grid stands for, and from one square to the next."""

    @property
    @abstractmethod
    def feature_dim(self) -> int:
        """Length of the retrieval feature."""

    @property
    def heads(self) -> tuple[str, ...]:
        """The heads whose score can be explained; the first is the default."""
        return ("classifier",)

    @property
    def without_effect(self) -> frozenset[str]:
        """Of the fields in `assumed`, those that change nothing in this model."""
        return frozenset()

    @property
    def told(self) -> frozenset[str]:
        """Of the fields in `assumed`, those that the tensors of this model tell after all."""
        return frozenset()

    @property
    def camera_coefficient(self) -> float | None:
        """What the rows of the camera embedding are multiplied by; None where no camera is used."""
        return None

    @property
    def facts(self) -> Mapping[str, str]:
        """What this family has beside what all have, for people: name -> value."""
        return {}

    @classmethod
    def prompt_maps(cls, prompts: Sequence[str], tensors: Collection[str]) -> list[str]:
        """The names of the maps of named prompts, for a checkpoint with tensors of these names."""
        return [f"{native}:{name}" for name in prompts for native in cls.maps_of_prompt]

    @classmethod
    def from_fields(cls, values: Mapping[str, FieldValue]) -> Self:
        """A configuration with these fields and the defaults of the others. Raises ModelError as the class does."""
        cls.check_names(values)
        return cls(**cast("dict[str, Any]", dict(values)))

    @classmethod
    def fields_from(cls, values: Mapping[str, JsonValue]) -> dict[str, FieldValue]:
        """What `to_dict` gave, with its lists as tuples again.

        Raises ModelError on a name that is no field and on a value of another kind than the field's.
        """
        values = {name: value for name, value in values.items() if name != "family"}
        cls.check_names(values)
        found = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        for one in fields(cls):
            if one.name in found and not _same_kind(found[one.name], one.default):
                raise ModelError(f"{one.name} is {found[one.name]!r}, expected a value such as {one.default!r}")
        return cast("dict[str, FieldValue]", found)

    @classmethod
    def stated_in(cls, values: Mapping[str, JsonValue]) -> dict[str, FieldValue]:
        """Of what `to_dict` gave, the fields that no tensor tells. Raises as `fields_from` does."""
        found = cls.fields_from(values)
        return {name: found[name] for name in (*cls.assumed, *cls.stated) if name in found}

    @classmethod
    def check_names(cls, names: Mapping[str, object]) -> None:
        """Raises ModelError on a name that is no field, naming the nearest field."""
        valid = [field.name for field in fields(cls)]
        if unknown := sorted(names.keys() - valid):
            raise ModelError(f"the configuration has no field {unknown[0]!r}{did_you_mean(unknown[0], valid)}")

    @classmethod
    def has(cls, name: str) -> bool:
        """Whether it has a field of this name."""
        return any(field.name == name for field in fields(cls))

    def to_dict(self) -> dict[str, JsonValue]:
        """Plain JSON types, tuples as lists."""
        found = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        return found if self.recorded_as is None else {"family": self.recorded_as, **found}


@dataclass(frozen=True, kw_only=True)
class PatchConfig(FamilyConfig):
    """A model that reads an image as square patches of `patch_size` pixels, one every `stride` pixels."""

    stated: ClassVar[tuple[str, ...]] = ("image_size", "stride")

    patch_size: int = 16
    stride: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stride < 1 or min(self.image_size) < self.patch_size:
            raise ModelError(f"image size {self.image_size} is smaller than one {self.patch_size}-pixel patch")

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of the patch grid."""
        return grid_of(self.image_size, self.patch_size, self.stride)

    @property
    def cell(self) -> tuple[int, int]:
        """The patch size and the stride."""
        return self.patch_size, self.stride


@dataclass(frozen=True, kw_only=True)
class ClipConfig(PatchConfig):
    """A model that begins with CLIP's image tower, and perhaps its text tower; `text_width` is 0 without one.

    `embed_dim` is the width of the space that both towers project to.
    """

    stated: ClassVar[tuple[str, ...]] = ("image_size", "stride", "vision_heads", "text_heads")

    vision_width: int = 768
    vision_layers: int = 12
    vision_heads: int = 12
    embed_dim: int = 512
    text_width: int = 512
    text_layers: int = 12
    text_heads: int = 8
    context_length: int = 77

    def __post_init__(self) -> None:
        super().__post_init__()
        check_heads("vision_width", self.vision_width, "vision_heads", self.vision_heads)
        check_heads("text_width", self.text_width, "text_heads", self.text_heads)
        if self.vision_layers < 1:
            raise ModelError("the image tower has no blocks")
        if self.text_width and self.text_layers < 1:
            raise ModelError("the text tower has no blocks")

    @property
    def image_tower_in_words(self) -> str:
        """Its sizes, for people."""
        return transformer_in_words(self.vision_width, self.vision_layers, self.vision_heads)

    @property
    def text_tower_in_words(self) -> str:
        """Its sizes, for people."""
        return transformer_in_words(self.text_width, self.text_layers, self.text_heads)


def transformer_in_words(width: int, blocks: int, heads: int) -> str:
    """The sizes of a transformer, for people."""
    return f"width {width}, {blocks} blocks, {heads} heads"


def grid_of(image_size: tuple[int, int], patch_size: int, stride: int) -> tuple[int, int]:
    """(rows, columns) of the patches that an unpadded strided convolution takes from an image of (height, width)."""
    height, width = image_size
    return (height - patch_size) // stride + 1, (width - patch_size) // stride + 1


def check_name(field: str, value: str, valid: Sequence[str]) -> None:
    """Raises ModelError, naming the valid ones, for a value that is none of them."""
    if value not in valid:
        raise ModelError(f"{field} {value!r} is not one of {', '.join(valid)}")


def check_heads(width_field: str, width: int, heads_field: str, heads: int) -> None:
    """Raises ModelError for a width that does not divide into so many heads."""
    if heads < 1 or width % heads:
        raise ModelError(f"{width_field} {width} does not divide into {heads_field} {heads}")


def _same_kind(value: object, example: object) -> bool:
    """Whether a value from a file is of the same type as a field's default; numbers may be written as integers."""
    if isinstance(example, tuple):
        return isinstance(value, tuple) and len(value) == len(example) and all(map(_same_kind, value, example))
    if isinstance(example, float):
        return type(value) in (int, float)
    if example is None:  # token_rows
        return value is None or (isinstance(value, tuple) and all(type(token) is int for token in value))
    return type(value) is type(example)
