"""The configuration of a training, and the two recipes that fill in what it leaves open (no torch)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from jobs.typed_config import TypedConfig, gather, validate
from promptsg_core.choices import Precision

Optimizer = Literal["adam", "adamw"]
Schedule = Literal["step", "cosine"]


@dataclass(frozen=True, kw_only=True)
class TrainingRecipe:
    """The defaults that depend on the weights that a training starts from. The names are those of TrainConfig.

    `qk_factor` times `lr_new` is the default of `lr_qk`.
    """

    image_size: tuple[int, int]
    steps: int | None
    optimizer: Optimizer
    schedule: Schedule
    warmup: int
    lr_tower: float
    lr_new: float
    qk_factor: float
    weight_decay: float
    unit_triplets: bool
    erase: float


# The paper's recipe, which fine-tunes CLIP.
FROM_CLIP = TrainingRecipe(
    image_size=(256, 128),
    steps=None,
    optimizer="adam",
    schedule="step",
    warmup=0,
    lr_tower=5e-6,
    lr_new=5e-5,
    qk_factor=10,
    weight_decay=1e-4,
    unit_triplets=False,
    erase=0.5,
)
# For a small model with random weights.
FROM_SCRATCH = TrainingRecipe(
    image_size=(128, 64),
    steps=3000,
    optimizer="adamw",
    schedule="cosine",
    warmup=50,
    lr_tower=1e-3,
    lr_new=1e-3,
    qk_factor=3,
    weight_decay=0.05,
    unit_triplets=True,
    erase=0.1,
)
# Settings with which a training may be continued though they differ: they do not change the result, or something else
# stands for them (the bytes of the images for `shards`, and `init` for `scratch`).
EXECUTION = frozenset({"shards", "output", "scratch", "device", "workers", "save_every", "log_every"})


class TrainConfig(TypedConfig):
    """What to train, on which images, into which folder. An unknown key is an error.

    Either `init` is a CLIP state dict, or `scratch` starts a small model with random weights. This chooses the recipe,
    FROM_CLIP or FROM_SCRATCH, whose values are the defaults of many fields. Sizes are (height, width) in pixels.

    A batch has `identities` identities with `images_each` images of each. `steps` wins over `epochs`. The learning
    rates are those of CLIP's towers, of the MIM's queries and keys, and of all other modules; `lr_qk` None means the
    recipe's `qk_factor` times `lr_new`. `save_every` and `log_every` count steps.
    """

    shards: tuple[str, ...] = Field(min_length=1)
    output: Path
    scratch: bool = Field(False, strict=True)
    init: Path | None = None
    image_size: tuple[PositiveInt, PositiveInt] = FROM_CLIP.image_size
    stride: int | None = Field(None, ge=1)
    identities: int = Field(16, ge=2)
    images_each: int = Field(4, ge=1)
    epochs: int = Field(60, ge=1)
    steps: int | None = Field(FROM_CLIP.steps, ge=1)
    optimizer: Optimizer = FROM_CLIP.optimizer
    schedule: Schedule = FROM_CLIP.schedule
    warmup: int = Field(FROM_CLIP.warmup, ge=0)
    decay_epochs: tuple[int, ...] = (20, 40)
    lr_tower: float = FROM_CLIP.lr_tower
    lr_new: float = FROM_CLIP.lr_new
    lr_qk: float | None = None
    weight_decay: float = FROM_CLIP.weight_decay
    id_weight: float = 1.0
    triplet_weight: float = 1.0
    contrastive_weight: float = 0.5
    unit_triplets: bool = FROM_CLIP.unit_triplets
    erase: float = Field(FROM_CLIP.erase, ge=0, le=1)
    seed: int = Field(0, ge=0)
    precision: Precision = "auto"
    weights: Literal["fp32", "fp16"] = "fp32"
    device: str = "auto"
    workers: int = Field(0, ge=0)
    save_every: int = Field(200, ge=1)
    log_every: int = Field(10, ge=1)

    @property
    def recipe(self) -> TrainingRecipe:
        """The recipe that the start of the training chooses."""
        return FROM_SCRATCH if self.scratch else FROM_CLIP

    @property
    def rates(self) -> Mapping[str, float]:
        """The learning rates of the parameter groups `tower`, `new` and `qk`."""
        # At the rate of the other modules the maps would stay uniform.
        qk = self.recipe.qk_factor * self.lr_new if self.lr_qk is None else self.lr_qk
        return {"tower": self.lr_tower, "new": self.lr_new, "qk": qk}

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_scratch(cls, values: object) -> object:
        """Fills in the recipe for random weights; the other recipe's values are the fields' own defaults.

        None means that a value was not given.
        """
        if not isinstance(values, Mapping):
            return values
        given = {key: value for key, value in values.items() if value is not None}
        if given.get("scratch") is not True:
            return given
        recipe = {key: value for key, value in asdict(FROM_SCRATCH).items() if key in cls.model_fields}
        return {**recipe, **given}

    @model_validator(mode="after")
    def _one_start(self) -> TrainConfig:
        if (self.init is not None) == self.scratch:
            raise ValueError("give either --init with a CLIP state dict, or --scratch for a small model without one")
        return self

    @field_validator("shards", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value


def build_train_config(file: Path | None, options: Mapping[str, object], settings: Sequence[str] = ()) -> TrainConfig:
    """TrainConfig from a YAML file, options that were given (None is not given) and `key=value` words, in that order.

    Raises UserError naming the key, the value and what is valid.
    """
    return validate(TrainConfig, gather(file, options, settings), file)
