"""`status` on runs that are whole, growing and damaged, and the event log behind it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from jobs.runs.events import EventLog, ShardEvent, ShardReport, read_events
from jobs.runs.speed import Speed, speed_of
from jobs.runs.status import FailedInput, failed_inputs, status
from jobs.shards.urls import Shard
from tests.runs.conftest import NAMES, promptsg
from tests.support.made_runs import made_manifest, made_samples, made_shard


def test_status_lists_what_failed_and_what_is_missing(made: Path) -> None:
    (made / "metadata" / f"{NAMES[2]}.parquet").unlink()
    (made / "logs" / "shards-x.jsonl").write_text(
        json.dumps({"time": 5.0, "shard": NAMES[2], "error": f"{NAMES[2]}: is not a whole tar"}) + "\n"
    )
    found = status(made)
    assert (found.done, list(found.failed), found.missing) == (2, [NAMES[2]], [])
    assert found.failed_images == {"image_corrupt": 8} and found.images == 72
    entries = list(failed_inputs(found))
    assert len(entries) == 9 and entries[0] == FailedInput(
        shard=NAMES[2], input=f"/nowhere/{NAMES[2]}.tar", status="shard_failed", error=f"{NAMES[2]}: is not a whole tar"
    )
    code, said = promptsg("status", made, "--failed")
    lines = [line.split("\t") for line in said.splitlines()]
    assert code == 0 and len(lines) == 9 and lines[0][:3] == [NAMES[2], f"/nowhere/{NAMES[2]}.tar", "shard_failed"]
    assert lines[1][2:] == ["image_corrupt", "made up"] and "#k" in lines[1][1]
    assert promptsg("status", made, "--missing") == (0, "2\n")
    assert promptsg("status", made, "--missing", "--array-count", 2) == (0, "1\n")


def test_rate_and_time_left() -> None:
    done = [Shard(name=f"d{n}", url="", size=100) for n in range(4)]
    undone = [Shard(name="u", url="", size=200)]
    spent = {"seconds_reading": 1.0, "seconds_model": 8.0, "seconds_writing": 1.0}
    events = [ShardEvent(time=1010.0 + 10 * n, shard=f"d{n}", images=50, **spent) for n in range(4)]
    speed = speed_of(events, done, undone, now=1045.0)
    assert (speed.rate, speed.seconds_left, speed.idle) == pytest.approx((200 / 40, 20, 5))
    assert speed_of([], [], undone, now=0) == Speed()
    speed = speed_of(events, done, undone, now=10.0)  # the clock has jumped back
    assert speed.idle is None and speed.rate == pytest.approx(5)
    assert speed_of([replace(events[0], images=0)], done, undone, now=2000) == Speed()
    remote = [replace(undone[0], size=None), Shard(name="v", url="", size=None)]
    assert speed_of(events, done, remote, now=1045.0).seconds_left == pytest.approx(40 * 2 / 4)  # by number of shards
    late = [*events, ShardEvent(time=1e5, shard="u", images=7, **spent)]  # only the last half hour counts
    assert speed_of(late, done, undone, now=1e5).rate == pytest.approx(0.7)


def test_events_are_read_in_order_of_time_and_half_lines_are_skipped(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    report = ShardReport(shard="a", images=3, failed={"image_corrupt": 1}, seconds_model=2.5)
    began = time.time()
    log.shard(report)
    log.shard(ShardReport(shard="b", error="b: line one\u2028still line one"))
    log.close()
    (tmp_path / "shards-other-1.jsonl").write_bytes(
        b'{"time": 1.5, "shard": "c", "images": 2, "of_a_later_version": 1}\n'
        b'[]\n{"time": 2.5}\n{"shard": "d"}\n\xff\n{"time": 3.5, "shard": "e", "ima'
    )
    third, first, second = read_events(tmp_path)
    assert third == ShardEvent(time=1.5, shard="c", images=2)
    assert first == ShardEvent(time=first.time, **asdict(report)) and began <= first.time <= second.time
    assert second.error == "b: line one\u2028still line one"


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
    seconds = time.perf_counter() - began
    print(f"status of 10,000 shards: {seconds:.2f} s")
    assert seconds < 30
    said, _, torch = done.stdout.rstrip().rpartition("\n")
    assert torch == "False"
    content = json.loads(said)
    assert (content["done"], len(content["missing"]), content["images"]) == (9000, 1000, 45_000)
