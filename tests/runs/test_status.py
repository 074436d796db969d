"""`status` on runs that are whole, growing and damaged, and the event log behind it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.errors import UserError
from jobs.runs.events import EventLog, ShardEvent, ShardReport, read_events
from jobs.runs.footer import read_facts, read_footer
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


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def overwrite_rows(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:40] + bytes(2000) + data[2040:])


def test_the_facts_of_a_footer_are_read_without_the_rest(made: Path, tmp_path: Path) -> None:
    for path in (made / "metadata").iterdir():
        assert read_facts(path) == read_footer(path) and read_facts(path).rows == pq.read_metadata(path).num_rows
    # Names and counts that take two bytes for their length, and a writer that puts others before or between ours.
    facts = replace(read_footer(path), shard="s" * 190, failed={"x" * 300: 2}, rows=0).as_metadata()
    for order in (sorted(facts), sorted(facts, reverse=True), ["other", *facts]):
        pq.write_table(pa.table({"a": [1]}).replace_schema_metadata({"other": "o" * 99} | facts | {
            name: facts.get(name, "o") for name in order}), tmp_path / "x.parquet")  # fmt: skip
        found = read_facts(tmp_path / "x.parquet")
        assert replace(found, rows=0) == replace(read_footer(tmp_path / "x.parquet"), rows=0)
        assert found.failed == {"x" * 300: 2}


def test_a_footer_without_facts_or_cut_is_damaged(made: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(UserError, match=r"x\.parquet is damaged \(its footer has no images\); delete it"):
        read_facts(path)
    whole = (made / "metadata" / f"{NAMES[0]}.parquet").read_bytes()
    for length in (0, 5, 100, len(whole) - 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"x\.parquet is damaged"):
            read_facts(path)


def test_a_shard_whose_metadata_is_cut_is_named_and_the_others_are_shown(made: Path) -> None:
    """Also where the event log knows what the shard once had: its rows are gone all the same."""
    damaged = made / "metadata" / f"{NAMES[1]}.parquet"
    cut(damaged)
    log = EventLog(made / "logs")
    log.shard(ShardReport(shard=NAMES[0], images=36, failed={"image_corrupt": 4}))
    for known in (False, True):
        if known:
            log.shard(ShardReport(shard=NAMES[1], images=36, failed={"image_corrupt": 4}))
        found = status(made)
        assert list(found.damaged) == [NAMES[1]] and found.done == 3
        assert found.images == 72 and found.failed_images == {"image_corrupt": 8}
        code, said = promptsg("status", made)
        (line,) = [line for line in said.splitlines() if str(damaged) in line]
        assert code == 1 and line.startswith(f"damaged: {damaged} is damaged (")
        assert line.endswith("delete it and run the same `promptsg mine` again") and "72 images with maps" in said
        code, said = promptsg("status", made, "--json")
        assert code == 1 and str(damaged) in json.loads(said)["damaged"][NAMES[1]]
    log.close()
    assert promptsg("status", made, "--missing")[0] == 1


@pytest.mark.parametrize("damage", [cut, overwrite_rows, lambda path: path.write_bytes(b"")])
def test_failed_images_of_the_other_shards_are_listed(made: Path, damage: Callable[[Path], None]) -> None:
    damaged = made / "metadata" / f"{NAMES[1]}.parquet"
    damage(damaged)
    code, said = promptsg("status", made, "--failed")
    lines = [line.split("\t") for line in said.splitlines()]
    assert code == 1 and [line[0] for line in lines] == [NAMES[0]] * 4 + [NAMES[1]] + [NAMES[2]] * 4
    assert lines[4][1:3] == [f"/nowhere/{NAMES[1]}.tar", "metadata_damaged"]
    assert str(damaged) in lines[4][3] and "delete it and run" in lines[4][3]


@pytest.mark.parametrize("damage", [cut, overwrite_rows, lambda path: path.write_bytes(b"")])
def test_every_command_names_the_damaged_file_in_one_line(made: Path, damage: Callable[[Path], None]) -> None:
    damaged = made / "metadata" / f"{NAMES[1]}.parquet"
    damage(damaged)
    for words in (["stats"], ["stats", "--where", "pid > 0"], ["render", "--dry-run"], ["finalize"],
                  ["evaluate", "--query-where", "camid = 0", "--gallery-where", "camid > 0"],
                  ["gallery", "--output", made / "page"]):  # fmt: skip
        code, said = promptsg(words[0], made, *words[1:])
        assert code == 1 and len(said.splitlines()) == 1, said
        assert str(damaged) in said and "delete it and run the same `promptsg mine` again" in said, (words, said)


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
            (tmp_path / "metadata" / f"{name}.parquet").write_bytes(one.replace(names[0].encode(), name.encode()))
            if number:
                (tmp_path / "maps" / f"{name}.h5").hardlink_to(tmp_path / "maps" / f"{names[0]}.h5")
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
