"""The parts of one question as one: the same as one pass over the shards of all.

Each part numbers its own groups, identities and clusters. The numbers in the merged part are found first, so that its
arrays are made once, and then one part after another is added to them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set
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
_OF_CLUSTERS = ("images", "sums", "counts", "zero", "not_finite")


@dataclass(frozen=True)
class _Outline:
    """What the numbers of a part's rows follow from. The arrays are those of Partial."""

    groups: pa.Table
    identities: pa.StringArray
    group: Int64Array
    identity: Int64Array


@dataclass(frozen=True)
class _Numbers:
    """The number in the merged part of each group, identity and cluster of one part."""

    groups: Int64Array
    identities: Int64Array
    clusters: Int64Array


def merge_all(parts: Callable[[], Iterable[Partial]]) -> Partial | None:
    """The parts as one; None where there is none. `parts` gives them one by one, and is called twice.

    Raises UserError if two answer different questions, hold the same shard, or have maps of different sizes.
    """
    first: Partial | None = None  # the first one that has images, else any
    shards: set[str] = set()
    outlines = []
    for part in parts():
        _check(first or part, part, shards)
        shards.update(part.shards)
        if len(part.images):
            outlines.append(_Outline(part.groups, part.identities, part.group, part.identity))
        if first is None or not len(first.images):
            first = part
    if first is None or not outlines:
        return None if first is None else replace(first, shards=tuple(sorted(shards)))
    merged, numbers = _empty(first, tuple(sorted(shards)), outlines)
    del first
    samples = []
    for part, new in zip((part for part in parts() if len(part.images)), numbers, strict=True):
        _add(merged, part, new)
        samples.append(_renumbered_sample(part.sample, new))
    return replace(merged, sample=_merge_samples(samples))


def _empty(like: Partial, shards: tuple[str, ...], outlines: Sequence[_Outline]) -> tuple[Partial, list[_Numbers]]:
    """The merged part, all zero and without a sample, and the numbers of each part's rows in it."""
    group_rows, group_of = ordered_groups(pa.concat_tables([one.groups for one in outlines]))
    people = encode_identities(pa.chunked_array([one.identities for one in outlines], pa.string()))
    groups = _split(group_of, [one.groups.num_rows for one in outlines])
    identities = _split(people.codes, [len(one.identities) for one in outlines])
    every = zip(outlines, groups, identities, strict=True)
    clusters = [np.stack([new[one.group], _renumbered(one.identity, who)], axis=1) for one, new, who in every]
    pairs, cluster_of = np.unique(np.concatenate(clusters), axis=0, return_inverse=True)

    def zeros(array: NDArray[Number], count: int) -> NDArray[Number]:
        return np.zeros((count, *array.shape[1:]), array.dtype)

    maps = like.question.maps
    merged = replace(
        like,
        shards=shards,
        groups=group_rows,
        identities=people.names,
        group=pairs[:, 0],
        identity=pairs[:, 1],
        share={name: zeros(like.share[name], len(pairs)) for name in maps},
        spread={name: zeros(like.spread[name], group_rows.num_rows) for name in maps},
        histogram=zeros(like.histogram, group_rows.num_rows),
        images=zeros(like.images, len(pairs)),
        sums=zeros(like.sums, len(pairs)),
        counts=zeros(like.counts, len(pairs)),
        zero=zeros(like.zero, len(pairs)),
        not_finite=zeros(like.not_finite, len(pairs)),
    )
    found = _split(cluster_of.ravel(), [len(one.group) for one in outlines])
    return merged, [_Numbers(*one) for one in zip(groups, identities, found, strict=True)]


def _split(array: Int64Array, sizes: Sequence[int]) -> list[Int64Array]:
    return np.split(array, np.cumsum(sizes)[:-1])


def _add(merged: Partial, part: Partial, new: _Numbers) -> None:
    """Adds a part's sums. No two rows of a part get the same number."""
    for name in _OF_CLUSTERS:
        getattr(merged, name)[new.clusters] += getattr(part, name)
    for name in merged.question.maps:
        merged.share[name][new.clusters] += part.share[name]
        merged.spread[name][new.groups] += part.spread[name]
    merged.histogram[new.groups] += part.histogram


def _check(a: Partial, b: Partial, shards: Set[str]) -> None:
    """Whether b goes with a, and with `shards`, which are in other parts."""
    if a.question != b.question:
        raise UserError("the parts answer different questions (run, --by, --where, --map, --seed or --sample differ)")
    if common := shards & set(b.shards):
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


def _renumbered_sample(sample: SampledImages, new: _Numbers) -> SampledImages:
    return replace(sample, group=new.groups[sample.group], identity=_renumbered(sample.identity, new.identities))


def _merge_samples(samples: Sequence[SampledImages]) -> SampledImages:
    """The images of all, in order of (shard, row)."""
    shard, row = (np.concatenate([getattr(one, name) for one in samples]) for name in ("shard", "row"))
    order = np.lexsort((row, shard))
    shares = [one.share for one in samples if len(one.share)]  # an empty one may have no width
    return SampledImages(
        share=np.concatenate(shares)[order] if shares else samples[0].share,
        group=np.concatenate([one.group for one in samples])[order],
        identity=np.concatenate([one.identity for one in samples])[order],
        camid=np.concatenate([one.camid for one in samples])[order],
        shard=shard[order],
        row=row[order],
    )
