"""run.json: what a run was asked to do, its fingerprint, and the refusal to mix two runs in one folder (no torch)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from jobs.atomic import make_folder, write_once
from jobs.errors import UserError
from jobs.phrases import counted, first_few
from jobs.runs.layout import RunLayout
from jobs.runs.schema import SCHEMA_VERSION, metadata_schema
from jobs.shards.urls import Shard

if TYPE_CHECKING:
    import pyarrow as pa


class Recorded(BaseModel):
    """A part of run.json as it was written; what another version of the program wrote more is kept."""

    model_config = ConfigDict(frozen=True, extra="allow")

    def as_json(self) -> dict[str, JsonValue]:
        """Exactly what was written, no default added: fingerprints are taken of it."""
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
    """What the machine that started the run made of `auto`, and the model's configuration behind the checkpoint."""

    precision: str | None = None
    model: dict[str, JsonValue] = Field(default_factory=dict)


class RecordedShard(Recorded):
    """A shard of the list: its name, address, and size in bytes where it was a local file."""

    name: str
    url: str
    size: int | None

    @property
    def identity(self) -> dict[str, JsonValue]:
        """A local shard is its name and size, so that a dataset may move; any other is its name and address."""
        known: dict[str, JsonValue] = {"name": self.name, "size": self.size}
        return known if self.size is not None else {**known, "url": self.url}


class RunRequest(BaseModel):
    """What identifies a request before any model is loaded: its settings and its shards."""

    model_config = ConfigDict(frozen=True)

    asked: RequestedSettings
    shards: tuple[RecordedShard, ...]


class Manifest(Recorded):
    """The content of run.json.

    `fingerprint` is the SHA-256 of all that decides the results: runs of one fingerprint may be mixed. `checkpoint` is
    the file's path when the run was started.
    """

    schema_version: int
    asked: RequestedSettings
    recorded_shards: tuple[RecordedShard, ...] = Field(alias="shards")
    resolved: ResolvedSettings
    checkpoint: str | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    fingerprint: str

    @property
    def maps(self) -> tuple[str, ...]:
        """Names of the stored maps, in the order of the metadata's columns."""
        return self.asked.maps

    @property
    def columns(self) -> pa.Schema:
        """The columns of the metadata. A run goes on with those that it began with, whatever version wrote it."""
        return metadata_schema(self.maps, self.schema_version)

    @property
    def has_heads(self) -> bool:
        """Whether the attention of each head is stored beside the mean."""
        return self.asked.attention_heads == "all"

    @property
    def shards(self) -> tuple[Shard, ...]:
        """The whole shard list, sorted by name."""
        return tuple(Shard(name=entry.name, url=entry.url, size=entry.size) for entry in self.recorded_shards)


def read_manifest(layout: RunLayout) -> Manifest:
    """The manifest of an existing run. Raises UserError naming the file where there is none, or none of a run."""
    try:
        content = json.loads(layout.manifest.read_bytes())
    except FileNotFoundError as error:
        raise UserError(f"{layout.root} is not a run: it has no run.json (mine one with `promptsg mine`)") from error
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {layout.manifest}: {error}") from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version not in range(1, SCHEMA_VERSION + 1):
        raise UserError(f"{layout.manifest} has schema version {version}; this program reads 1 to {SCHEMA_VERSION}")
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(f"cannot read {layout.manifest}: {where}: {first['msg']}") from error


def create_manifest(
    layout: RunLayout,
    request: RunRequest,
    resolved: ResolvedSettings,
    *,
    checkpoint: str | None = None,
    versions: Mapping[str, str] | None = None,
) -> Manifest:
    """Writes run.json once, or reads the one that another worker wrote first.

    `checkpoint` and `versions` are not part of the fingerprint. Raises UserError where the run that is there was
    requested with something else.
    """
    for folder in (layout.root, layout.maps, layout.metadata, layout.logs):
        make_folder(folder)
    content: dict[str, JsonValue] = {
        "schema_version": SCHEMA_VERSION,
        "asked": request.asked.as_json(),
        "shards": [shard.as_json() for shard in request.shards],
        "resolved": resolved.as_json(),
    }
    content |= {} if checkpoint is None else {"checkpoint": checkpoint}
    content |= {} if versions is None else {"versions": dict(versions)}
    content["fingerprint"] = fingerprint_of(request, resolved)
    refuse_orphans(layout)
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    if write_once(layout.manifest, text.encode()):
        return Manifest.model_validate(content)
    manifest = read_manifest(layout)
    refuse_other(layout, manifest, request, resolved)
    return manifest


def refuse_orphans(layout: RunLayout) -> None:
    """Raises UserError for shards without a run.json: nobody can tell which run published them."""
    done = layout.done()  # first: another worker may write its run.json, and only then its shards
    if done and not layout.manifest.exists():
        raise UserError(
            f"{layout.root} has {len(done)} published shards but no run.json: give --overwrite to delete them, "
            "or another --output"
        )


def fingerprint_of(request: RunRequest, resolved: ResolvedSettings) -> str:
    """SHA-256 over the canonical JSON of what decides the results: what the shards are, not where they lie."""
    decisive = {
        "asked": request.asked.as_json(),
        "resolved": resolved.as_json(),
        "shards": [shard.identity for shard in request.shards],
    }
    text = json.dumps(decisive, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def refuse_other(
    layout: RunLayout, manifest: Manifest, request: RunRequest, resolved: ResolvedSettings | None = None
) -> None:
    """Raises UserError listing what differs between run.json and this request, both values, and what to do."""
    differences = _differences(manifest.asked.as_json(), request.asked.as_json())
    if resolved is not None:
        differences += _differences(manifest.resolved.as_json(), resolved.as_json())
    differences += _shard_differences(manifest.recorded_shards, request.shards)
    if differences:
        raise UserError(
            f"{layout.root} holds another run: {'; '.join(differences)}. Ask for the same, choose another --output, "
            "or give --overwrite to delete it and start anew"
        )


def _differences(there: Mapping[str, JsonValue], here: Mapping[str, JsonValue], prefix: str = "") -> list[str]:
    found: list[str] = []
    for key in sorted({*there, *here}):
        old, new = there.get(key), here.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += _differences(old, new, f"{prefix}{key}.")
        elif old != new:
            found.append(f"{prefix}{key} was {_short(old)} and is now {_short(new)}")
    return found


def _shard_differences(there: Sequence[RecordedShard], here: Sequence[RecordedShard]) -> list[str]:
    old, new = ({shard.name: shard for shard in shards} for shards in (there, here))
    found = []
    for names, what in ((old.keys() - new.keys(), "no longer listed"), (new.keys() - old.keys(), "new")):
        if names:
            found.append(f"{counted(len(names), 'shard is', 'shards are')} {what} ({first_few(sorted(names))})")
    if changed := sorted(name for name in old.keys() & new.keys() if old[name].identity != new[name].identity):
        sizes = first_few(f"{name}: {old[name].size} then, {new[name].size} bytes now" for name in changed)
        found.append(f"{counted(len(changed), 'shard')} changed ({sizes})")
    return found


def _short(value: JsonValue) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."
