"""Two parts of one question as one: the same as one pass over the shards of both.

Each part numbers its own groups, identities and clusters. A Renumbering says which numbers they get in the merged
part.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from jobs.arrays import Int64Array
from jobs.errors import UserError
from jobs.identity import NOBODY, encode_identities
from jobs.statistics.groups import ordered_groups
from jobs.statistics.parts.partial import Partial, SampledImages

Number = TypeVar("Number", bound=np.generic)


@dataclass(frozen=True)
class Renumbering:
    """The numbers, below `count`, that the rows of two arrays get; no two rows of one array get the same.

    first, second: the new number of each row of the first and the second array.
    """

    count: int
    first: Int64Array
    second: Int64Array

    def add(self, first: NDArray[Number], second: NDArray[Number]) -> NDArray[Number]:
        """(count, ...) the sum of the two arrays' rows that get the same number."""
        total = np.zeros((self.count, *first.shape[1:]), first.dtype)
        total[self.first] = first
        total[self.second] += second
        return total


def merge(a: Partial, b: Partial) -> Partial:
    """Raises UserError if the two answer different questions, hold the same shard, or have maps of different sizes."""
    _check(a, b)
    shards = tuple(sorted((*a.shards, *b.shards)))
    if not len(a.images) or not len(b.images):
        return replace(a if len(a.images) else b, shards=shards)
    group_rows, group_of = ordered_groups(pa.concat_tables([a.groups, b.groups]))
    groups = Renumbering(group_rows.num_rows, *np.split(group_of, [a.groups.num_rows]))
    people = encode_identities(pa.chunked_array([a.identities, b.identities]))
    identities = Renumbering(len(people.names), *np.split(people.codes, [len(a.identities)]))
    first = np.stack([groups.first[a.group], _renumbered(a.identity, identities.first)], axis=1)
    second = np.stack([groups.second[b.group], _renumbered(b.identity, identities.second)], axis=1)
    pairs, cluster_of = np.unique(np.concatenate([first, second]), axis=0, return_inverse=True)
    clusters = Renumbering(len(pairs), *np.split(cluster_of.ravel(), [len(first)]))
    return Partial(
        question=a.question,
        shards=shards,
        grids=a.grids,
        groups=group_rows,
        identities=people.names,
        group=pairs[:, 0],
        identity=pairs[:, 1],
        images=clusters.add(a.images, b.images),
        sums=clusters.add(a.sums, b.sums),
        counts=clusters.add(a.counts, b.counts),
        zero=clusters.add(a.zero, b.zero),
        not_finite=clusters.add(a.not_finite, b.not_finite),
        share={name: clusters.add(a.share[name], b.share[name]) for name in a.question.maps},
        spread={name: groups.add(a.spread[name], b.spread[name]) for name in a.question.maps},
        histogram=groups.add(a.histogram, b.histogram),
        sample=_merge_samples(a.sample, b.sample, groups, identities),
    )


def _check(a: Partial, b: Partial) -> None:
    if a.question != b.question:
        raise UserError("the parts answer different questions (run, --by, --where, --map, --seed or --sample differ)")
    if common := set(a.shards) & set(b.shards):
        raise UserError(f"{len(common)} shards are in two parts, such as {min(common)}: give each block's file once")
    for name in a.question.maps:
        if len(a.images) and len(b.images) and a.grids[name] != b.grids[name]:
            raise UserError(f"{name} is {a.grids[name]} in one part and {b.grids[name]} in another")


def _renumbered(identity: Int64Array, new: Int64Array) -> Int64Array:
    """The new number of each identity; nobody stays nobody."""
    found = np.full(len(identity), NOBODY, np.int64)
    known = identity != NOBODY
    found[known] = new[identity[known]]
    return found


def _merge_samples(a: SampledImages, b: SampledImages, groups: Renumbering, identities: Renumbering) -> SampledImages:
    """The images of both, in order of (shard, row)."""
    shard, row = np.concatenate([a.shard, b.shard]), np.concatenate([a.row, b.row])
    order = np.lexsort((row, shard))
    identity = [_renumbered(a.identity, identities.first), _renumbered(b.identity, identities.second)]
    shares = [sample.share for sample in (a, b) if len(sample.share)]  # an empty one may have no width
    return SampledImages(
        share=np.concatenate(shares)[order] if shares else a.share,
        group=np.concatenate([groups.first[a.group], groups.second[b.group]])[order],
        identity=np.concatenate(identity)[order],
        camid=np.concatenate([a.camid, b.camid])[order],
        shard=shard[order],
        row=row[order],
    )
