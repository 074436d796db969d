"""Merged parts stay in their files: the peak of memory is a fraction of their sums, and the numbers are the same."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from jobs.statistics.accumulate import MEASURED
from jobs.statistics.parts import partial as partial_module
from jobs.statistics.parts.merge import PartsError, merge_all
from jobs.statistics.parts.partial import KeptSums, Partial, SampledImages
from jobs.statistics.parts.partial_file import load_partial, save_partial
from jobs.statistics.question import GroupKey, Question
from jobs.statistics.stored import BINS, DISTRIBUTIONS
from jobs.statistics.summary import summarise

GROUPS, PERSONS, PATCHES, MAPS = 40, 250, 128, ("a", "b", "c")


def made_part(shard: str, seed: int) -> Partial:
    """Random sums of each person in each group, each of two images."""
    chance = np.random.default_rng(seed)
    clusters, measures = GROUPS * PERSONS, len(MEASURED)
    share = {name: chance.random((clusters, PATCHES), np.float32) for name in MAPS}
    nothing = np.zeros(0, np.int64)
    return Partial(
        question=Question(
            by=(GroupKey(name="camid", expression="camid"),), where="", maps=MAPS, seed=0, fraction=0.0, fingerprint="f"
        ),
        shards=(shard,),
        grids=dict.fromkeys(MAPS, (16, 8)),
        groups=pa.table({"camid": np.arange(GROUPS, dtype=np.int32)}),
        identities=pa.array([f"{person:04d}" for person in range(PERSONS)]),
        group=np.repeat(np.arange(GROUPS), PERSONS),
        identity=np.tile(np.arange(PERSONS), GROUPS),
        images=np.full(clusters, 2),
        clusters=KeptSums(
            sums=chance.random((clusters, len(MAPS), measures)),
            counts=np.full((clusters, len(MAPS), measures), 2.0),
            zero=np.zeros((clusters, len(MAPS)), np.int64),
            not_finite=np.zeros((clusters, len(MAPS)), np.int64),
            share=share,
        ),
        spread={name: chance.random((GROUPS, PATCHES)) for name in MAPS},
        histogram=np.ones((GROUPS, len(MAPS), len(DISTRIBUTIONS), BINS), np.int64),
        sample=SampledImages(
            share=np.zeros((0, len(MAPS), PATCHES), np.float32), group=nothing, identity=nothing, camid=nothing,
            shard=np.zeros(0, "U1"), row=nothing,
        ),
    )  # fmt: skip


def test_the_peak_is_a_fraction_of_the_sums(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partial_module, "_CLUSTERS_AT_A_TIME", 512)
    first, other = (made_part(shard, seed) for seed, shard in enumerate(("a", "b")))
    paths = []
    for name, part in (("a.npz", first), ("b.npz", other)):
        (tmp_path / name).write_bytes(save_partial(part))
        paths.append(tmp_path / name)
    both = sum(path.stat().st_size for path in paths)
    tracemalloc.start()
    try:
        merged = merge_all([load_partial(path) for path in paths])
        assert merged is not None
        found = summarise(merged, resamples=10)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < both / 5, f"{peak:,} of {both:,} bytes"
    added = [np.add(getattr(first.clusters, name), getattr(other.clusters, name)) for name in ("sums", "counts")]
    by_group = [array.reshape(GROUPS, PERSONS, *array.shape[1:]).sum(axis=1) for array in added]
    np.testing.assert_allclose(found.value, by_group[0] / by_group[1], rtol=1e-12)
    assert merged.shards == ("a", "b") and (found.images == 4 * PERSONS).all()


def test_a_part_of_other_maps_is_named(tmp_path: Path) -> None:
    part = made_part("a", 0)
    path = tmp_path / "a.npz"
    path.write_bytes(save_partial(replace(part, grids=dict.fromkeys(MAPS, (8, 16)))))
    with pytest.raises(PartsError, match=r"a is \(16, 8\) in one part and \(8, 16\) in another"):
        merge_all([part, replace(load_partial(path), shards=("b",))])
