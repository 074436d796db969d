"""What is requested of a run, as run.json records it, and how two requests differ."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from jobs.phrases import counted, first_few

_LONGEST = 80


class Recorded(BaseModel):
    """A part of run.json as it was written. Fields that another version of the program wrote are kept."""

    model_config = ConfigDict(frozen=True, extra="allow")

    def as_json(self) -> dict[str, JsonValue]:
        """Exactly what was written, without added defaults: the fingerprint is that of this JSON."""
        return self.model_dump(mode="json", exclude_unset=True)


class RequestedSettings(Recorded):
    """The settings that decide a run's numbers, as they were requested.

    Files are recorded by the SHA-256 of their bytes, not by their paths, and the reference run by its fingerprint.
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
    overrides: tuple[str, ...] = ()


class ResolvedSettings(Recorded):
    """What `auto` became on the machine that started the run, and the configuration of the checkpoint's model."""

    precision: str | None = None
    model: dict[str, JsonValue] = Field(default_factory=dict)


class RecordedShard(Recorded):
    """A shard of the list: its name, its address, and its size in bytes if it was a local file."""

    name: str
    url: str
    size: int | None

    @property
    def identity(self) -> dict[str, JsonValue]:
        """The name and size of a local shard, so that a dataset may move; the name and address of any other."""
        known: dict[str, JsonValue] = {"name": self.name, "size": self.size}
        return known if self.size is not None else {**known, "url": self.url}


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


def shard_differences(there: Sequence[RecordedShard], here: Sequence[RecordedShard]) -> list[str]:
    """Which shards are no longer listed, which are new, and which have changed, each in one phrase."""
    old = {shard.name: shard for shard in there}
    new = {shard.name: shard for shard in here}
    found = []
    if gone := sorted(old.keys() - new.keys()):
        found.append(f"{counted(len(gone), 'shard is', 'shards are')} no longer listed ({first_few(gone)})")
    if added := sorted(new.keys() - old.keys()):
        found.append(f"{counted(len(added), 'shard is', 'shards are')} new ({first_few(added)})")
    if changed := sorted(name for name in old.keys() & new.keys() if old[name].identity != new[name].identity):
        sizes = first_few(f"{name}: {old[name].size} then, {new[name].size} bytes now" for name in changed)
        found.append(f"{counted(len(changed), 'shard')} changed ({sizes})")
    return found


def _short(value: JsonValue) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
