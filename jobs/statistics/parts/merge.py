"""The parts of one question as one: the same as one pass over the shards of all.

Each part numbers its own groups, identities and clusters. What the merged part holds of each cluster stays in the
parts' files, and is added up for as many clusters at a time as are asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from jobs.arrays import Int32Array, Int64Array
from jobs.errors import UserError
from jobs.identity import NOBODY, encode_identities
from jobs.phrases import counted
from jobs.statistics.groups import distinct, ordered_groups
from jobs.statistics.parts.partial import ClusterSums, Partial, SampledImages, SumsOfMap

Number = TypeVar("Number", bound=np.generic)


class _Source(NamedTuple):
    """The sums of one part, and the cluster (C,) of the merged part that each of its own is; no two are the same."""

    sums: ClusterSums
    cluster: Int32Array


@dataclass(frozen=True)
class MergedSums:
    """Sums of clusters that parts share."""

    sources: Sequence[_Source]

    def of_map(self, k: int, clusters: slice) -> SumsOfMap:
        """See ClusterSums."""
        total: SumsOfMap | None = None
        for source in self.sources:
            own = np.flatnonzero((source.cluster >= clusters.start) & (source.cluster < clusters.stop))
            first, end = (int(own[0]), int(own[-1]) + 1) if len(own) else (0, 0)  # mostly there is nothing between them
            found = source.sums.of_map(k, slice(first, end))
            total = total or _zeros(found, clusters.stop - clusters.start)
            _add(total, found, own - first, source.cluster[own] - clusters.start)
        assert total is not None  # there is a part
        return total


class PartsError(UserError):
    """Parts that do not go together."""


def merge_all(parts: Sequence[Partial]) -> Partial | None:
    """The parts as one; None where there is none.

    Raises PartsError if two answer different questions, hold the same shard, or have maps of different sizes.
    """
    if not parts:
        return None
    with_images = [part for part in parts if len(part.images)]
    first = (with_images or parts)[0]
    shards: set[str] = set()
    for part in parts:
        _check(first, part, shards)
        shards.update(part.shards)
    if not with_images:
        return replace(first, shards=tuple(sorted(shards)))
    return _merged(with_images, tuple(sorted(shards)))


def _merged(parts: Sequence[Partial], shards: tuple[str, ...]) -> Partial:
    """Of parts that have images."""
    groups, group_of = ordered_groups(pa.concat_tables([part.groups for part in parts]))
    people = encode_identities(pa.chunked_array([part.identities for part in parts], pa.string()))
    new_groups = _split(group_of, [part.groups.num_rows for part in parts])
    new_people = _split(people.codes, [len(part.identities) for part in parts])
    numbers = list(zip(parts, new_groups, new_people, strict=True))
    # One number for each pair of a group and an identity, in which nobody is 0 and so comes first.
    width = len(people.names) + 1
    pairs = [group[part.group] * width + _renumbered(part.identity, who) - NOBODY for part, group, who in numbers]
    both, cluster = distinct(np.concatenate(pairs))
    clusters = [some.astype(np.int32) for some in _split(cluster, [len(some) for some in pairs])]
    images = np.zeros(len(both), np.int64)
    spread = {name: np.zeros((groups.num_rows, sums.shape[1])) for name, sums in parts[0].spread.items()}
    histogram = np.zeros((groups.num_rows, *parts[0].histogram.shape[1:]), np.int64)
    for (part, group, _), own in zip(numbers, clusters, strict=True):
        images[own] += part.images
        histogram[group] += part.histogram
        for name, sums in spread.items():
            sums[group] += part.spread[name]
    return replace(
        parts[0],
        shards=shards,
        groups=groups,
        identities=people.names,
        group=both // width,
        identity=both % width + NOBODY,
        images=images,
        clusters=MergedSums([_Source(part.clusters, own) for part, own in zip(parts, clusters, strict=True)]),
        spread=spread,
        histogram=histogram,
        sample=_merge_samples([_renumbered_sample(part.sample, group, who) for part, group, who in numbers]),
    )


def _split(array: Int64Array, sizes: Sequence[int]) -> list[Int64Array]:
    ends = [0, *np.cumsum(sizes).tolist()]
    return [array[first:end] for first, end in pairwise(ends)]


def _zeros(like: SumsOfMap, clusters: int) -> SumsOfMap:
    def zeros(array: NDArray[Number]) -> NDArray[Number]:
        return np.zeros((clusters, *array.shape[1:]), array.dtype)

    return SumsOfMap(
        sums=zeros(like.sums),
        counts=zeros(like.counts),
        zero=zeros(like.zero),
        not_finite=zeros(like.not_finite),
        share=zeros(like.share),
    )


def _add(total: SumsOfMap, found: SumsOfMap, own: Int64Array, place: Int64Array) -> None:
    """Adds the rows `own` of `found` to the rows `place` of the total."""
    total.sums[place] += found.sums[own]
    total.counts[place] += found.counts[own]
    total.zero[place] += found.zero[own]
    total.not_finite[place] += found.not_finite[own]
    total.share[place] += found.share[own]


def _check(a: Partial, b: Partial, shards: set[str]) -> None:
    """Whether b goes with a, and with `shards`, which are in other parts."""
    if a.question != b.question:
        raise PartsError("the parts answer different questions (run, --by, --where, --map, --seed or --sample differ)")
    if common := shards & set(b.shards):
        raise PartsError(
            f"{counted(len(common), 'shard is', 'shards are')} in two parts, such as {min(common)}: give each "
            "block's file once"
        )
    for name in a.question.maps:
        if len(a.images) and len(b.images) and a.grids[name] != b.grids[name]:
            raise PartsError(f"{name} is {a.grids[name]} in one part and {b.grids[name]} in another")


def _renumbered(identity: Int64Array, new: Int64Array) -> Int64Array:
    """The new number of each identity; nobody stays nobody."""
    found = np.full(len(identity), NOBODY, np.int64)
    known = identity != NOBODY
    found[known] = new[identity[known]]
    return found


def _renumbered_sample(sample: SampledImages, groups: Int64Array, identities: Int64Array) -> SampledImages:
    return replace(sample, group=groups[sample.group], identity=_renumbered(sample.identity, identities))


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
