"""`finalize`, `status` and `verify` on runs of all sizes, whole, growing and damaged."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import h5py
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from jobs.cli import main
from jobs.errors import UserError
from jobs.runs.finalize import finalize
from jobs.runs.run import open_run
from jobs.runs.schema import metadata_schema
from jobs.runs.status import _speed, array_specification, missing_elements, status_of
from jobs.runs.verify import verify
from jobs.shards.urls import Shard
from tests.support.made_runs import made_manifest, made_samples, made_shard

NAMES = ["gallery-000000", "gallery-000001", "query-000000"]


@pytest.fixture
def made(tmp_path: Path) -> Path:
    root = tmp_path / "RUN"
    manifest = made_manifest(root, NAMES)
    for number, name in enumerate(NAMES):
        made_shard(root, manifest, name, made_samples(40, 100 * number, seed=number), seed=number)
    return root


def invoke(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def test_finalize_sorts_all_rows_and_changes_none(made: Path) -> None:
    assert invoke("finalize", made) == (0, f"120 rows of 3 shards in {made}/metadata.parquet\n")
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
    assert finalize(open_run(made)) == 120  # again, over the first


def test_finalize_refuses_an_unfinished_run_and_lists_what_is_missing(made: Path) -> None:
    (made / "metadata" / f"{NAMES[1]}.parquet").unlink()
    code, said = invoke("finalize", made)
    assert code == 3 and NAMES[1] in said and "1 of 3 shards are not done" in said
    assert not (made / "metadata.parquet").exists()
    with pytest.raises(UserError, match="1 shards are not done, such as gallery-000001"):
        finalize(open_run(made))


def test_finalize_refuses_another_runs_shard(made: Path, tmp_path: Path) -> None:
    other = tmp_path / "OTHER"
    manifest = made_manifest(other, NAMES, ["gradcam/mim"])
    made_shard(other, manifest, NAMES[0], made_samples(3))
    (other / "metadata" / f"{NAMES[0]}.parquet").replace(made / "metadata" / f"{NAMES[0]}.parquet")
    code, said = invoke("finalize", made)
    assert code == 1 and "was made by another run" in said


def test_an_empty_shard_is_a_shard(tmp_path: Path) -> None:
    manifest = made_manifest(tmp_path, ["a", "b"])
    from jobs.runs.layout import RunLayout
    from jobs.runs.shard_output import ShardOutput

    assert ShardOutput(RunLayout(tmp_path), manifest, "a", 0.0).commit()[0]
    made_shard(tmp_path, manifest, "b", made_samples(4))
    assert finalize(open_run(tmp_path)) == 4 and verify(tmp_path).problems == []


def test_verify_names_every_kind_of_damage(made: Path) -> None:
    assert verify(made).exit_status == 0 and verify(made).intact == 3
    code, said = invoke("verify", made)
    assert code == 0 and "3 of 3 shards are intact, 120 rows" in said
    maps = made / "maps" / f"{NAMES[0]}.h5"
    whole = maps.read_bytes()
    for place in (2000, len(whole) // 2, len(whole) - 3):  # one bit anywhere
        maps.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert verify(made).problems == [
            f"{NAMES[0]}: {NAMES[0]}.h5 has other bytes than were written (SHA-256 differs)"
        ]
    maps.write_bytes(whole[:-1])
    assert "bytes" in verify(made).problems[0]
    maps.unlink()
    assert "is gone" in verify(made).problems[0]
    maps.write_bytes(whole)
    metadata = made / "metadata" / f"{NAMES[1]}.parquet"
    metadata.write_bytes(metadata.read_bytes()[:200])
    code, said = invoke("verify", made)
    assert code == 1 and f"damaged: {NAMES[1]}: unreadable" in said and "2 of 3 shards are intact" in said
    metadata.unlink()
    assert verify(made).exit_status == 3 and verify(made).missing == [NAMES[1]]


def test_verify_compares_keys(made: Path) -> None:
    """Metadata and maps that are each whole, but of different shards, are told by the hash; swapped keys by reading."""
    from jobs.atomic import sha256_of

    maps, metadata = made / "maps" / f"{NAMES[0]}.h5", made / "metadata" / f"{NAMES[0]}.parquet"
    with h5py.File(maps, "r+") as file:
        keys = file["key"][:]
        file["key"][:] = keys[::-1]
    table = pq.read_table(metadata)
    facts = {**table.schema.metadata, b"promptsg.h5_size": str(maps.stat().st_size).encode()}
    facts[b"promptsg.h5_sha256"] = sha256_of(maps).encode()
    pq.write_table(table.replace_schema_metadata(facts), metadata)
    assert verify(made).problems == [f"{NAMES[0]}: the keys of maps and metadata differ"]


def test_status_lists_what_failed_and_what_is_missing(made: Path) -> None:
    (made / "metadata" / f"{NAMES[2]}.parquet").unlink()
    (made / "logs" / "shards-x.jsonl").write_text(
        json.dumps({"time": 5.0, "shard": NAMES[2], "error": f"{NAMES[2]}: is not a whole tar"}) + "\n"
    )
    status = status_of(made)
    assert (status.done, list(status.failed), status.missing) == (2, [NAMES[2]], [])
    assert status.failed_images == {"image_corrupt": 8} and status.images == 72
    code, said = invoke("status", made, "--failed")
    lines = [line.split("\t") for line in said.splitlines()]
    assert code == 0 and len(lines) == 9 and lines[0][:3] == [NAMES[2], f"/nowhere/{NAMES[2]}.tar", "shard_failed"]
    assert lines[1][2:] == ["image_corrupt", "made up"] and "#k" in lines[1][1]
    assert invoke("status", made, "--missing") == (0, "2\n")
    assert invoke("status", made, "--missing", "--array-count", 2) == (0, "1\n")


def test_array_specifications() -> None:
    assert array_specification([]) == "" and array_specification([0, 1, 2, 5, 7, 8]) == "0-2,5,7-8"


def test_missing_elements_are_the_blocks_with_something_to_do(made: Path) -> None:
    manifest = open_run(made).manifest
    assert missing_elements(manifest, set(NAMES), 3) == []
    assert missing_elements(manifest, {NAMES[0]}, 3) == [1, 2]
    assert missing_elements(manifest, set(NAMES[1:]), 2) == [0]
    assert missing_elements(manifest, set(), 5) == [1, 3, 4]  # the others have no shard


def test_rate_and_time_left() -> None:
    done = [Shard(name=f"d{n}", url="", size=100) for n in range(4)]
    undone = [Shard(name="u", url="", size=200)]
    spent = {"seconds_reading": 1, "seconds_model": 8, "seconds_writing": 1}
    events = [{"time": 1010.0 + 10 * n, "shard": f"d{n}", "images": 50, "error": None, **spent} for n in range(4)]
    rate, left, idle = _speed(events, done, undone, now=1045.0)
    assert rate == pytest.approx(200 / 40) and left == pytest.approx(20) and idle == pytest.approx(5)
    assert _speed([], [], undone, now=0) == (None, None, None)
    rate, left, idle = _speed(events, done, undone, now=10.0)  # the clock has jumped back
    assert idle is None and rate is not None
    assert _speed([{**events[0], "images": 0}], done, undone, now=2000)[0] is None


def test_ten_thousand_shards_in_bounded_time_and_without_torch(tmp_path: Path) -> None:
    names = [f"s-{number:06d}" for number in range(10_000)]
    manifest = made_manifest(tmp_path, names)
    made_shard(tmp_path, manifest, names[0], made_samples(5))
    one = (tmp_path / "metadata" / f"{names[0]}.parquet").read_bytes()
    event = {"images": 5, "failed": {"x": 1}, "zero_maps": {}, "partial": {}, "error": None}
    spent = {"seconds_reading": 0, "seconds_model": 0, "seconds_writing": 0}
    with (tmp_path / "logs" / "shards-a.jsonl").open("w") as log:
        for number, name in enumerate(names[:9000]):
            (tmp_path / "metadata" / f"{name}.parquet").write_bytes(one)
            log.write(json.dumps({"time": float(number), "shard": name, **event, **spent}) + "\n")
    code = "import sys; from jobs.cli import main\ntry: main(sys.argv[1:])\nfinally: print('torch' in sys.modules)"
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, "status", str(tmp_path), "--json"], capture_output=True, text=True, check=True
    )
    print(f"status of 10,000 shards: {time.perf_counter() - began:.2f} s")
    said, _, torch = done.stdout.rstrip().rpartition("\n")
    assert torch == "False"
    content = json.loads(said)
    assert (content["done"], len(content["missing"]), content["images"]) == (9000, 1000, 45_000)


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
        "import resource, sys; from jobs.runs.finalize import finalize; from jobs.runs.run import open_run\n"
        "print(finalize(open_run(sys.argv[1])), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
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
