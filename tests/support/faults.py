"""Commands whose calls to the file system fail on request: a library for LD_PRELOAD and a process that forks each run.

The process imports the program once. Each run is a fork of it, so that thousands of runs take minutes.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

# The kinds of calls, in the order of faulty_files.c. `create` opens a file for writing, `open` for reading.
KINDS = ("write", "fsync", "sync_folder", "rename", "read", "close", "create", "open", "link", "mkdir", "unlink",
         "flock")  # fmt: skip

KILL = -1

SERVER = """
import ctypes, importlib, json, os, sys, time, traceback
library, imports, undrawn = sys.argv[1], sys.argv[2].split(","), sys.argv[3].split()
for name in imports:
    __import__(name)
for name in undrawn:
    module, _, function = name.rpartition(".")
    setattr(importlib.import_module(module), function, lambda *_: b"")
from jobs.cli import main
faulty = ctypes.CDLL(library)
faulty.faulty_count.restype = ctypes.c_long

def run(job):
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    for number in (1, 2):
        os.dup2(os.open(job["said"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), number)
    import tempfile
    tempfile.tempdir = job["scratch"]
    faulty.faulty_folder(job["folder"].encode())
    for kind, number, error, later in job["faults"]:
        faulty.faulty_set(kind, ctypes.c_long(number), error, later)
    status = 0
    try:
        main(job["words"])
    except SystemExit as end:
        status = end.code or 0
    except BaseException:
        traceback.print_exc()
        status = 1
    import threading
    sys.stdout.flush(); sys.stderr.flush()
    counts = [faulty.faulty_count(kind) for kind in range(job["kinds"])]
    faulty.faulty_folder(b"")
    with open(job["counts"], "w") as file:
        json.dump(counts, file)
    os._exit(status if isinstance(status, int) else 1)

for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if child == 0:
        os.setsid()
        run(job)
    deadline = time.monotonic() + job["seconds"]
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        if time.monotonic() > deadline:
            os.killpg(child, 9)
            os.waitpid(child, 0)
            status = None
            break
        time.sleep(0.002)
    print(json.dumps(None if status is None else os.waitstatus_to_exitcode(status)), flush=True)
"""


@dataclass(frozen=True)
class Fault:
    """The `number`-th call of a kind fails, from 1, with an error of the system; with `later` all after it, too.

    With the error KILL, the process is killed instead.
    """

    kind: str
    number: int
    error: int
    later: bool = False

    def __str__(self) -> str:
        return f"{self.kind} {self.number}{'+' if self.later else ''} {errno.errorcode.get(self.error, 'SIGKILL')}"


@dataclass(frozen=True)
class Outcome:
    """How a run ended, None where it hangs, what it printed, and how many calls of each kind it made."""

    status: int | None
    said: str
    counts: Mapping[str, int]


def build_library(folder: Path) -> Path:
    """Compiles the library. Skips the test where that cannot be done."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("needs Linux and a C compiler, for the library whose file operations fail")
    library = folder / "faulty_files.so"
    source = Path(__file__).with_name("faulty_files.c")
    made = subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"needs a C compiler with the C library's headers: {made.stderr.strip().splitlines()[-1]}")
    return library


class FaultyJobs:
    """Runs `promptsg` commands whose calls on files below `folder` can fail. Its temporary files are there, too."""

    def __init__(self, folder: Path, outside: Path, imports: Sequence[str], undrawn: Sequence[str] = ()) -> None:
        """`imports` are modules that the runs share; the functions `undrawn` of these give b"" instead of a picture."""
        self.folder = folder.resolve()
        self._outside = outside
        library = build_library(outside)
        self._server = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(library), ",".join(imports), " ".join(undrawn)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "LD_PRELOAD": str(library),
                "OMP_NUM_THREADS": "1",
                "OPENBLAS_NUM_THREADS": "1",
                "NUMBA_DISABLE_JIT": "1",
            },  # each run would compile anew, for a few rows
        )

    def run(
        self, words: Sequence[object], faults: Sequence[Fault] = (), *, below: str = "", seconds: float = 60
    ) -> Outcome:
        """Runs one command to its end. Its calls fail on files in the folder `below`, by default in all of `folder`."""
        said, counts, scratch = self._outside / "said", self._outside / "counts", self.folder / "scratch"
        for path in (said, counts):
            path.unlink(missing_ok=True)
        scratch.mkdir(parents=True, exist_ok=True)
        job = {
            "words": [str(word) for word in words],
            "folder": f"{self.folder / below}/",
            "said": str(said),
            "counts": str(counts),
            "scratch": str(scratch),
            "kinds": len(KINDS),
            "faults": [(KINDS.index(fault.kind), fault.number, fault.error, fault.later) for fault in faults],
            "seconds": seconds,
        }
        assert self._server.stdin and self._server.stdout
        self._server.stdin.write(json.dumps(job) + "\n")
        self._server.stdin.flush()
        status = json.loads(self._server.stdout.readline())
        found = json.loads(counts.read_text()) if counts.exists() else [0] * len(KINDS)
        return Outcome(status, said.read_text(errors="replace"), dict(zip(KINDS, found, strict=True)))

    def close(self) -> None:
        """Ends the process."""
        assert self._server.stdin
        self._server.stdin.close()
        self._server.wait(timeout=30)
