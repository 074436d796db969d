"""When the average precision of an earlier `evaluate` is taken, and when a run is ranked now."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from jobs.comparison.query_scores import scores_of_both
from jobs.errors import UserError
from jobs.retrieval.evaluate import EvaluateConfig, evaluate
from jobs.runs.run import open_run
from jobs.statistics.localisation.config import LocaliseConfig
from jobs.statistics.localisation.queries import ranked_queries
from tests.support.made_runs import made_manifest, made_samples, made_shard

NAMES = ["gallery-000000", "query-000000"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of two shards of 40 images, one of which is ranked for the other."""
    root = tmp_path / "RUN"
    manifest = made_manifest(root, NAMES)
    for number, name in enumerate(NAMES):
        samples = made_samples(40, 100 * number, seed=number)
        for sample in samples:
            sample.split = name.partition("-")[0]
        made_shard(root, manifest, name, samples, seed=number)
    evaluate(EvaluateConfig(run=root, bootstrap=5))
    return root


def source(run: Path) -> str:
    return scores_of_both(open_run(run), open_run(run), 1 << 30).a.source


def mine_anew(run: Path) -> None:
    (run / "metadata" / f"{NAMES[0]}.parquet").unlink()
    made_shard(run, open_run(run).manifest, NAMES[0], made_samples(40), seed=9)


def test_the_shards_decide_and_not_the_times_of_files(run: Path) -> None:
    later = (run / "evaluation/metrics.json").stat().st_mtime_ns + 10**12
    os.utime(run / "metadata", ns=(later, later))  # as after a copy
    assert source(run) == str(run / "evaluation")
    mine_anew(run)
    os.utime(run / "metadata", ns=(0, 0))
    assert source(run) == "ranked now"


def test_the_times_decide_where_an_earlier_version_evaluated(run: Path) -> None:
    path = run / "evaluation/queries.parquet"
    pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)
    assert source(run) == str(run / "evaluation")
    later = (run / "evaluation/metrics.json").stat().st_mtime_ns + 10**12
    os.utime(run / "metadata", ns=(later, later))
    assert source(run) == "ranked now"


def test_localise_leaves_out_queries_of_an_older_run(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = LocaliseConfig(run=run)
    found = ranked_queries(open_run(run), config, 1)
    known = pc.sum(pq.read_table(run / "evaluation/queries.parquet")["ap"].is_valid()).as_py()
    assert found is not None and len(found.keys) == known > 10
    mine_anew(run)
    assert ranked_queries(open_run(run), config, 1) is None
    assert "failed queries are not looked at: " in caplog.text and "mined anew since then" in caplog.text
    given = replace(config, queries=run / "evaluation/queries.parquet")
    with pytest.raises(UserError, match="mined anew since then: run `promptsg evaluate"):
        ranked_queries(open_run(run), given, 1)
