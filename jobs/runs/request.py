"""What is requested of a run, as run.json records it, and how two requests differ."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator

from cam.placement import GridPlacement
from jobs.phrases import counted, first_few
from jobs.shards.names import is_file_name
from jobs.shards.urls import Shard

_LONGEST = 80
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Recorded(BaseModel):
    """A part of run.json as it was written. Fields that another version of the program wrote are kept."""

    model_config = ConfigDict(frozen=True, extra="allow")

    def as_json(self) -> dict[str, JsonValue]:
        """Exactly what was written, without added defaults: the fingerprint is that of this JSON."""
        return self.model_dump(mode="json", exclude_unset=True)


class RequestedSettings(Recorded):
    """The settings that decide a run's numbers, as they were requested.

    Files are recorded by the SHA-256 of their bytes, not by their paths, and the reference run by its fingerprint.
    `label_map` is `auto` where the run's own was learned.
    `overrides` are KEY VALUE words of the training code's settings.
    """

    prompts: dict[str, str] = Field(default_factory=dict)
    maps: tuple[str, ...]
    target: str = "predicted"
    label_map: str | None = None
    reference: str | None = None
    reference_split: str | None = None
    attention_heads: str = "mean"
    gradcam_plus_plus: str = "rectified"
    precision: str = "auto"
    model_settings: str | None = None
    prompt_mode: str | None = None
    neck_feat: str | None = None
    reweight: str | None = None
    interpolation: str = "bilinear"
    max_image_pixels: int | None = None
    checkpoint_sha256: str | None = None
    weights_key: str | None = None
    image_size: tuple[int, int] | None = None
    head: str | None = None
    sie_coe: float | None = None
    trained_on: str | None = None
    camera_map: str | None = None
    camera: str | None = None
    overrides: tuple[str, ...] = ()


class ResolvedSettings(Recorded):
    """What `auto` became on the machine that started the run, and the configuration of the checkpoint's model.

    `label_map` is pid -> class where that was learned from the model's predictions. `camera_map` is camera -> row,
    where one was given.
    """

    precision: str | None = None
    model: dict[str, JsonValue] = Field(default_factory=dict)
    label_map: dict[int, int] | None = None
    camera_map: dict[int, int] | None = None

    @property
    def placement(self) -> GridPlacement | None:
        """Where the model's patches lie on an image; None where its sizes are not recorded."""
        match self.model:
            case {"image_size": [int(height), int(width)], "patch_size": int(patch), "stride": int(stride)}:
                return GridPlacement.of_patches((height, width), patch, stride)
        return None


class LabelAgreement(Recorded):
    """How a model's predictions on training images compare with the labels, 0 to 1 each.

    agreement: the share of `images` whose prediction is their label. same_class: the share of the pairs of two images
    of one person that have the same prediction; None without such pairs. own_class: the share of `persons` whose most
    frequent prediction is no other person's. confidence: the median probability of the predicted class.
    """

    images: int
    persons: int
    classes: int
    agreement: float
    same_class: float | None
    own_class: float
    confidence: float


class RecordedShard(Recorded):
    """A shard of the list: its name, its address, and of a local file the size in bytes and when it was written.

    `modified_ns` is in nanoseconds since 1970. Earlier versions did not keep it. `added` says with which extension of
    the run the shard came, from 1; None for those that the run was started with.
    """

    name: str
    url: str
    size: int | None
    modified_ns: int | None = None
    added: int | None = None

    @field_validator("name")
    @classmethod
    def _names_files(cls, name: str) -> str:
        if not is_file_name(name):
            raise ValueError(f"{name!r} cannot be the name of a shard's files")
        return name

    @property
    def shard(self) -> Shard:
        """The shard as the rest of the program knows it."""
        return Shard(name=self.name, url=self.url, size=self.size, modified_ns=self.modified_ns, recorded=True)

    @property
    def identity(self) -> dict[str, JsonValue]:
        """The name and size of a local shard, so that a dataset may move; the name and address of any other."""
        known: dict[str, JsonValue] = {"name": self.name, "size": self.size}
        return known if self.size is not None else {**known, "url": self.url}


class Addition(Recorded):
    """Maps that were added to a run after it was started, from the same model and target.

    `device` is the kind of device on which that was begun, and `versions` those of the packages.
    """

    maps: tuple[str, ...] = Field(min_length=1)
    device: str | None = None
    versions: dict[str, str] = Field(default_factory=dict)


class RunRequest(BaseModel):
    """What identifies a request before any model is loaded: its settings and its shards."""

    model_config = ConfigDict(frozen=True)

    asked: RequestedSettings
    shards: tuple[RecordedShard, ...]


def setting_differences(there: Mapping[str, JsonValue], here: Mapping[str, JsonValue], prefix: str = "") -> list[str]:
    """`name was 1 and is now 2` for each setting that differs. `there` are the run's settings, `here` the new ones."""
    found: list[str] = []
    for key in sorted({*there, *here}):
        old, new = there.get(key), here.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += setting_differences(old, new, f"{prefix}{key}.")
        elif old != new:
            found.append(f"{prefix}{key} was {_short(old)} and is now {_short(new)}")
    return found


def shard_differences(
    there: Sequence[RecordedShard],
    here: Sequence[RecordedShard],
    may_differ: Callable[[RecordedShard], bool] = lambda _: False,
    *,
    may_grow: bool = False,
) -> list[str]:
    """Which shards are no longer listed, which are new, and which have changed, each in one phrase.

    A changed shard does not count where `may_differ` says so of it as it is now. With `may_grow` new ones do not count.
    """
    old = {shard.name: shard for shard in there}
    new = {shard.name: shard for shard in here}
    found = []
    if gone := sorted(old.keys() - new.keys()):
        found.append(f"{counted(len(gone), 'shard is', 'shards are')} no longer listed ({first_few(gone)})")
    if not may_grow and (added := sorted(new.keys() - old.keys())):
        found.append(f"{counted(len(added), 'shard is', 'shards are')} new ({first_few(added)})")
    both = sorted(old.keys() & new.keys())
    changed = [name for name in both if old[name].identity != new[name].identity and not may_differ(new[name])]
    if changed:
        sizes = first_few(f"{name}: {old[name].size} then, {new[name].size} bytes now" for name in changed)
        found.append(f"{counted(len(changed), 'shard')} changed ({sizes})")
    return found


def canonical_sha256(content: Mapping[str, object]) -> str:
    """The SHA-256 of the canonical JSON of a content, which does not depend on spaces or on the order of keys."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _short(value: JsonValue) -> str:
    if isinstance(value, str) and _SHA256.fullmatch(value):
        return f"{value[:8]}…"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
