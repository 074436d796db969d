"""Which record goes into which tar shard, and the file that keeps this plan beside the shards (no torch)."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path

from jobs.atomic import write_once
from jobs.datasets.listing import Record
from jobs.datasets.tar_writer import sample_json
from jobs.errors import UserError

PLAN = "shards.json"


@dataclass(frozen=True)
class PlannedShard:
    """A shard to be written: its file name and the records that go into it, in order."""

    file: str
    records: tuple[Record, ...]


@dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """All shards of a request. `seed` is that of shuffling, None where the records are sorted by key."""

    dataset: str
    images_per_shard: int
    seed: int | None
    shards: tuple[PlannedShard, ...]


def plan_shards(records: Sequence[Record], *, dataset: str, images_per_shard: int, seed: int | None) -> ShardPlan:
    """Cuts each split into shards of at most `images_per_shard`, sorted by key, or shuffled by a seed.

    Splits never share a shard. Raises UserError naming two images of one split that have the same key.
    """
    shards = []
    for split, group in groupby(sorted(records, key=lambda r: (r.split, r.key, str(r.path))), lambda r: r.split):
        chosen = list(group)
        for one, other in pairwise(chosen):
            if one.key == other.key:
                raise UserError(f"{one.path} and {other.path} would both be {one.key!r} in split {split}; rename one")
        if seed is not None:
            random.Random(f"{seed}:{split}").shuffle(chosen)
        for number, start in enumerate(range(0, len(chosen), images_per_shard)):
            part = tuple(chosen[start : start + images_per_shard])
            shards.append(PlannedShard(f"{split}-{number:06d}.tar", part))
    return ShardPlan(dataset=dataset, images_per_shard=images_per_shard, seed=seed, shards=tuple(shards))


def claim_folder(folder: Path, plan: ShardPlan) -> None:
    """Writes the plan into the folder, or checks that it is there already.

    Raises UserError if the folder holds the shards of another plan.
    """
    content = _content(plan)
    path = folder / PLAN
    if write_once(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()):
        return
    try:
        there = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path} is not JSON; remove it, or choose another folder") from error
    different = [key for key in content if there.get(key) != content[key]]
    if different:
        settings = "; ".join(
            f"{key} was {there.get(key)!r} and is now {content[key]!r}" for key in different if key != "shards"
        )
        raise UserError(
            f"{folder} holds shards of another request ({settings or 'the images are others'}); "
            "choose another folder, or --overwrite"
        )


def discard_plan(folder: Path) -> list[str]:
    """Removes the shards that shards.json names, and shards.json; returns their names. Other files stay."""
    plan = folder / PLAN
    if not plan.exists():
        return []
    names = [entry["file"] for entry in json.loads(plan.read_bytes())["shards"]]
    removed = []
    for name in names:
        path = folder / Path(name).name
        if path.exists():
            path.unlink()
            removed.append(path.name)
    plan.unlink()
    return removed


def _content(plan: ShardPlan) -> dict[str, object]:
    """What shards.json holds."""
    return {
        "dataset": plan.dataset,
        "images_per_shard": plan.images_per_shard,
        "seed": plan.seed,
        "shards": [_entry(shard) for shard in plan.shards],
    }


def _entry(shard: PlannedShard) -> dict[str, object]:
    """A shard in the plan: its images by a hash of their keys and metadata, so that a changed data set is noticed."""
    digest = hashlib.sha256()
    for record in shard.records:
        name = f"{record.key}{record.path.suffix}"
        digest.update(name.encode() + sample_json(record.parsed, record.split))
    return {"file": shard.file, "images": len(shard.records), "keys_sha256": digest.hexdigest()}
