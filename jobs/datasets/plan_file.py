"""shards.json beside the shards: the request, the state of the image files, and the bytes of each tar (no torch)."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from jobs.datasets.listing import Record
from jobs.datasets.shard_plan import PLAN, PlannedShard, ShardPlan
from jobs.datasets.tar_writer import member_names, sample_json
from jobs.errors import UserError
from jobs.phrases import first_few, one_line, shown

_NAME = re.compile(r"[^/\\\0]+\.tar")
_TEXTS = ("keys_sha256", "sources_sha256", "sha256")


@dataclass(frozen=True, kw_only=True)
class ListedShard:
    """A shard as shards.json lists it.

    `keys_sha256` is of its samples' names and metadata, `sources_sha256` of the sizes and times of the images that were
    packed, `sha256` and `bytes` of the finished tar. None: not stated; a tar without `sha256` may not be there yet.
    """

    file: str
    images: int
    keys_sha256: str | None = None
    sources_sha256: str | None = None
    sha256: str | None = None
    bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class ListedPlan:
    """What shards.json says. Drawn pedestrians have no `dataset`."""

    dataset: str | None
    images_per_shard: int | None
    seed: int | None
    shards: tuple[ListedShard, ...]


@dataclass(frozen=True, kw_only=True)
class Sources:
    """The image files of a shard as they are now: a hash of their sizes and times, and their bytes in all."""

    sha256: str
    bytes: int


def read_plan(folder: Path) -> ListedPlan | None:
    """The shards.json of a folder; None if there is none. Raises UserError for a file that is not one."""
    path = folder / PLAN
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise _damaged_error(path, f"it is not JSON: {one_line(error)}") from error
    if not isinstance(content, dict) or not isinstance(content.get("shards"), list):
        raise _damaged_error(path, "it has no list of shards")
    shards = [_listed(path, entry) for entry in content["shards"]]
    if len({shard.file for shard in shards}) < len(shards):
        raise _damaged_error(path, "it lists a shard twice")
    dataset, count, seed = (content.get(name) for name in ("dataset", "images_per_shard", "seed"))
    return ListedPlan(
        dataset=dataset if isinstance(dataset, str) else None,
        images_per_shard=count if type(count) is int else None,
        seed=seed if type(seed) is int else None,
        shards=tuple(shards),
    )


def plan_content(plan: ShardPlan, shards: Sequence[ListedShard]) -> bytes:
    """What shards.json holds. What is not known of a shard is left out."""
    content = {
        "dataset": plan.dataset,
        "images_per_shard": plan.images_per_shard,
        "seed": plan.seed,
        "shards": [{name: value for name, value in asdict(shard).items() if value is not None} for shard in shards],
    }
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


def require_same_request(folder: Path, plan: ShardPlan, listed: ListedPlan) -> None:
    """Raises UserError, naming what differs, if a folder's shards.json is of another plan."""
    names = ("dataset", "images_per_shard", "seed")
    settings = "; ".join(
        f"{name} was {getattr(listed, name)!r} and is now {getattr(plan, name)!r}"
        for name in names
        if getattr(listed, name) != getattr(plan, name)
    )
    others = [] if settings else _other_shards(plan, listed)
    if settings or others:
        how = settings or f"the images are others, in {first_few(others)}"
        raise UserError(f"{folder} holds shards of another request ({how}); choose another folder, or --overwrite")


def list_shard(shard: PlannedShard, sources: Sources) -> ListedShard:
    """The entry of a shard that has yet to be written."""
    return ListedShard(
        file=shard.file,
        images=len(shard.records),
        keys_sha256=_keys_sha256(shard.records),
        sources_sha256=sources.sha256,
    )


def look_at_sources(records: Sequence[Record]) -> Sources:
    """The files of a shard as they are now. Raises UserError naming one that is not there."""
    digest, total = hashlib.sha256(), 0
    for record in records:
        try:
            facts = record.path.stat()
        except OSError as error:
            raise UserError(f"cannot read {shown(record.path)}: {error.strerror}") from error
        digest.update(f"{facts.st_size} {facts.st_mtime_ns}\n".encode())
        total += facts.st_size
    return Sources(sha256=digest.hexdigest(), bytes=total)


def _damaged_error(path: Path, reason: str) -> UserError:
    return UserError(
        f"{path} is not the plan of `promptsg shard` ({reason}), so nothing here is touched; remove this file, "
        "or choose another folder"
    )


def _listed(path: Path, entry: object) -> ListedShard:
    """An entry of shards.json. Raises UserError for one that is damaged, or that names a file elsewhere."""
    if not isinstance(entry, Mapping):
        raise _damaged_error(path, f"a shard is {shown(repr(entry)[:40])}")
    file, images, size = entry.get("file"), entry.get("images"), entry.get("bytes")
    if not isinstance(file, str) or not _NAME.fullmatch(file):
        raise _damaged_error(path, f"a shard's file is {shown(repr(file)[:80])}")
    if type(images) is not int or not isinstance(size, int | None):
        raise _damaged_error(path, f"images of {shown(file)} are {shown(repr(images)[:40])}")
    texts = {name: value for name in _TEXTS if isinstance(value := entry.get(name), str)}
    return ListedShard(file=file, images=images, bytes=size, **texts)


def _other_shards(plan: ShardPlan, listed: ListedPlan) -> list[str]:
    """The shards that only one of the two has, or that have other samples in the plan than are listed."""
    planned = {shard.file: shard for shard in plan.shards}
    known = {shard.file: shard for shard in listed.shards}
    same = (file for file in planned.keys() & known.keys() if _same_images(planned[file], known[file]))
    return sorted((planned.keys() | known.keys()).difference(same))


def _same_images(shard: PlannedShard, known: ListedShard) -> bool:
    """Whether a shard of the plan has the samples that are listed."""
    return len(shard.records) == known.images and known.keys_sha256 in (
        _keys_sha256(shard.records),
        _keys_sha256_once(shard.records),
    )


def _keys_sha256(records: Sequence[Record]) -> str:
    digest = hashlib.sha256()
    for record in records:
        digest.update(member_names(record)[1].encode() + sample_json(record.parsed, record.split, record.who))
    return digest.hexdigest()


def _keys_sha256_once(records: Sequence[Record]) -> str:
    """The hash that was written when samples did not say who is who."""
    digest = hashlib.sha256()
    for record in records:
        note = json.dumps({**record.parsed._asdict(), "split": record.split})
        digest.update(f"{record.key}{record.path.suffix}{note}".encode("utf-8", "backslashreplace"))
    return digest.hexdigest()
