"""Which record goes into which tar shard (no torch)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from jobs.datasets.listing import Record
from jobs.errors import UserError
from jobs.phrases import shown

PLAN = "shards.json"  # the file that keeps the plan beside the shards


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
            if one.path == other.path:
                raise UserError(f"{shown(one.path)} is listed twice in split {split}; remove one of the lines")
            if one.key == other.key:
                both = f"{shown(one.path)} and {shown(other.path)}"
                raise UserError(f"{both} would both be {one.key!r} in split {split}; rename one")
        if seed is not None:
            random.Random(f"{seed}:{split}").shuffle(chosen)
        for number, start in enumerate(range(0, len(chosen), images_per_shard)):
            part = tuple(chosen[start : start + images_per_shard])
            shards.append(PlannedShard(f"{split}-{number:06d}.tar", part))
    return ShardPlan(dataset=dataset, images_per_shard=images_per_shard, seed=seed, shards=tuple(shards))
