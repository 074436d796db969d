"""run.json: read, written once, with its fingerprint; and the refusal to mix two runs in one folder."""

from __future__ import annotations

import json
import secrets
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from pydantic import Field, JsonValue, ValidationError

from cam.placement import GridPlacement
from jobs.atomic import make_folder, write_once
from jobs.errors import UserError
from jobs.phrases import counted
from jobs.reading import read_json_object
from jobs.runs.layout import RunLayout
from jobs.runs.request import (
    Addition,
    LabelAgreement,
    Recorded,
    RecordedShard,
    RequestedSettings,
    ResolvedSettings,
    RunRequest,
    canonical_sha256,
    setting_differences,
    shard_differences,
)
from jobs.runs.restart import may_have_changed
from jobs.runs.schema import GROWN_VERSION, PLACED_SINCE, SCHEMA_VERSION, metadata_schema
from jobs.shards.urls import Shard

if TYPE_CHECKING:
    import pyarrow as pa

_RUN_REMEDY = "put its copy back, or mine the run again with --overwrite"


class Manifest(Recorded):
    """The content of run.json.

    `fingerprint` is the SHA-256 of everything that decides the results: shards with the same fingerprint may be mixed.
    `checkpoint` is the path of the checkpoint when the run was started, and `device` the kind of device then.
    `label_agreement` is what was found then for the target `label`. `run_id` tells the run from another one that was
    started in the same folder with the same request. `sha256` is the hash of all the rest.
    Earlier versions kept neither.

    A run that has grown keeps its `fingerprint`, which is that of the settings and of the shards that it was started
    with. `additions` are the maps that were added, in their order. `columns_version` is then the version of its
    columns.
    """

    schema_version: int
    columns_version: int | None = None
    asked: RequestedSettings
    recorded_shards: tuple[RecordedShard, ...] = Field(alias="shards")
    additions: tuple[Addition, ...] = ()
    resolved: ResolvedSettings
    checkpoint: str | None = None
    device: str | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    label_agreement: LabelAgreement | None = None
    run_id: str | None = None
    fingerprint: str
    sha256: str | None = None

    @property
    def maps(self) -> tuple[str, ...]:
        """Names of the maps that the run was started with, in the order of the metadata's columns."""
        return self.asked.maps

    @property
    def numbered_additions(self) -> dict[int, tuple[str, ...]]:
        """The maps of each addition by its number, which begins with 2: the maps of the run itself are the first."""
        return {number: addition.maps for number, addition in enumerate(self.additions, start=2)}

    def addition_of(self, name: str) -> int | None:
        """The number of the addition that a map came with; None for a map that the run was started with, or no map."""
        return next((number for number, maps in self.numbered_additions.items() if name in maps), None)

    @property
    def columns(self) -> pa.Schema:
        """The columns of the metadata. A run keeps those that it was started with, also under a later version."""
        return self.columns_with(())

    def columns_with(self, numbers: Iterable[int]) -> pa.Schema:
        """The columns of the metadata of a shard that has these additions. Raises UserError for one that is unknown."""
        there, wanted = self.numbered_additions, sorted(numbers)
        if unknown := [number for number in wanted if number not in there]:
            raise UserError(f"run.json has no addition {unknown[0]}, whose maps a shard has; {_RUN_REMEDY}")
        added = [name for number in wanted for name in there[number]]
        return metadata_schema((*self.maps, *added), self.version_of_columns)

    @property
    def version_of_columns(self) -> int:
        """The version of the schema that the columns are those of."""
        return self.schema_version if self.columns_version is None else self.columns_version

    @property
    def placement(self) -> GridPlacement | None:
        """Where the patches of every map lie on an image; None where it is not known, and equal cells are assumed."""
        return self.resolved.placement

    @property
    def measured_placement(self) -> GridPlacement | None:
        """Where the stored measures take the patches to lie: runs of earlier versions keep to equal cells."""
        return self.placement if self.version_of_columns >= PLACED_SINCE else None

    @property
    def has_heads(self) -> bool:
        """Whether the attention of each head is stored beside the mean."""
        return self.asked.attention_heads == "all"

    @property
    def shards(self) -> tuple[Shard, ...]:
        """The whole shard list, sorted by name."""
        return tuple(recorded.shard for recorded in self.recorded_shards)

    @property
    def list_fingerprint(self) -> str:
        """The SHA-256 of the settings and of all shards, later ones too: `fingerprint` where none was added."""
        added = [shard.identity for shard in self.recorded_shards if shard.added is not None]
        return canonical_sha256({"fingerprint": self.fingerprint, "added": added}) if added else self.fingerprint


def read_manifest(layout: RunLayout) -> Manifest:
    """The manifest of an existing run.

    Raises UserError naming the file if it is missing or malformed, lists a shard twice, or has another content than was
    written, as far as the fingerprint of the run and, since a later version, the file's own hash tell.
    """
    if not layout.manifest.exists() and not layout.manifest.is_symlink():
        raise UserError(f"{layout.root} is not a run: it has no run.json (mine one with `promptsg mine`)")
    content = read_json_object(layout.manifest, "the manifest of a run", _RUN_REMEDY)
    version = content.get("schema_version")
    if type(version) is not int or version not in range(1, GROWN_VERSION + 1):
        raise UserError(f"{layout.manifest} has schema version {version}; this program reads 1 to {GROWN_VERSION}")
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(f"cannot read {layout.manifest}: {where}: {first['msg']}; {_RUN_REMEDY}") from error
    _refuse_altered(layout, manifest)
    written = content.pop("sha256", None)
    if written is not None and written != canonical_sha256(content):
        raise UserError(f"{layout.manifest} has another content than was written (SHA-256 differs); {_RUN_REMEDY}")
    return manifest


