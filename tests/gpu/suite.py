"""The tests marked `gpu`, in a process of their own: how many passed, and what the others said."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from xml.etree import ElementTree

from tests.gpu.parts import Kept, environment
from tests.gpu.setting import Setting
from tests.support.imports import REPOSITORY

DEVICE = "PROMPTSG_GPU_TEST_DEVICE"  # the variable that names the device of the tests, see conftest.py
_SPARE_SECONDS = 8.0  # from the end of the tests to the end of the part
_MESSAGE = 600  # characters of what a failed test said
_LINE = re.compile(r"^(\S+::\S.*?) (PASSED|FAILED|SKIPPED|ERROR)\b", re.MULTILINE)  # of pytest -v


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A test that did not pass: `how` is failed, error or skipped, and `said` what it says of it."""

    test: str
    how: str
    said: str


@dataclass(frozen=True, kw_only=True)
class TestResults:
    """How many tests passed, and all others."""

    __test__ = False  # it is no test, whatever its name begins with

    passed: int
    others: tuple[Outcome, ...]


def measure(setting: Setting, kept: Kept) -> None:
    """Keeps the TestResults, or, where the time was over, what was done by then. Raises where a test failed."""
    xml, said = setting.out / "tests.xml", setting.scratch / "tests.txt"
    words = [sys.executable, "-m", "pytest", "-o", "addopts=", "-v", "-m", "gpu", "--strict-markers", "--tb=short"]
    words += ["-p", "no:cacheprovider", f"--junitxml={xml}", "tests/gpu"]
    with said.open("w") as out:
        process = subprocess.Popen(words, cwd=REPOSITORY, env={**environment(), DEVICE: setting.device}, stdout=out,
                                   stderr=out)  # fmt: skip
    try:
        status = process.wait(timeout=max(5.0, setting.seconds_left - _SPARE_SECONDS))
    except subprocess.TimeoutExpired:
        status = _interrupted(process)
    print(said.read_text(errors="replace"))
    if xml.exists():
        kept.put({"status": status, **asdict(read_results(xml))})
    else:
        lines = Counter(how for _, how in _LINE.findall(said.read_text(errors="replace")))
        kept.put({"status": status, "counts": dict(lines)})
    if status:
        raise SystemExit(1)


def _interrupted(process: subprocess.Popen[bytes]) -> int:
    """Ends the tests as Ctrl-C does, after which pytest still writes what it knows; the exit status."""
    process.send_signal(signal.SIGINT)
    try:
        return process.wait(timeout=_SPARE_SECONDS / 2)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def read_results(xml: Path) -> TestResults:
    """What a JUnit file of pytest says."""
    passed, others = 0, list[Outcome]()
    for case in ElementTree.parse(xml).iter("testcase"):
        found = next((child for child in case if child.tag in ("failure", "error", "skipped")), None)
        if found is None:
            passed += 1
            continue
        words = f"{found.get('message') or ''}\n{found.text or ''}".strip()
        name = f"{case.get('classname')}::{case.get('name')}"
        how = {"failure": "failed"}.get(found.tag, found.tag)
        others.append(Outcome(test=name, how=how, said=words[:_MESSAGE] if how == "skipped" else words[-_MESSAGE:]))
    return TestResults(passed=passed, others=tuple(others))
