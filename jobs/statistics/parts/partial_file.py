"""The file of a part that `promptsg stats --block` leaves for `--merge`: a .npz archive.

Besides plain arrays it holds `groups` as an Arrow stream, and `facts` as JSON. Parts of earlier versions have no
identities, but the pids of persons, -1 standing for everything else.
"""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from jobs.arrays import Int64Array
from jobs.identity import encode_identities
from jobs.reading import reading
from jobs.statistics.parts.partial import Partial, SampledImages, SumsOfMap
from jobs.statistics.parts.stored_arrays import StoredArrays
from jobs.statistics.question import GroupKey, Question

_OF_CLUSTERS = ("group", "identity", "images")
_SUMS = ("sums", "counts", "zero", "not_finite")  # of each cluster and map
_SHARE, _SPREAD = "share.", "spread."  # before a map's name
_SAMPLE = tuple(field.name for field in fields(SampledImages))
_NO_PERSON = -1
_WHAT, _REMEDY = "a part of `promptsg stats --block`", "make the part again with the same --block"

Arrays = dict[str, NDArray[Any]]


def save_partial(part: Partial) -> bytes:
    """The content of a part's file."""
    maps, every = part.question.maps, slice(0, len(part.images))
    arrays: Arrays = {name: getattr(part, name) for name in (*_OF_CLUSTERS, "histogram")}
    arrays |= {f"sample.{name}": getattr(part.sample, name) for name in _SAMPLE}
    arrays |= {_SPREAD + name: array for name, array in part.spread.items()}
    found = [part.clusters.of_map(k, every) for k in range(len(maps))]
    # Stacked, they are written row by row, as `--merge` reads them.
    arrays |= {name: np.stack([getattr(one, name) for one in found], axis=1) for name in _SUMS}
    arrays |= {_SHARE + name: np.ascontiguousarray(one.share) for name, one in zip(maps, found, strict=True)}
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, part.groups.schema) as writer:
        writer.write_table(part.groups)
    arrays["groups"] = np.frombuffer(sink.getvalue(), np.uint8)
    facts = {
        "question": asdict(part.question),
        "shards": part.shards,
        "grids": part.grids,
        "identities": part.identities.to_pylist(),
    }
    arrays["facts"] = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    out = io.BytesIO()
    np.savez(out, **arrays)  # type: ignore[arg-type]
    return out.getvalue()


@dataclass(frozen=True)
class StoredSums:
    """The sums in a part's file, read where they are asked for. Raises UserError if the file cannot be read."""

    path: Path
    arrays: StoredArrays
    maps: tuple[str, ...]

    def of_map(self, k: int, clusters: slice) -> SumsOfMap:
        """See ClusterSums."""
        with reading(self.path, _WHAT, _REMEDY):
            of_maps = {name: self.arrays.rows(name, clusters.start, clusters.stop)[:, k] for name in _SUMS}
            return SumsOfMap(share=self.arrays.rows(_SHARE + self.maps[k], clusters.start, clusters.stop), **of_maps)


def load_partial(path: Path) -> Partial:
    """A part whose sums stay in its file. Raises UserError if the file was not written by `--block`, or is damaged."""
    with reading(path, _WHAT, _REMEDY):
        stored = StoredArrays(path)
        arrays = {
            name: stored.whole(name) for name in stored.names if name not in _SUMS and not name.startswith(_SHARE)
        }
        facts = json.loads(arrays["facts"].tobytes())
        if "identities" not in facts:
            facts["identities"] = _identities_from_pids(arrays)
        return _partial(path, stored, arrays, facts)


def _partial(path: Path, stored: StoredArrays, arrays: Arrays, facts: dict[str, Any]) -> Partial:
    maps = tuple(facts["question"]["maps"])
    by = tuple(GroupKey(*key) for key in facts["question"]["by"])
    if missing := {*_SUMS, *(_SHARE + name for name in maps)}.difference(stored.names):
        raise KeyError(min(missing))
    with pa.ipc.open_stream(arrays["groups"].tobytes()) as reader:
        groups = reader.read_all()
    of_clusters: dict[str, Any] = {name: arrays[name] for name in _OF_CLUSTERS}
    return Partial(
        question=Question(**{**facts["question"], "by": by, "maps": maps}),
        shards=tuple(facts["shards"]),
        grids={name: (h, w) for name, (h, w) in facts["grids"].items()},
        groups=groups,
        identities=pa.array(facts["identities"], pa.string()),
        clusters=StoredSums(path, stored, maps),
        spread={name: arrays[_SPREAD + name] for name in maps},
        histogram=arrays["histogram"],
        sample=SampledImages(**{name: arrays[f"sample.{name}"] for name in _SAMPLE}),
        **of_clusters,
    )


def _identities_from_pids(arrays: Arrays) -> list[str]:
    """The identities of a part of an earlier version; its arrays get their places in place of pids."""
    clusters, sample = arrays.pop("pid"), arrays.pop("sample.pid")
    people = encode_identities(_persons(np.concatenate([clusters, sample])))
    arrays["identity"], arrays["sample.identity"] = np.split(people.codes, [len(clusters)])
    names: list[str] = people.names.to_pylist()
    return names


def _persons(pids: Int64Array) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(pids, mask=pids == _NO_PERSON)])