def _refuse_altered(layout: RunLayout, manifest: Manifest) -> None:
    """Raises UserError where run.json is not as it was written, as far as its shards and its fingerprint tell."""
    counts = Counter(shard.name for shard in manifest.recorded_shards)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise UserError(f"{layout.manifest} lists the shard {twice[0]!r} twice; {_RUN_REMEDY}")
    added = Counter(name for addition in manifest.additions for name in addition.maps)
    if repeated := [name for name, count in added.items() if count > 1 or name in manifest.maps]:
        raise UserError(f"{layout.manifest} names the map {repeated[0]!r} twice; {_RUN_REMEDY}")
    first = tuple(shard for shard in manifest.recorded_shards if shard.added is None)
    request = RunRequest(asked=manifest.asked, shards=first)
    if fingerprint_of(request, manifest.resolved) != manifest.fingerprint:
        raise UserError(
            f"{layout.manifest} was altered: its settings or shards are not those of its fingerprint; {_RUN_REMEDY}"
        )


def create_manifest(
    layout: RunLayout,
    request: RunRequest,
    resolved: ResolvedSettings,
    *,
    checkpoint: str | None = None,
    device: str | None = None,
    versions: Mapping[str, str] | None = None,
    retry_failed: bool = False,
    label_agreement: LabelAgreement | None = None,
) -> Manifest:
    """Writes run.json once, or reads the one that another worker wrote first.

    `checkpoint`, `device`, `versions` and `label_agreement` are not part of the fingerprint. Raises UserError if the
    existing run was requested with other settings or shards.
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
    content |= {} if device is None else {"device": device}
    content |= {} if versions is None else {"versions": dict(versions)}
    content |= {} if label_agreement is None else {"label_agreement": label_agreement.as_json()}
    content["run_id"] = secrets.token_hex(8)
    content["fingerprint"] = fingerprint_of(request, resolved)
    content["sha256"] = canonical_sha256(content)
    refuse_orphans(layout)
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    if write_once(layout.manifest, text.encode()):
        return Manifest.model_validate(content)
    manifest = read_manifest(layout)
    refuse_other(layout, manifest, request, resolved, retry_failed=retry_failed)
    return manifest


def refuse_orphans(layout: RunLayout) -> None:
    """Raises UserError if there are shards without a run.json: it is unknown which run published them.

    The first images of shards count too.
    """
    done = layout.done() | layout.reading_begun().begun  # first: another worker may write run.json, then its shards
    if done and not layout.manifest.exists():
        raise UserError(
            f"{layout.root} has {counted(len(done), 'published shard')} but no run.json: give --overwrite to delete "
            "them, or another --output"
        )


def fingerprint_of(request: RunRequest, resolved: ResolvedSettings) -> str:
    """SHA-256 of the canonical JSON of what decides the results. It does not depend on where local shards are."""
    decisive: dict[str, JsonValue] = {
        "asked": request.asked.as_json(),
        "resolved": resolved.as_json(),
        "shards": [shard.identity for shard in request.shards],
    }
    return canonical_sha256(decisive)


def _refuse_other_precision(layout: RunLayout, manifest: Manifest, resolved: ResolvedSettings) -> None:
    """Raises UserError where two machines of different kinds have started a run with `auto` at the same moment."""
    there, here = manifest.resolved.precision, resolved.precision
    if manifest.asked.precision == "auto" and there != here:
        raise UserError(
            f"precision auto became {there} on {manifest.device or 'the machine'} that started {layout.root} a moment "
            f"ago, and {here} here: give the same command again, and it takes {there}"
        )


def refuse_other(
    layout: RunLayout,
    manifest: Manifest,
    request: RunRequest,
    resolved: ResolvedSettings | None = None,
    *,
    retry_failed: bool = False,
    extend: bool = False,
) -> None:
    """Raises UserError if this request differs from run.json. The message lists both values and says what to do.

    A shard that is not done may have changed, and one that is done with failed images, if `retry_failed`. With
    `extend` there may be further shards.
    """
    differences = setting_differences(manifest.asked.as_json(), request.asked.as_json())
    if resolved is not None:
        _refuse_other_precision(layout, manifest, resolved)
        there, here = manifest.resolved.as_json(), resolved.as_json()
        if "label_map" in there and "label_map" in here:  # learned by two workers at once: the first one's counts
            here["label_map"] = there["label_map"]
        differences += setting_differences(there, here)
    done = layout.done()

    def may_differ(shard: RecordedShard) -> bool:
        return shard.name not in done or may_have_changed(layout, shard.name, shard.size, retry_failed=retry_failed)

    shards = shard_differences(manifest.recorded_shards, request.shards, may_differ, may_grow=extend)
    if differences or shards:
        only_more = not differences and not shard_differences(
            manifest.recorded_shards, request.shards, may_differ, may_grow=True
        )
        more = ", give --extend to add the new shards to it" if only_more else ""
        raise UserError(
            f"{layout.root} holds another run: {'; '.join([*differences, *shards])}. Request the same{more}, choose "
            "another --output, or give --overwrite to delete it and start again"
        )
