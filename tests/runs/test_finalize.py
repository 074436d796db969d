"""`finalize` on runs of all sizes: all rows in order, and what is refused."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from jobs.runs.finalize import UnfinishedRunError, finalize
from jobs.runs.layout import RunLayout
from jobs.runs.run import open_run
from jobs.runs.schema import metadata_schema
from jobs.runs.shard_output import ShardOutput
from jobs.runs.verify import verify
from tests.runs.conftest import NAMES, promptsg
from tests.support.made_runs import made_manifest, made_samples, made_shard


def test_finalize_sorts_all_rows_and_changes_none(made: Path) -> None:
    assert promptsg("finalize", made) == (0, f"120 rows of 3 shards in {made}/metadata.parquet\n")
    table = pq.read_table(made / "metadata.parquet")
    assert table.schema.equals(metadata_schema(["mim_attention"]))
    assert table.schema.metadata[b"promptsg.fingerprint"].decode() == open_run(made).manifest.fingerprint
    rows = table.to_pylist()
    parts = [row for name in NAMES for row in pq.read_table(made / "metadata" / f"{name}.parquet").to_pylist()]
    last = (1 << 62, 1 << 62)

    def order(row: dict) -> tuple:
        return (last[0] if row["pid"] is None else row["pid"], row["camid"], row["key"])

    assert rows == sorted(parts, key=order)
    assert {path.name for path in made.glob("**/.*")} <= {".publish.lock"}
    assert finalize(made).rows == 120  # again, over the first


def test_finalize_refuses_an_unfinished_run_and_lists_what_is_missing(made: Path) -> None:
    (made / "metadata" / f"{NAMES[1]}.parquet").unlink()
    code, said = promptsg("finalize", made)
    assert code == 3 and NAMES[1] in said and "1 of 3 shards are not done" in said
    assert not (made / "metadata.parquet").exists()
    with pytest.raises(UnfinishedRunError, match="RUN: 1 of 3 shards are not done, such as gallery-000001") as caught:
        finalize(made)
    assert caught.value.missing == (NAMES[1],) and caught.value.shards == 3


def test_finalize_refuses_another_runs_shard(made: Path, tmp_path: Path) -> None:
    other = tmp_path / "OTHER"
    manifest = made_manifest(other, NAMES, ["gradcam/mim"])
    made_shard(other, manifest, NAMES[0], made_samples(3))
    (other / "metadata" / f"{NAMES[0]}.parquet").replace(made / "metadata" / f"{NAMES[0]}.parquet")
    code, said = promptsg("finalize", made)
    assert code == 1 and "was made by another run" in said


def test_an_empty_shard_is_a_shard(tmp_path: Path) -> None:
    manifest = made_manifest(tmp_path, ["a", "b"])
    assert ShardOutput(RunLayout(tmp_path), manifest, "a", 0.0).commit()[0]
    made_shard(tmp_path, manifest, "b", made_samples(4))
    assert finalize(tmp_path).rows == 4 and verify(tmp_path).problems == []


@pytest.mark.slow
def test_ten_million_rows_under_two_gigabytes(tmp_path: Path) -> None:
    """100 shards of 100,000 rows: the peak of a process that finalizes them."""
    names = [f"s-{number:03d}" for number in range(100)]
    manifest = made_manifest(tmp_path, names, ["mim_attention", "gradcam/mim", "gradcam++/mim"])
    made_shard(tmp_path, manifest, names[0], made_samples(1000))
    small = pq.read_table(tmp_path / "metadata" / f"{names[0]}.parquet")
    for number, name in enumerate(names):
        query = f"""SELECT '{name}' AS shard, small.* EXCLUDE (shard, key, pid),
            md5((n * 1000 + tar_index + {number} * 100000)::VARCHAR) AS key, (hash(n, tar_index) % 5000)::BIGINT AS pid
            FROM small, range(100) t(n)"""
        table = duckdb.sql(query).to_arrow_table().select(small.schema.names).cast(small.schema)
        pq.write_table(table.replace_schema_metadata(small.schema.metadata), tmp_path / "metadata" / f"{name}.parquet")
    code = (
        "import resource, sys; from jobs.runs.finalize import finalize\n"
        "print(finalize(sys.argv[1]), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    rows, peak = map(int, done.stdout.split())
    print(f"{rows} rows, peak {peak / 1e6:.2f} GB, {time.perf_counter() - began:.0f} s")
    assert rows == 10_000_000 and peak < 2_000_000
    order = duckdb.sql(
        f"""SELECT count(*) FROM (SELECT (pid, camid, key) AS now, lag((pid, camid, key)) OVER () AS before
        FROM '{tmp_path}/metadata.parquet') WHERE before > now"""
    ).fetchall()
    assert order == [(0,)]
