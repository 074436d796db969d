"""The file of a part that `promptsg stats --block` leaves for `--merge`: a .npz archive.

Besides plain arrays it holds `groups` as an Arrow stream, and `facts` as JSON. Parts of earlier versions have no
identities, but the pids of persons, -1 standing for everything else.
"""

from __future__ import annotations

import io
import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from jobs.arrays import Int64Array
from jobs.identity import encode_identities
from jobs.reading import reading
from jobs.statistics.parts.partial import Partial, SampledImages
from jobs.statistics.question import GroupKey, Question

_ARRAYS = ("group", "identity", "images", "sums", "counts", "zero", "not_finite", "histogram")
_PER_MAP = ("share", "spread")
_SAMPLE = tuple(field.name for field in fields(SampledImages))
_NO_PERSON = -1

Arrays = dict[str, NDArray[Any]]


def save_partial(part: Partial) -> bytes:
    """The content of a part's file."""
    arrays: Arrays = {name: getattr(part, name) for name in _ARRAYS}
    arrays |= {f"sample.{name}": getattr(part.sample, name) for name in _SAMPLE}
    arrays |= {f"{kind}.{name}": array for kind in _PER_MAP for name, array in getattr(part, kind).items()}
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


def load_partial(path: Path) -> Partial:
    """Raises UserError if the file was not written by `--block`."""
    with reading(path, "a part of `promptsg stats --block`", "make the part again with the same --block"):
        with np.load(path, allow_pickle=False) as file:
            arrays: Arrays = {name: file[name] for name in file.files}
        facts = json.loads(arrays["facts"].tobytes())
        if "identities" not in facts:
            facts["identities"] = _identities_from_pids(arrays)
        return _partial(arrays, facts)


def _partial(arrays: Arrays, facts: dict[str, Any]) -> Partial:
    maps = tuple(facts["question"]["maps"])
    by = tuple(GroupKey(*key) for key in facts["question"]["by"])
    with pa.ipc.open_stream(arrays["groups"].tobytes()) as reader:
        groups = reader.read_all()
    plain: dict[str, Any] = {name: arrays[name] for name in _ARRAYS}
    per_map: dict[str, Any] = {kind: {name: arrays[f"{kind}.{name}"] for name in maps} for kind in _PER_MAP}
    return Partial(
        question=Question(**{**facts["question"], "by": by, "maps": maps}),
        shards=tuple(facts["shards"]),
        grids={name: (h, w) for name, (h, w) in facts["grids"].items()},
        groups=groups,
        identities=pa.array(facts["identities"], pa.string()),
        sample=SampledImages(**{name: arrays[f"sample.{name}"] for name in _SAMPLE}),
        **plain,
        **per_map,
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
