"""The commit protocol with real processes, real locks and a real full disk."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobs.atomic import StagedFile, publish_together, sha256_of, write_once, write_whole
from jobs.leftovers import remove_leftovers

HOLD = """
import sys, time
from pathlib import Path
from jobs.atomic import StagedFile
staged = StagedFile(Path(sys.argv[1]))
staged.file.write(b"half")
staged.file.flush()
print("ready", flush=True)
time.sleep(60)
"""


def hold(final: Path) -> subprocess.Popen[str]:
    """A process that is in the middle of writing `final`."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(final)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_nothing_is_seen_before_it_is_published(tmp_path: Path) -> None:
    final = tmp_path / "a.h5"
    with StagedFile(final) as staged:
        staged.file.write(b"content")
        assert not final.exists()
        staged.sync()
        staged.publish()
    assert final.read_bytes() == b"content" and names(tmp_path) == ["a.h5"]


def test_what_is_not_published_is_removed(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), StagedFile(tmp_path / "a.h5") as staged:
        staged.file.write(b"content")
        raise RuntimeError
    assert names(tmp_path) == []


def test_the_first_of_two_attempts_wins_and_halves_never_mix(tmp_path: Path) -> None:
    first, last, lock = tmp_path / "s.h5", tmp_path / "s.parquet", tmp_path / ".lock"
    for attempt in (b"one", b"two"):
        with StagedFile(first) as a, StagedFile(last) as b:
            for staged in (a, b):
                staged.file.write(attempt)
                staged.sync()
            assert publish_together(a, b, lock) == (attempt == b"one")
    assert (first.read_bytes(), last.read_bytes()) == (b"one", b"one")
    assert names(tmp_path) == [".lock", "s.h5", "s.parquet"]


def test_a_file_without_its_commit_is_replaced(tmp_path: Path) -> None:
    first, last = tmp_path / "s.h5", tmp_path / "s.parquet"
    first.write_bytes(b"of an attempt that died between the two")
    with StagedFile(first) as a, StagedFile(last) as b:
        for staged in (a, b):
            staged.file.write(b"new")
            staged.sync()
        assert publish_together(a, b, tmp_path / ".lock")
    assert first.read_bytes() == b"new"


def test_leftovers_of_the_dead_are_removed_and_files_of_the_living_are_not(tmp_path: Path) -> None:
    dead, living = hold(tmp_path / "dead.h5"), hold(tmp_path / "living.h5")
    try:
        dead.send_signal(signal.SIGKILL)
        dead.wait()
        removed = remove_leftovers(tmp_path)
        assert [p.name.split(".")[1] for p in removed] == ["dead"]
        assert [n.split(".")[1] for n in names(tmp_path)] == ["living"]
    finally:
        living.kill()
        living.wait()
    assert len(remove_leftovers(tmp_path)) == 1 and names(tmp_path) == []


def test_write_once_has_one_winner_among_many_at_once(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from jobs.atomic import write_once;"
        "time.sleep(max(0, float(sys.argv[2]) - time.time()));"
        "print(write_once(Path(sys.argv[1]), sys.argv[3].encode()))"
    )
    start = str(time.time() + 1.5)
    final = tmp_path / "run.json"
    workers = [
        subprocess.Popen([sys.executable, "-c", code, str(final), start, str(i)], stdout=subprocess.PIPE, text=True)
        for i in range(6)
    ]
    won = [process.communicate()[0].strip() == "True" for process in workers]
    assert sum(won) == 1
    assert final.read_text() == str(won.index(True)) and names(tmp_path) == ["run.json"]


def test_write_whole_replaces(tmp_path: Path) -> None:
    final = tmp_path / "a.json"
    write_whole(final, b"1")
    write_whole(final, b"2")
    assert final.read_bytes() == b"2"
    assert not write_once(final, b"3") and final.read_bytes() == b"2"


def test_long_and_odd_names_leave_room_for_the_attempt(tmp_path: Path) -> None:
    final = tmp_path / ("ü" * 120 + ".h5")  # 243 bytes
    write_whole(final, b"x")
    assert names(tmp_path) == [final.name]


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_file_size_limit_is_an_oserror_and_leaves_nothing(tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys; from pathlib import Path; from jobs.atomic import write_whole;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000));"
        "write_whole(Path(sys.argv[1]), b'x' * 5000)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], capture_output=True, text=True)
    assert "File too large" in done.stderr and names(tmp_path) == []
