"""run.json of a run that grows: further shards and further maps, written under the lock of the run."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence

from pydantic import JsonValue

from jobs.atomic import exclusive, make_folder, write_whole
from jobs.errors import UserError
from jobs.phrases import counted, first_few
from jobs.reading import read_json_object
from jobs.runs.integrity.run_json import refuse_replaced
from jobs.runs.layout import RunLayout
from jobs.runs.manifest import Manifest, read_manifest
from jobs.runs.request import Addition, RecordedShard, canonical_sha256
from jobs.runs.schema import GROWN_VERSION

logger = logging.getLogger(__name__)


def add_shards(layout: RunLayout, manifest: Manifest, requested: Sequence[RecordedShard]) -> Manifest:
    """Adds to run.json the requested shards that it does not list yet. Returns what it has then.

    Of several commands that add the same shards at the same time, one adds them, and the others find them there. A
    worker that began with the shorter list goes on: the fingerprint, which its shards carry, stays. Raises UserError
    where the run in the folder is another one, or lists shards that are not requested.
    """
    make_folder(layout.logs)  # a copy of a run may be without it
    with exclusive(layout.lock):
        refuse_replaced(layout, manifest)
        now = read_manifest(layout)
        listed = {shard.name for shard in now.recorded_shards}
        if gone := sorted(listed - {shard.name for shard in requested}):
            raise UserError(
                f"{layout.root} has {counted(len(gone), 'shard')} that the request does not list ({first_few(gone)}): "
                "--extend only adds; list these too, or choose another --output"
            )
        new = [shard for shard in requested if shard.name not in listed]
        if not new:
            return now
        number = 1 + max((shard.added or 0 for shard in now.recorded_shards), default=0)
        grown = [*now.recorded_shards, *(shard.model_copy(update={"added": number}) for shard in new)]
        grown.sort(key=lambda shard: shard.name)
        logger.info("%s: %s added: %s", layout.root, counted(len(new), "shard is", "shards are"),
                    first_few(shard.name for shard in new))  # fmt: skip
        listing: list[JsonValue] = [shard.as_json() for shard in grown]
        return _write(layout, now, {"shards": listing})


def add_addition(layout: RunLayout, manifest: Manifest, addition: Addition) -> tuple[int, Manifest]:
    """The number of the addition of these maps, which is begun if it is not in run.json, and what run.json has then.

    As with shards, one of several commands at the same time begins it. Raises UserError where the run in the folder is
    another one, or has some of the maps already.
    """
    make_folder(layout.logs)
    with exclusive(layout.lock):
        refuse_replaced(layout, manifest)
        now = read_manifest(layout)
        number = number_of_addition(layout, now, addition.maps)
        if number is None:
            additions: list[JsonValue] = [*(one.as_json() for one in now.additions), addition.as_json()]
            number, now = len(additions) + 1, _write(layout, now, {"additions": additions})
        make_folder(layout.added_maps(number))
        return number, now


def grown_manifest(layout: RunLayout, manifest: Manifest, numbers: Iterable[int]) -> Manifest:
    """A manifest that knows the additions of these numbers: the given one, or what run.json has become since.

    It stays the given one where run.json is another run's by now. Raises UserError where run.json cannot be read.
    """
    if manifest.numbered_additions.keys() >= set(numbers):
        return manifest
    now = read_manifest(layout)
    return now if (now.fingerprint, now.run_id) == (manifest.fingerprint, manifest.run_id) else manifest


def number_of_addition(layout: RunLayout, manifest: Manifest, maps: Sequence[str]) -> int | None:
    """The number of the addition that has exactly these maps; None where the run has none of them.

    Raises UserError where it has some of them.
    """
    if own := [name for name in maps if name in manifest.maps]:
        raise UserError(f"{layout.root} has {first_few(own)} already, since it was started: add other maps")
    for number, there in manifest.numbered_additions.items():
        if set(there) == set(maps):
            return number
        if both := [name for name in maps if name in there]:
            again = " ".join(f"--add-maps {name}" for name in there)
            raise UserError(
                f"{first_few(both)} was added to {layout.root} before: go on with that by {again}, and add other maps "
                "by a command of their own"
            )
    return None


def _write(layout: RunLayout, manifest: Manifest, changes: Mapping[str, JsonValue]) -> Manifest:
    """Replaces run.json by one with these changes. Everything else stays as it was written."""
    content = read_json_object(layout.manifest, "the manifest of a run", "put its copy back")
    content |= {"schema_version": GROWN_VERSION, "columns_version": manifest.version_of_columns, **changes}
    if content.pop("sha256", None) is not None:  # without one, the run is of a version that sealed nothing
        content["sha256"] = canonical_sha256(content)
    write_whole(layout.manifest, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
    return read_manifest(layout)
