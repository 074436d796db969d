"""Runs a command and says how long it was silent: the longest times between two outputs, and what it last said.

    python -m tests.support.silence [--log] [--seconds N] [--] promptsg stats RUN

It runs on a terminal of its own, or with --log into a pipe, as in a job. Whatever it writes counts, a redrawn bar too.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Sequence
from dataclasses import dataclass

_CONTROLS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@dataclass(frozen=True, kw_only=True)
class Silence:
    """So many seconds in which nothing was written, from `start` seconds after the command's start, and what was said
    last before.
    """

    seconds: float
    start: float
    after: str


@dataclass(frozen=True, kw_only=True)
class Heard:
    """What was heard of a command: its exit status, how long it took, its longest silence, and its lines a minute."""

    status: int
    seconds: float
    longest: Silence
    lines: int


def listen(command: Sequence[str], *, log: bool, seconds: float | None = None) -> Heard:
    """Runs a command to its end, or for so many seconds, and listens to it."""
    ours, theirs = os.pipe() if log else pty.openpty()
    if not log:
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    began = last = time.monotonic()
    longest = Silence(seconds=0.0, start=0.0, after="(its start)")
    said, lines = "(its start)", 0
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs) as program:
        os.close(theirs)
        while True:
            left = None if seconds is None else max(0.0, began + seconds - time.monotonic())
            part = b""
            if select.select([ours], [], [], left)[0]:
                with contextlib.suppress(OSError):  # how a terminal says that its other side is closed
                    part = os.read(ours, 65536)
            else:
                program.terminate()
            now = time.monotonic()
            if now - last > longest.seconds:
                longest = Silence(seconds=now - last, start=last - began, after=said)
            last = now
            if not part:
                break
            text = _CONTROLS.sub("", part.decode(errors="replace"))
            lines += text.count("\n")
            said = next((one.strip() for one in reversed(re.split(r"[\r\n]", text)) if one.strip()), said)
    os.close(ours)
    return Heard(status=program.returncode, seconds=time.monotonic() - began, longest=longest, lines=lines)


def main() -> None:
    """Prints one line: the longest silence, the whole time, and what was said before the silence."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--log", action="store_true", help="into a pipe, not on a terminal")
    parser.add_argument("--seconds", type=float, help="end the command after so many")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    heard = listen([word for word in options.command if word != "--"], log=options.log, seconds=options.seconds)
    silence = heard.longest
    print(
        f"silent for {silence.seconds:5.1f} s of {heard.seconds:6.1f} s, {heard.lines} lines, status {heard.status}; "
        f"at {silence.start:.1f} s, after: {silence.after[:90]}"
    )
    sys.exit(heard.status)


if __name__ == "__main__":
    main()
