"""The configuration of mining: a YAML file, then options, then `--set key=value`, checked once and strictly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias, cast, get_args

from pydantic import Field, ValidationInfo, field_validator

from cam.names import parse_names
from jobs.errors import UserError
from jobs.launch.environment import Environment
from jobs.mining.camera_rows.options import CameraOptions
from jobs.mining.labels import AUTO
from jobs.mining.model_options import parse_image_size
from jobs.prompt_sets import prompts_of
from jobs.typed_config import TypedConfig, gather, validate
from promptsg_core.choices import INTERPOLATIONS, NECK_FEATS, PROMPT_MODES, REWEIGHT_MODES, Precision
from promptsg_core.settings import WEIGHT, read_settings
from promptsg_core.tokenise import parse_prompts

# Above the 12,000 x 8,000 pixels of the largest ordinary cameras, far below what fills a node's memory.
DEFAULT_MAX_IMAGE_PIXELS = 100_000_000
CPU_BATCH = 64  # on a CPU larger batches gain nothing
# Whether an image tower is compiled on a CPU; jobs/mining/passes/choice.py says when `auto` does.
CompileChoice: TypeAlias = Literal["auto", "on", "off"]
COMPILE_CHOICES: tuple[CompileChoice, ...] = get_args(CompileChoice)
# The valid names of settings that promptsg_core defines.
_VALID_NAMES: Mapping[str, Sequence[str]] = {
    "prompt_mode": PROMPT_MODES,
    "neck_feat": NECK_FEATS,
    "reweight": REWEIGHT_MODES,
    "interpolation": INTERPOLATIONS,
}


class MineConfig(TypedConfig):
    """What to mine, with which model, into which folder. An unknown key is an error.

    `weights_key` is the path of keys of the state dict to take where the checkpoint has several. `image_size` is
    (height, width) in pixels. `maps` are those of the checkpoint's family where none are named. `prompts` are texts by
    name; each adds a map. `head` names the head whose score is explained. `sie_coe`, `trained_on`, `camera_map` and
    `camera` are for models with camera embeddings. `batch_size` and `workers` None mean: by the machine. The
    `label_map` `auto` is learned from predictions. A shard fails if more than `max_failed_fraction` of its images fail.
    Relative paths become absolute.
    """

    shards: tuple[str, ...] = Field(min_length=1)
    checkpoint: Path
    weights_key: str | None = None
    output: Path
    prompts: dict[str, str] = Field(default_factory=dict)
    maps: tuple[str, ...] = ()
    target: Literal["predicted", "label", "feature", "similarity", "text"] = "predicted"
    head: str | None = None
    label_map: Path | Literal["auto"] | None = None
    reference: Path | None = None
    reference_split: str | None = None
    attention_heads: Literal["mean", "all"] = "mean"
    gradcam_plus_plus: Literal["rectified", "paper"] = "rectified"
    precision: Precision = "auto"
    device: str = "auto"
    batch_size: int | None = Field(None, ge=1, le=65536)
    workers: int | None = Field(None, ge=0, le=256)
    model_settings: Path | None = None
    image_size: tuple[int, int] | None = None
    prompt_mode: str | None = None
    neck_feat: str | None = None
    reweight: str | None = None
    sie_coe: float | None = None
    trained_on: str | None = None
    camera_map: Path | None = None
    camera: str | None = None
    interpolation: str = "bilinear"
    max_image_pixels: int = Field(DEFAULT_MAX_IMAGE_PIXELS, ge=1)
    max_failed_fraction: float = Field(0.01, ge=0, le=1)

    @field_validator("label_map", mode="before")
    @classmethod
    def _path_or_auto(cls, value: object) -> object:
        """A file called auto is ./auto."""
        if value is not None and not isinstance(value, (str, Path)):
            raise ValueError(f"expected a path or {AUTO}")
        return Path(value) if isinstance(value, str) and value != AUTO else value

    @field_validator("shards", "maps", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("image_size", mode="before")
    @classmethod
    def _height_by_width(cls, value: object) -> object:
        return parse_image_size(value) if isinstance(value, str) else value

    @field_validator("prompts", mode="before")
    @classmethod
    def _named_prompts(cls, value: object) -> object:
        if isinstance(value, Mapping):
            return value
        texts = (value,) if isinstance(value, str) else value
        if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
            raise ValueError("expected texts, or names and texts")
        return parse_prompts(tuple(texts))

    @field_validator("maps")
    @classmethod
    def _known_maps(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(str(name) for name in parse_names(value)) if value else ()

    @field_validator("camera", mode="before")
    @classmethod
    def _row_or_word(cls, value: object) -> object:
        return str(value) if type(value) is int else value

    @field_validator(*_VALID_NAMES)
    @classmethod
    def _known_name(cls, value: str | None, info: ValidationInfo) -> str | None:
        valid = _VALID_NAMES[str(info.field_name)]
        if value is not None and value not in valid:
            raise ValueError(f"{value!r} is not one of {', '.join(valid)}")
        return value

    @field_validator("checkpoint", "output", "model_settings", "label_map", "reference", "camera_map")
    @classmethod
    def _absolute(cls, value: Path | str | None) -> Path | str | None:
        return value.expanduser().absolute() if isinstance(value, Path) else value

    @property
    def images_at_once(self) -> int:
        """The batch size, or where none is stated that of a CPU; `with_batch_size` states one for a GPU."""
        return self.batch_size or CPU_BATCH

    @property
    def cameras(self) -> CameraOptions:
        """What is said of the cameras."""
        return CameraOptions(trained_on=self.trained_on, camera_map=self.camera_map, camera=self.camera)


@dataclass(frozen=True, kw_only=True)
class MineOptions:
    """Execution options; only `overrides` changes what is computed.

    `overrides` are KEY VALUE words of the training code's settings. With `overwrite` the run in the output folder is
    deleted first. With `retry_failed` the shards that are done but have failed images are mined again. With `extend`
    the run gets the shards that it does not list yet. `add_maps` are maps that are added to the shards that are done,
    instead of mining any; with `retry_failed` also to those of which some images lack them. With a `limit` it stops
    once the run has so many images, as jobs/mining/growth/first_try.py says. `compile` says whether the image tower is
    compiled on a CPU, which changes the last bits of results. The job stops once `drain_file` exists.
    `environment` says which part of the work is this process's, and when the job must end.
    """

    overrides: tuple[str, ...] = ()
    overwrite: bool = False
    retry_failed: bool = False
    extend: bool = False
    add_maps: tuple[str, ...] = ()
    limit: int | None = None
    compile: CompileChoice = "auto"
    drain_file: Path | None = None
    environment: Environment = field(default_factory=Environment)

    @property
    def conflict(self) -> str | None:
        """What is wrong with the options together; None where nothing is."""
        if self.overwrite and self.retry_failed:
            return "--overwrite deletes the run whose shards --retry-failed would mine again: give one"
        if self.limit is not None:
            others = {"--retry-failed": self.retry_failed, "--extend": self.extend, "--add-maps": bool(self.add_maps)}
            if given := [flag for flag, is_given in others.items() if is_given]:
                return f"--limit stops early, before all is mined, and does not go with {given[0]}: give one"
            if self.environment.array_count > 1 or self.environment.world_size > 1:
                return "--limit is for one process: give it without a job array, torchrun and srun, and go on with them"
        alone = {"--overwrite": self.overwrite, "--extend": self.extend, "--add-maps": bool(self.add_maps)}
        given = [flag for flag, is_given in alone.items() if is_given]
        if len(given) < 2:
            return None
        return f"{' and '.join(given)} exclude each other: give one, and the other with a command after it"


def build_config(
    file: Path | None, options: Mapping[str, object], settings: Sequence[str] = (), overrides: Sequence[str] = ()
) -> MineConfig:
    """MineConfig from a YAML file, options that were given (None is not given) and `key=value` words, in that order.

    `prompt_set` names ready lists of prompts, which are added to `prompts`.
    If none of them names a checkpoint, TEST.WEIGHT does, from `overrides` (KEY VALUE words) or `model_settings`.

    Raises UserError naming the key, the value and what is valid.
    """
    values = gather(file, options, settings)
    if sets := values.pop("prompt_set", None):
        values["prompts"] = _with_prompt_sets(sets, values.get("prompts"))
    if overrides or values.get("model_settings"):
        stated = read_settings(values.get("model_settings"), overrides)  # also refuses words that are not pairs
        if stated.weight is not None:
            values.setdefault("checkpoint", stated.weight)
    return validate(MineConfig, values, file)


def _with_prompt_sets(sets: object, own: object) -> dict[str, str]:
    """The texts of ready lists by name, after the user's own. Raises UserError for an unknown list."""
    names = (sets,) if isinstance(sets, str) else sets
    if not isinstance(names, (list, tuple)):
        raise UserError(f"prompt_set is {sets!r}; give the name of a list, or several")
    if not isinstance(own, Mapping):
        texts = (own,) if isinstance(own, str) else cast("Sequence[object]", own or ())
        own = parse_prompts(tuple(map(str, texts)))
    return prompts_of([str(name) for name in names], own)


def without_weight(overrides: Sequence[str]) -> list[str]:
    """KEY VALUE words without TEST.WEIGHT, which says where the checkpoint is and not what it is."""
    pairs = zip(overrides[::2], overrides[1::2], strict=True)
    return [word for key, value in pairs if key != WEIGHT for word in (key, value)]
