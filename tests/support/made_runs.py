"""Runs made without a model: any number of rows, with maps and features that the caller chooses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from jobs.runs.integrity.seal import KEY as SEAL
from jobs.runs.layout import RunLayout
from jobs.runs.manifest import Manifest, create_manifest
from jobs.runs.metadata_rows import Results
from jobs.runs.request import RecordedShard, RequestedSettings, ResolvedSettings, RunRequest
from jobs.runs.shard_output import ShardOutput
from jobs.shards.columns import SampleColumns
from jobs.shards.samples import KEPT, Sample

_SINCE_SEALED = ("run_id", "sha256")  # in run.json; the shards' Parquet files are sealed since then too
_SINCE_VERSION_3 = ("role", "identity", "image_crc32")


def made_manifest(
    root: Path, names: Sequence[str], maps: Sequence[str] = ("mim_attention",), target: str = "predicted"
) -> Manifest:
    """Creates run.json for shards of these names."""
    shards = [RecordedShard(name=name, url=f"/nowhere/{name}.tar", size=1000) for name in names]
    request = RunRequest(asked=RequestedSettings(maps=tuple(maps), target=target), shards=tuple(shards))
    return create_manifest(RunLayout(root), request, ResolvedSettings(precision="fp32"))


def made_shard(
    root: Path,
    manifest: Manifest,
    name: str,
    samples: list[Sample],
    seed: int = 0,
    *,
    only_first: bool = False,
    **arrays: Any,
) -> None:
    """Publishes a shard with random maps (16x8) and features (12), or those given by name.

    With `only_first` the samples are its first images, as `mine --limit` publishes them.
    """
    rng = np.random.default_rng(seed)
    count = sum(sample.status in KEPT for sample in samples)
    maps = {n: arrays.get(n, rng.random((count, 16, 8)).astype(np.float32)) for n in manifest.maps}
    output = ShardOutput(RunLayout(root), manifest, name, 1.0)
    output.add(
        SampleColumns.of(samples),
        Results(
            maps=maps,
            features=arrays.get("features", rng.standard_normal((count, 12)).astype(np.float32)),
            score=np.arange(count, dtype=np.float32),
            predicted=np.zeros(count, np.int64),
            probability=np.full(count, 0.5, np.float32),
        ),
    )
    published, _ = output.commit(only_first=only_first)
    assert published


def made_samples(count: int, first: int = 0, *, seed: int = 0) -> list[Sample]:
    """Samples in no order of pid and camera, one in seven without a pid, one in eleven failed."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        pid = None if number % 7 == 3 else int(rng.integers(-1, 9))
        sample = Sample(key=f"k{rng.integers(1e6):06d}_{first + number}", tar_index=number, pid=pid, camid=number % 3)
        sample.split, sample.width, sample.height = "gallery", 64, 128
        if number % 11 == 5:
            sample.fail("image_corrupt", "made up")
        found.append(sample)
    return found


def as_first_version(run: Path, copy: Path) -> Path:
    """A copy of a run as the first version of the files had it: without area90, role, identity and image_crc32."""
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("stats", "metadata.parquet"))
    content = json.loads((copy / "run.json").read_text())
    assert content["schema_version"] == 3
    then = {key: value for key, value in content.items() if key not in _SINCE_SEALED}
    (copy / "run.json").write_text(json.dumps({**then, "schema_version": 1}))
    for path in (copy / "metadata").iterdir():
        rows = pq.read_table(path)
        later = [name for name in rows.column_names if name.endswith("area90") or name in _SINCE_VERSION_3]
        facts = {key: value for key, value in rows.schema.metadata.items() if key.decode() != SEAL}
        pq.write_table(rows.drop_columns(later).replace_schema_metadata(facts), path)
    return copy
