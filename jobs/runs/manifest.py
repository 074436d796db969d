"""run.json: read, written once, with its fingerprint; and the refusal to mix two runs in one folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import Field, JsonValue, ValidationError

from jobs.atomic import make_folder, write_once
from jobs.errors import UserError
from jobs.runs.layout import RunLayout
from jobs.runs.request import (
    Recorded,
    RecordedShard,
    RequestedSettings,
    ResolvedSettings,
    RunRequest,
    setting_differences,
    shard_differences,
)
from jobs.runs.schema import SCHEMA_VERSION, metadata_schema
from jobs.shards.urls import Shard

if TYPE_CHECKING:
    import pyarrow as pa


class Manifest(Recorded):
    """The content of run.json.

    `fingerprint` is the SHA-256 of everything that decides the results: shards with the same fingerprint may be mixed.
    `checkpoint` is the path of the checkpoint when the run was started.
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
        """The columns of the metadata. A run keeps those that it was started with, also under a later version."""
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
    """The manifest of an existing run. Raises UserError naming the file if it is missing or malformed."""
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

    `checkpoint` and `versions` are not part of the fingerprint. Raises UserError if the existing run was requested with
    other settings or shards.
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
    """Raises UserError if there are shards without a run.json: it is unknown which run published them."""
    done = layout.done()  # first: another worker may write its run.json, and only then its shards
    if done and not layout.manifest.exists():
        raise UserError(
            f"{layout.root} has {len(done)} published shards but no run.json: give --overwrite to delete them, "
            "or another --output"
        )


def fingerprint_of(request: RunRequest, resolved: ResolvedSettings) -> str:
    """SHA-256 of the canonical JSON of what decides the results. It does not depend on where local shards are."""
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
    """Raises UserError if this request differs from run.json. The message lists both values and says what to do."""
    differences = setting_differences(manifest.asked.as_json(), request.asked.as_json())
    if resolved is not None:
        differences += setting_differences(manifest.resolved.as_json(), resolved.as_json())
    differences += shard_differences(manifest.recorded_shards, request.shards)
    if differences:
        raise UserError(
            f"{layout.root} holds another run: {'; '.join(differences)}. Request the same, choose another --output, "
            "or give --overwrite to delete it and start again"
        )
