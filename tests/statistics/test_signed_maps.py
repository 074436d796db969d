"""Maps with values below zero, such as a cosine: the mass of statistics is what is positive, as in the metadata."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs.runs.run import open_run
from jobs.runs.verify import verify
from jobs.statistics.config import StatsConfig
from jobs.statistics.stats import stats
from tests.support.made_runs import made_manifest, made_samples, made_shard

NAME = "patch_text"


def test_the_numbers_are_those_of_the_positive_part(tmp_path: Path) -> None:
    signed = np.random.default_rng(0).normal(size=(4, 16, 8)).astype(np.float32)
    positive = np.maximum(signed, 0)
    for root, maps in (("signed", signed), ("positive", positive)):
        manifest = made_manifest(tmp_path / root, ["a"], [NAME])
        made_shard(tmp_path / root, manifest, "a", made_samples(4), **{NAME: maps})
        stats(StatsConfig(run=tmp_path / root, resamples=10))
    tables = [pq.read_table(tmp_path / root / "stats/stats.parquet").to_pylist() for root in ("signed", "positive")]
    differing = {row["measure"] for row, other in zip(*tables, strict=True) if row != other}
    assert differing <= {"min"} and len(tables[0]) > 10
    (counted,) = [row["value"] for row in tables[0] if row["measure"] == "zero_maps"] or [0]
    assert counted == 0 and verify(tmp_path / "signed").problems == []
    rows = open_run(tmp_path / "signed").metadata().to_table().to_pylist()
    assert rows[0][f"{NAME}_min"] == signed[0].min()
    assert rows[0][f"{NAME}_mass"] == pytest.approx(float(positive[0].sum()))
    np.testing.assert_array_equal(open_run(tmp_path / "signed").read_maps(NAME, "a"), signed)
