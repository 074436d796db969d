"""What one pass over some shards leaves: sums per identity and group that merge with `+`, and their file (no torch).

Legend: G groups, C clusters (one identity in one group), M = h*w patches, K maps.
"""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from jobs.errors import UserError
from jobs.statistics.question import Question, ordered_groups

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Images of sampled identities, in order of (shard, row): share (N, K, M) float32, NaN for a map without mass."""

    share: Floats
    group: Ints
    pid: Ints
    camid: Ints
    shard: NDArray[np.str_]
    row: Ints


@dataclass(frozen=True, kw_only=True)
class Partial:
    """Sums over some shards; `a + b` is the same as one pass over both.

    groups: G rows of group values. group, pid, images (C,). sums, counts (C, K, measures) float64. zero, not_finite
    (C, K). share: map -> (C, M) float32, sums of maps that were normalised to sum 1. spread: map -> (G, M)
    float64, sums of the squares of their differences from the uniform map. histogram (G, K,
    distributions, bins).
    """

    question: Question
    shards: tuple[str, ...]
    grids: dict[str, tuple[int, int]]
    groups: pa.Table
    group: Ints
    pid: Ints
    images: Ints
    sums: Doubles
    counts: Doubles
    zero: Ints
    not_finite: Ints
    share: dict[str, Floats]
    spread: dict[str, Doubles]
    histogram: Ints
    sample: Sample

    @property
    def good(self) -> Ints:
        """(C, K) how many maps have a shape: neither all zero nor with what is no number."""
        return self.images[:, None] - self.zero - self.not_finite

    def __add__(self, other: Partial) -> Partial:
        """Raises UserError if the two answer different questions, or both hold a shard."""
        return _merge(self, other)

    def save(self) -> bytes:
        """The content of a partial file."""
        arrays: dict[str, Any] = {name: getattr(self, name) for name in _ARRAYS}
        arrays |= {f"sample.{name}": getattr(self.sample, name) for name in Sample.__dataclass_fields__}
        arrays |= {f"{kind}.{name}": array for kind in _PER_MAP for name, array in getattr(self, kind).items()}
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, self.groups.schema) as writer:
            writer.write_table(self.groups)
        arrays["groups"] = np.frombuffer(sink.getvalue(), np.uint8)
        facts = {"question": asdict(self.question), "shards": self.shards, "grids": self.grids}
        arrays["facts"] = np.frombuffer(json.dumps(facts).encode(), np.uint8)
        out = io.BytesIO()
        np.savez(out, **arrays)
        return out.getvalue()

    @classmethod
    def load(cls, path: Path) -> Partial:
        """Raises UserError if the file is none of `--block`."""
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            facts = json.loads(arrays["facts"].tobytes())
            asked = facts["question"]
            question = Question(**{**asked, "by": tuple((n, e) for n, e in asked["by"]), "maps": tuple(asked["maps"])})
            kinds: dict[str, Any] = {
                kind: {name: arrays[f"{kind}.{name}"] for name in question.maps} for kind in _PER_MAP
            }
            with pa.ipc.open_stream(arrays["groups"].tobytes()) as reader:
                groups = reader.read_all()
            sample = Sample(**{name: arrays[f"sample.{name}"] for name in Sample.__dataclass_fields__})
            grids = {name: (h, w) for name, (h, w) in facts["grids"].items()}
            plain: dict[str, Any] = {name: arrays[name] for name in _ARRAYS}
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowInvalid) as error:
            raise UserError(f"cannot read {path} as a part of `promptsg stats --block`: {error}") from error
        shards = tuple(facts["shards"])
        return cls(question=question, shards=shards, grids=grids, groups=groups, sample=sample, **plain, **kinds)


_ARRAYS = ("group", "pid", "images", "sums", "counts", "zero", "not_finite", "histogram")
_PER_MAP = ("share", "spread")


def _merge(a: Partial, b: Partial) -> Partial:
    if a.question != b.question:
        raise UserError("the parts answer different questions (run, --by, --where, --map, --seed or --sample differ)")
    if both := set(a.shards) & set(b.shards):
        raise UserError(f"{len(both)} shards are in two parts, such as {min(both)}: give each block's file once")
    if not len(a.images) or not len(b.images):
        return replace(a if len(a.images) else b, shards=tuple(sorted((*a.shards, *b.shards))))
    for name in a.question.maps:
        if a.grids[name] != b.grids[name]:
            raise UserError(f"{name} is {a.grids[name]} in one part and {b.grids[name]} in another")
    groups, of = ordered_groups(pa.concat_tables([a.groups, b.groups]))
    ga, gb = of[: a.groups.num_rows], of[a.groups.num_rows :]
    pairs = np.stack([np.concatenate([ga[a.group], gb[b.group]]), np.concatenate([a.pid, b.pid])], axis=1)
    unique, into = np.unique(pairs, axis=0, return_inverse=True)
    ca, cb = into.ravel()[: len(a.pid)], into.ravel()[len(a.pid) :]

    def added(x: NDArray[Any], y: NDArray[Any], at: Ints, bt: Ints, count: int) -> NDArray[Any]:
        total = np.zeros((count, *x.shape[1:]), x.dtype)
        total[at] += x  # no row is named twice
        total[bt] += y
        return total

    def clusters(name: str) -> NDArray[Any]:
        return added(getattr(a, name), getattr(b, name), ca, cb, len(unique))

    def per_group(x: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
        return added(x, y, ga, gb, groups.num_rows)

    maps = a.question.maps
    return Partial(
        question=a.question,
        shards=tuple(sorted((*a.shards, *b.shards))),
        grids=a.grids,
        groups=groups,
        group=unique[:, 0],
        pid=unique[:, 1],
        images=clusters("images"),
        sums=clusters("sums"),
        counts=clusters("counts"),
        zero=clusters("zero"),
        not_finite=clusters("not_finite"),
        share={name: added(a.share[name], b.share[name], ca, cb, len(unique)) for name in maps},
        spread={name: per_group(a.spread[name], b.spread[name]) for name in maps},
        histogram=per_group(a.histogram, b.histogram),
        sample=_merge_samples(a.sample, b.sample, ga, gb),
    )


def _merge_samples(a: Sample, b: Sample, ga: Ints, gb: Ints) -> Sample:
    both = {name: np.concatenate([getattr(a, name), getattr(b, name)]) for name in ("pid", "camid", "shard", "row")}
    group = np.concatenate([ga[a.group], gb[b.group]])
    order = np.lexsort((both["row"], both["shard"]))
    parts = [s.share for s in (a, b) if len(s.share)] or [a.share]
    share = np.concatenate(parts)[order]
    return Sample(share=share, group=group[order], **{name: values[order] for name, values in both.items()})
