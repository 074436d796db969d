"""Requests to stop: from signals and from a file, and how much time is left for the current shard."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobs.launch import drain as module
from jobs.launch.drain import Drain


def test_sigterm_asks_to_stop_within_its_grace_and_the_handler_is_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Drain() as drain:
        assert drain.requested is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert drain.requested == "SIGTERM"
        assert drain.allows(15) and not drain.allows(21) and not drain.allows(None)
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_second_ctrl_c_interrupts_at_once() -> None:
    with Drain(deadline=time.time() + 9999) as drain:
        os.kill(os.getpid(), signal.SIGINT)
        assert drain.requested == "SIGINT"
        assert drain.allows(2) and not drain.allows(4)  # whoever presses the keys waits, whatever the job's limit
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)  # never slept to its end


def test_a_file_asks_to_stop_and_is_looked_for_once_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    drain = Drain(tmp_path / "drain")
    assert drain.requested is None
    (tmp_path / "drain").touch()
    clock[0] += 0.5
    assert drain.requested is None
    clock[0] += 0.6
    assert drain.requested == "a drain request"
    assert drain.allows(119) and not drain.allows(121)
    clock[0] += 100
    assert drain.allows(19) and not drain.allows(21)


@pytest.mark.parametrize(("deadline", "allowed"), [(5020.0, 5), (5034.0, 19), (5100.0, 20), (99_999.0, 20)])
def test_of_grace_and_deadline_the_smaller_counts(
    monkeypatch: pytest.MonkeyPatch, deadline: float, allowed: float
) -> None:
    monkeypatch.setattr(module.time, "time", lambda: 5000.0)
    with Drain(deadline=deadline) as drain:
        os.kill(os.getpid(), signal.SIGTERM)
        assert drain.requested == "SIGTERM"
        assert drain.allows(allowed - 1) and not drain.allows(allowed + 1)  # 15 s of the deadline are kept back


def test_a_file_leaves_all_the_time_until_a_known_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.time, "time", lambda: 5000.0)
    (tmp_path / "drain").touch()
    drain = Drain(tmp_path / "drain", deadline=9000.0)
    assert drain.requested == "a drain request"
    assert drain.allows(3984) and not drain.allows(3986)


def test_the_word_in_the_file_stands_for_the_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The batch script writes it: USR2 asked for the end by the time limit, and then the job is preempted."""
    clock = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    drain = Drain(tmp_path / "drain", deadline=time.time() + 9999)
    (tmp_path / "drain").touch()
    assert drain.requested == "a drain request" and drain.allows(5000)
    (tmp_path / "drain").write_text("SIGTERM\n")
    clock[0] += 1.1
    assert drain.requested == "SIGTERM" and drain.allows(19) and not drain.allows(21)
    clock[0] += 10
    (tmp_path / "drain").write_text("SIGTERM\nSIGTERM\n")  # a second word is no new grace
    assert drain.requested == "SIGTERM" and drain.allows(9) and not drain.allows(11)


def test_sigterm_after_the_file_shortens_the_time(tmp_path: Path) -> None:
    (tmp_path / "drain").touch()
    with Drain(tmp_path / "drain") as drain:
        assert drain.requested == "a drain request" and drain.allows(100)
        os.kill(os.getpid(), signal.SIGTERM)
        assert drain.requested == "SIGTERM" and not drain.allows(21)


STUCK = """
import os, signal, threading
from jobs.launch import drain
drain._PATIENCE_SECONDS = {"SIGTERM": 0.3}
with drain.Drain():
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(60)
"""


def test_a_process_that_is_stuck_ends_with_75_and_says_so() -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", STUCK], capture_output=True, text=True, env=environment, timeout=30)
    assert done.returncode == 75
    assert done.stderr.startswith("promptsg: stopped on SIGTERM without finishing: ") and done.stderr.count("\n") == 1
