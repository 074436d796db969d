"""run.json: what a run was asked to do, its fingerprint, and the refusal to mix two runs in one folder (no torch)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from jobs.atomic import make_folder, sha256_of, write_once
from jobs.errors import UserError
from jobs.mining.config import MineConfig
from jobs.runs.layout import RunLayout
from jobs.runs.schema import SCHEMA_VERSION, metadata_schema
from jobs.shards.urls import Shard

# Settings that change no stored number: a run may be resumed with others.
_FREE = frozenset({"shards", "checkpoint", "output", "device", "batch_size", "workers", "max_failed_fraction"})
# Decided on the machine that starts the run (what `auto` means there, the model behind the checkpoint).
_RESOLVED = ("precision", "model")
_MANY = 5


@dataclass(frozen=True)
class Manifest:
    """The content of run.json; `content["fingerprint"]` is the SHA-256 of all that decides the results."""

    content: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """Hexadecimal, the same for runs whose files may be mixed."""
        return str(self.content["fingerprint"])

    @property
    def maps(self) -> tuple[str, ...]:
        """Names of the stored maps, in the order of the metadata's columns."""
        return tuple(self.content["asked"]["maps"])

    @property
    def schema(self) -> pa.Schema:
        """The columns of the metadata. A run goes on with those that it began with, whatever wrote it."""
        return metadata_schema(self.maps, self.content["schema_version"])

    @property
    def has_heads(self) -> bool:
        """Whether the attention of each head is stored beside the mean."""
        return self.content["asked"].get("attention_heads") == "all"

    @property
    def shards(self) -> tuple[Shard, ...]:
        """The whole shard list, sorted by name."""
        return tuple(Shard(**entry) for entry in self.content["shards"])


def asked_by(config: MineConfig, shards: Sequence[Shard]) -> dict[str, Any]:
    """What identifies a request before any model is loaded: settings, the checkpoint's hash, the shards."""
    if not config.checkpoint.is_file():
        raise UserError(f"the checkpoint {config.checkpoint} does not exist or is not a file")
    settings = {k: v for k, v in config.model_dump(mode="json").items() if k not in _FREE}
    for name in ("model_settings", "label_map"):  # what a file says decides, not where it lies
        if (path := getattr(config, name)) is not None:
            settings[name] = _hash_of(path)
    if config.reference is not None:
        settings["reference"] = read_manifest(RunLayout(config.reference)).fingerprint
    return {
        "asked": {**settings, "checkpoint_sha256": sha256_of(config.checkpoint)},
        "shards": [{"name": s.name, "url": s.url, "size": s.size} for s in shards],
    }


def _hash_of(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def read_manifest(layout: RunLayout) -> Manifest:
    """The manifest of an existing run. Raises UserError naming the file if there is none, or none of ours."""
    try:
        content = json.loads(layout.manifest.read_bytes())
    except FileNotFoundError as error:
        raise UserError(f"{layout.root} is not a run: it has no run.json (mine one with `promptsg mine`)") from error
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {layout.manifest}: {error}") from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version not in range(1, SCHEMA_VERSION + 1):
        raise UserError(f"{layout.manifest} has schema version {version}; this program reads 1 to {SCHEMA_VERSION}")
    return Manifest(content)


def create_manifest(
    layout: RunLayout, asked: Mapping[str, Any], resolved: Mapping[str, Any], details: Mapping[str, Any]
) -> Manifest:
    """Writes run.json once, or reads the one that another worker wrote first; `details` is not part of the fingerprint.

    Raises UserError if the run that is there was asked for something else.
    """
    for folder in (layout.root, layout.maps, layout.metadata, layout.logs):
        make_folder(folder)
    content = {"schema_version": SCHEMA_VERSION, **asked, "resolved": dict(resolved), **details}
    content["fingerprint"] = fingerprint_of(content)
    refuse_orphans(layout)
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    if write_once(layout.manifest, text.encode()):
        return Manifest(content)
    manifest = read_manifest(layout)
    refuse_other(layout, manifest, asked, resolved)
    return manifest


def refuse_orphans(layout: RunLayout) -> None:
    """Raises UserError for shards without a run.json: nobody can tell which run published them."""
    done = layout.done()  # first: another worker may write its run.json, and only then its shards
    if done and not layout.manifest.exists():
        raise UserError(
            f"{layout.root} has {len(done)} published shards but no run.json: give --overwrite to delete them, "
            "or another --output"
        )


def fingerprint_of(content: Mapping[str, Any]) -> str:
    """SHA-256 over the canonical JSON of what decides the results: what the shards are does, where they lie not."""
    shards = [_identity(entry) for entry in content["shards"]]
    decisive = {"asked": content["asked"], "resolved": content["resolved"], "shards": shards}
    text = json.dumps(decisive, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def refuse_other(
    layout: RunLayout, manifest: Manifest, asked: Mapping[str, Any], resolved: Mapping[str, Any] | None = None
) -> None:
    """Raises UserError listing what differs between run.json and this request, both values, and what to do."""
    there = manifest.content
    differences = _differences(there["asked"], asked["asked"])
    if resolved is not None:
        differences += _differences(there["resolved"], resolved)
    differences += _shard_differences(there["shards"], asked["shards"])
    if differences:
        raise UserError(
            f"{layout.root} holds another run: {'; '.join(differences)}. Ask for the same, choose another --output, "
            "or give --overwrite to delete it and start anew"
        )


def _differences(there: Mapping[str, Any], here: Mapping[str, Any], prefix: str = "") -> list[str]:
    found: list[str] = []
    for key in sorted({*there, *here}):
        old, new = there.get(key), here.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += _differences(old, new, f"{prefix}{key}.")
        elif old != new:
            found.append(f"{prefix}{key} was {_short(old)} and is now {_short(new)}")
    return found


def _shard_differences(there: Sequence[Mapping[str, Any]], here: Sequence[Mapping[str, Any]]) -> list[str]:
    old, new = ({entry["name"]: _identity(entry) for entry in entries} for entries in (there, here))
    found = []
    for names, what in ((old.keys() - new.keys(), "no longer listed"), (new.keys() - old.keys(), "new")):
        if names:
            found.append(f"{len(names)} shards are {what} ({_some(names)})")
    if changed := [name for name in old.keys() & new.keys() if old[name] != new[name]]:
        sizes = ", ".join(f"{n}: {old[n]['size']} then, {new[n]['size']} bytes now" for n in sorted(changed)[:_MANY])
        found.append(f"{len(changed)} shards changed ({sizes})")
    return found


def _identity(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A local shard is its name and size, so that a dataset may move; any other is its name and address."""
    identity = {"name": entry["name"], "size": entry["size"]}
    return identity if entry["size"] is not None else {**identity, "url": entry["url"]}


def _some(names: set[str]) -> str:
    return ", ".join(sorted(names)[:_MANY]) + (", ..." if len(names) > _MANY else "")


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."
