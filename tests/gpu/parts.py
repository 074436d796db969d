"""The parts of the check, one after the other: each in a process of its own, what it finds kept as it goes.

A process of its own, since an error of a GPU leaves a process unusable, and since what hangs can be ended. A part that
is ended, or that raises, has lost only what it had not kept yet, and the next part follows.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TextIO

from jobs.atomic import write_whole
from tests.gpu.setting import Setting
from tests.support.imports import REPOSITORY

_LOOK_SECONDS = 0.5
_LAST_WORDS = 2000  # characters of what a part that failed has said
END_SECONDS = 5.0  # kept for the end: the short table


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of the check: `tests.gpu.<module>.measure` does it.

    It is begun where `least` seconds are left, and ended after `most`.
    """

    name: str
    module: str
    least: float
    most: float


@dataclass(kw_only=True)
class PartResult:
    """What became of a part. `status` is "running", "done", "skipped", "failed" or "out of time"; `found` is what it
    has kept so far, `said` the end of what it said if it failed.
    """

    status: str
    seconds: float = 0.0
    found: object = None
    said: str = ""


@dataclass(kw_only=True)
class Results:
    """The results of all parts, by name, in a file that is written anew with each change."""

    file: Path
    parts: dict[str, PartResult] = field(default_factory=dict)

    def put(self, name: str, result: PartResult) -> None:
        """Keeps what is known of a part, and writes the file."""
        self.parts[name] = result
        content = {part: asdict(one) for part, one in self.parts.items()}
        write_whole(self.file, (json.dumps(content, indent=1) + "\n").encode())


class Kept:
    """Where a part keeps what it has found so far, for the process that watches it."""

    def __init__(self, setting: Setting, name: str) -> None:
        self.file = setting.scratch / f"part-{name}.json"

    def put(self, found: object) -> None:
        """Keeps plain JSON values, in the place of what was kept before."""
        write_whole(self.file, json.dumps(found).encode())

    def read(self) -> object:
        """What is kept; None where nothing is."""
        return json.loads(self.file.read_bytes()) if self.file.exists() else None


def run_parts(parts: Sequence[Part], setting: Setting, results: Results, log: TextIO) -> None:
    """Runs the parts in order. One for which the time does not suffice is skipped, and the next one follows."""
    for part in parts:
        left = setting.seconds_left - END_SECONDS
        if left < part.least:
            say(log, f"== {part.name}: skipped, {max(0.0, left):.0f} s are left and it needs {part.least:.0f} s")
            results.put(part.name, PartResult(status="skipped", said=f"{max(0.0, left):.0f} s were left"))
            continue
        say(log, f"== {part.name}")
        result = _run_part(part, setting, results, most_seconds(part, setting))
        log.write(result.said)
        if result.status != "done":
            say(log, f"{part.name}: {result.status}\n{result.said[-_LAST_WORDS:]}")
        result.said = "" if result.status == "done" else result.said[-_LAST_WORDS:]
        results.put(part.name, result)
        say(log, f"   {part.name} took {result.seconds:.1f} s")


def _run_part(part: Part, setting: Setting, results: Results, most: float) -> PartResult:
    kept, said = Kept(setting, part.name), setting.scratch / f"part-{part.name}.txt"
    began = time.monotonic()
    # Into a file and not a pipe: a process that outlives a killed parent would hold a pipe open.
    with said.open("w") as out:
        process = subprocess.Popen(
            command_of(part, setting), cwd=REPOSITORY, env=environment(), stdout=out, stderr=out, start_new_session=True
        )
    known: object = None
    while (status := process.poll()) is None and time.monotonic() - began < most:
        time.sleep(_LOOK_SECONDS)
        if (now := kept.read()) != known:
            known = now
            results.put(part.name, PartResult(status="running", seconds=_since(began), found=now))
    if status is None:
        end_group(process)
    words = "out of time" if status is None else "done" if status == 0 else "failed"
    return PartResult(status=words, seconds=_since(began), found=kept.read(), said=said.read_text(errors="replace"))


def most_seconds(part: Part, setting: Setting) -> float:
    """After how long a part is ended. On a CPU that only tries the program, when all the time is over."""
    left = setting.seconds_left - END_SECONDS
    return min(part.most, left) if setting.on_gpu else left


def command_of(part: Part, setting: Setting) -> list[str]:
    """The command that does one part in a process of its own."""
    left = most_seconds(part, setting)
    words = [sys.executable, "-m", "tests.gpu", "--out", str(setting.out), "--device", setting.device]
    words += ["--part", part.name, "--scratch", str(setting.scratch), "--seconds", f"{left:.1f}"]
    return [*words, "--small"] if setting.small else words


def environment() -> dict[str, str]:
    """The environment of processes that are started: what this one imports from, they do too."""
    path = os.pathsep.join(dict.fromkeys([str(REPOSITORY), *(entry for entry in sys.path if entry)]))
    return {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


def end_group(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to a process that leads a group, and to all of its group."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        process.kill()
    process.wait()


def _since(began: float) -> float:
    return round(time.monotonic() - began, 1)


def say(log: TextIO, words: str) -> None:
    """A line to the log and to the terminal."""
    log.write(words + "\n")
    log.flush()
    print(words, flush=True)
