"""Who works on a run: the state of real processes, and of those that only their logs tell of."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from jobs.runs.events import event_log
from jobs.runs.presence.judge import WorkerStatus, workers_of
from jobs.runs.presence.presence import Presence
from jobs.runs.presence.process_mark import ProcessMark
from jobs.runs.presence.worker_lines import WorkerBegan, WorkerEnded, WorkerPlace

HOUR = 3600.0
ONE_OF_TWO = WorkerPlace(rank=1, ranks=2)
pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only Linux tells of processes in /proc")


def only(logs: Path, now: float | None = None) -> WorkerStatus:
    (found,) = workers_of(logs, time.time() if now is None else now)
    return found


def own_mark() -> ProcessMark:
    mark = ProcessMark.of_this_process()
    assert mark is not None
    return mark


def written(logs: Path, name: str, began: WorkerBegan, ended: WorkerEnded | None = None, *, age: float = 0.0) -> None:
    """An event log as a worker of any host leaves it, last touched `age` seconds ago."""
    path = logs / f"shards-{name}.jsonl"
    path.touch()
    lines = [replace(began, inode=began.inode or path.stat().st_ino), *([] if ended is None else [ended])]
    path.write_text("".join(json.dumps(asdict(line)) + "\n" for line in lines))
    touched = time.time() - age
    os.utime(path, (touched, touched))


def begun(mark: ProcessMark | None, *, ago: float = 5 * HOUR, place: WorkerPlace = ONE_OF_TWO) -> WorkerBegan:
    return WorkerBegan(host="node7", pid=4242, began=time.time() - ago, place=place, mark=mark)


def test_a_worker_runs_until_it_says_that_it_ended(tmp_path: Path) -> None:
    presence = Presence(tmp_path, ONE_OF_TWO)
    with presence:
        now = only(tmp_path)
        assert (now.state, now.pid, now.rank, now.ranks) == ("running", os.getpid(), 1, 2)
        assert now.because == "its process is on this machine"
        presence.how = "stopped on SIGTERM"
    ended = only(tmp_path)
    assert (ended.state, ended.because) == ("ended", "stopped on SIGTERM")
    assert abs(ended.last_sign - time.time()) < 60


def test_an_error_is_how_it_ended(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="full"), Presence(tmp_path, WorkerPlace()):
        raise ValueError("the disk is\nfull")
    assert only(tmp_path).because == "ended by an error: the disk is full"


def test_a_killed_process_has_died_even_while_nobody_collects_it(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from jobs.runs.presence.presence import Presence;"
        "from jobs.runs.presence.worker_lines import WorkerPlace;"
        "Presence(Path(sys.argv[1]), WorkerPlace()).__enter__(); print('begun', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None and worker.stdout.readline() == b"begun\n"
        assert only(tmp_path).state == "running"
        worker.send_signal(signal.SIGKILL)
        until = time.monotonic() + 30
        while only(tmp_path).state == "running" and time.monotonic() < until:  # it is a zombie then
            time.sleep(0.02)
        assert only(tmp_path).state == "died"
    assert (only(tmp_path).state, only(tmp_path).pid) == ("died", worker.pid)


def test_a_number_that_was_given_again_is_no_sign_of_life(tmp_path: Path) -> None:
    written(tmp_path, "a", begun(replace(own_mark(), start="1")))
    assert only(tmp_path).state == "died"


@pytest.mark.parametrize("change", [{"boot": "another"}, {"namespace": "pid:[1]"}])
def test_a_process_of_another_machine_is_never_said_to_have_died(tmp_path: Path, change: dict[str, str]) -> None:
    """Its number means another process here, or none; a host may have the name of another."""
    elsewhere = begun(replace(own_mark(), pid=2**22 - 1, **change))
    written(tmp_path, "a", elsewhere, age=20)
    assert (only(tmp_path).state, only(tmp_path).because) == ("running", "its log was touched 20 s ago")
    written(tmp_path, "a", elsewhere, age=3 * HOUR)
    assert only(tmp_path).state == "silent" and "cannot be looked at from here" in only(tmp_path).because
    assert abs(only(tmp_path).last_sign - (time.time() - 3 * HOUR)) < 60


def test_clocks_that_differ(tmp_path: Path) -> None:
    """A few minutes are usual. Where the log is of the far future, nothing can be said of the worker."""
    elsewhere = begun(None)
    written(tmp_path, "a", elsewhere, age=-240)
    assert only(tmp_path).state == "running"
    written(tmp_path, "a", elsewhere, age=-3 * HOUR)
    assert only(tmp_path).state == "silent" and "3 h 00 min ahead of this host's clock" in only(tmp_path).because


@pytest.mark.parametrize("mark", [None, "elsewhere", "alive"])
def test_nobody_is_said_to_run_in_a_copy_of_a_run(tmp_path: Path, mark: str | None) -> None:
    """A copy is of now, or has the time of what was copied: neither is a sign of life."""
    logs = tmp_path / "logs"
    logs.mkdir()
    own = own_mark()
    written(logs, "a", begun({"alive": own, "elsewhere": replace(own, boot="another")}.get(mark or "")))
    assert only(logs).state == "running"
    shutil.copytree(logs, tmp_path / "copy")
    now = time.time() + (HOUR if mark == "alive" else 0)
    assert (
        only(tmp_path / "copy", now).state == "silent"
        and "its log is a copy, or" in only(tmp_path / "copy", now).because
    )


def test_where_files_are_numbered_anew_the_process_itself_tells(tmp_path: Path) -> None:
    """As on sshfs: the inode that the worker saw is not the one that is seen later."""
    written(tmp_path, "a", replace(begun(own_mark()), inode=1))
    assert (only(tmp_path).state, only(tmp_path).because) == ("running", "its process is on this machine")
    written(tmp_path, "a", replace(begun(replace(own_mark(), start="1")), inode=1))
    assert only(tmp_path).state == "died"
    written(tmp_path, "a", replace(begun(own_mark()), inode=1), WorkerEnded(ended=time.time(), how="done"))
    assert (only(tmp_path).state, only(tmp_path).because) == ("ended", "done")


def test_who_begins_late_says_so_once_and_again_in_a_log_that_was_deleted(tmp_path: Path) -> None:
    presence = Presence(tmp_path, ONE_OF_TWO)
    with presence.once_begun():
        pass
    assert list(tmp_path.iterdir()) == []  # nothing was begun, so nothing is said
    with pytest.raises(ValueError, match="full"), presence.once_begun():
        presence.begin()
        presence.begin()
        assert only(tmp_path).state == "running" and len(event_log(tmp_path).read_text().splitlines()) == 1
        event_log(tmp_path).unlink()
        presence.begin()
        assert only(tmp_path).state == "running"
        raise ValueError("the disk is full")
    assert only(tmp_path).because == "ended by an error: the disk is full"


def test_work_that_another_took_over_is_not_told_of(tmp_path: Path) -> None:
    gone = replace(own_mark(), start="1")
    written(tmp_path, "old", begun(gone), age=4 * HOUR)
    written(tmp_path, "other", begun(gone, place=WorkerPlace(array_index=1, array_count=2)), age=4 * HOUR)
    written(tmp_path, "new", begun(own_mark(), ago=HOUR))
    states = {(one.array_index, one.state) for one in workers_of(tmp_path, time.time())}
    assert states == {(0, "running")}  # the array was split otherwise before, and 1 is of no element now
    written(tmp_path, "new", begun(own_mark(), ago=HOUR, place=WorkerPlace(array_index=0, array_count=2)))
    states = {(one.array_index, one.state) for one in workers_of(tmp_path, time.time())}
    assert states == {(0, "running"), (1, "died")}


def test_lines_of_earlier_versions_and_damaged_ones_tell_of_nobody(tmp_path: Path) -> None:
    event_log(tmp_path).write_text('{"time": 1.0, "shard": "a"}\n{"began": 3}\nnonsense "ended"\n')
    assert workers_of(tmp_path, time.time()) == []
