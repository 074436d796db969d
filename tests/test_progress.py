"""What long tasks say: nothing where they are short, sparse lines in a log, a bar on a terminal."""

from __future__ import annotations

import ast
import fcntl
import io
import logging
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time

import pytest

import jobs.progress
from jobs.logs import bars_are_shown
from jobs.progress import LongTask, told, tracked
from tests.support.imports import modules_below, tree_of


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Lines come after milliseconds in place of seconds."""
    for name in ("_FIRST_LINE_SECONDS", "INTERVAL_SECONDS"):
        monkeypatch.setattr(jobs.progress, name, 0.01)
    monkeypatch.setattr(jobs.progress, "_BETWEEN_SECONDS", 0.0)
    monkeypatch.setattr(jobs.progress, "_between", jobs.progress._Between())
    caplog.set_level(logging.INFO)
    return caplog


def wait_for(caplog: pytest.LogCaptureFixture, count: int = 1) -> list[str]:
    until = time.monotonic() + 30
    while len(caplog.messages) < count and time.monotonic() < until:
        time.sleep(0.005)
    return caplog.messages


def test_what_is_short_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with LongTask("hashing", total=3, unit="file") as task:
        task.advance(3)
    assert list(tracked([1, 2], "reading", "row")) == [1, 2] and told("adding")(max)(3, 4) == 4
    assert caplog.messages == []


def test_what_lasts_says_what_it_is_while_it_lasts(quick: pytest.LogCaptureFixture) -> None:
    with LongTask("hashing m.pth"):
        assert wait_for(quick, 2)[:2] == ["hashing m.pth, 0 s so far"] * 2
    said = len(quick.messages)
    time.sleep(0.05)
    assert len(quick.messages) == said  # nothing after its end


def test_how_far_it_is(quick: pytest.LogCaptureFixture) -> None:
    with LongTask("ranking", 4000, "query", "queries") as task:
        task.advance(1000)
        assert wait_for(quick)[-1] == "ranking: 1,000 of 4,000 queries, 0 s left"


def test_what_may_stop_all_threads_says_it_before(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with LongTask("loading torch", at_once=True):
        assert caplog.messages == ["loading torch"]
    assert caplog.messages == ["loading torch"]


def test_tasks_within_tasks_share_the_lines_of_a_minute(
    quick: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs.progress, "_BETWEEN_SECONDS", 100.0)
    with LongTask("outer"):
        wait_for(quick)
        with LongTask("inner"):
            time.sleep(0.05)
    assert quick.messages == ["outer, 0 s so far"]


def test_items_are_counted_as_they_are_done(quick: pytest.LogCaptureFixture) -> None:
    for item in tracked(["a", "b", "c"], "drawing", "image"):
        if item == "b":
            quick.clear()
            assert wait_for(quick)[-1].startswith("drawing: 1 of 3 images")


@pytest.mark.parametrize("label", ["", "rank 1/4"])
def test_a_bar_on_a_terminal_goes_and_lines_stay(label: str) -> None:
    """A rank shares its terminal with others: it writes lines, which say whose they are."""
    code = (
        "import logging, sys, time; import jobs.progress as p; from jobs.logs import setup_logging\n"
        "p._FIRST_BAR_SECONDS = p._FIRST_LINE_SECONDS = 0.05; p._BAR_SECONDS = 0.05\n"
        "setup_logging(sys.argv[1])\n"
        "with p.LongTask('sorting', 4, 'row') as task:\n"
        "    task.advance(); time.sleep(0.5); logging.info('an event'); time.sleep(0.3)\n"
    )
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    with subprocess.Popen([sys.executable, "-c", code, label], stderr=theirs) as program:
        os.close(theirs)
        text = read_all(ours)
    assert program.returncode == 0
    if label:
        assert "[rank 1/4] sorting: 1 of 4 rows" in text and "[rank 1/4] an event\r\n" in text
    else:
        assert "\rsorting: 1 of 4 rows" in text and " an event\r\n" in text
        assert text.endswith("\r") and not text.split("\r")[-2].strip()  # the bar was wiped at the end


def read_all(terminal: int) -> str:
    """All that is written to a terminal until its other side is closed."""
    content = b""
    while select.select([terminal], [], [], 60)[0]:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # how Linux says that the other side is closed
            break
        if not part:
            break
        content += part
    os.close(terminal)
    return content.decode()


class Console:
    """The standard error of some services and of the consoles of editors: text can be written, and that is all."""

    def write(self, text: str) -> int:
        return len(text)


@pytest.mark.parametrize("kind", ["none", "console", "closed"])
def test_without_a_usual_standard_error_there_are_no_bars(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", {"none": None, "console": Console(), "closed": closed}[kind])
    assert not bars_are_shown()
    with LongTask("reading") as task:
        task.advance()


def only_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def test_no_task_stands_where_nothing_runs() -> None:
    found = [
        f"{module}, line {inner.lineno}"
        for module, path in modules_below().items()
        for node in ast.walk(tree_of(path))
        if only_for_types(node)
        for inner in ast.walk(node)
        if isinstance(inner, (ast.With, ast.Call))
    ]
    assert found == []
