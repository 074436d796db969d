"""Requests to stop: from signals and from a file, and how much time is left for the current shard."""

from __future__ import annotations

import os
import signal
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


def test_a_known_deadline_counts_instead_of_the_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.time, "time", lambda: 5000.0)
    with Drain(deadline=5100.0) as drain:
        os.kill(os.getpid(), signal.SIGTERM)
        assert drain.requested == "SIGTERM"
        assert drain.allows(84) and not drain.allows(86)  # 15 s are kept back
