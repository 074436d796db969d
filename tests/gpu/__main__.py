"""One command for a machine with a GPU: the `gpu` tests, the speed, the agreement with the CPU, within six minutes.

It needs a checkout, Python, torch and the packages of the project; those that the machine lacks are taken from a folder
of wheels. It needs no network. The folder --out gets results.json, anew after each figure, log.txt, profile.txt and
tests.xml.
"""

from __future__ import annotations

import argparse
import importlib
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.gpu.setting import WHEELS, Setting
from tests.gpu.wheels import install_wheels

SECONDS, SMALL_SECONDS = 335.0, 240.0


@dataclass(frozen=True, kw_only=True)
class Request:
    """What was asked for. `part` names the one part that this process is for; None: all, each in a process."""

    setting: Setting
    part: str | None
    only: tuple[str, ...]


def parse(words: Sequence[str] | None = None) -> Request:
    """The options. A folder for scratch files is made where none is given."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="Where the results go.")
    parser.add_argument("--device", default="cuda", help="cuda (default) or cuda:N; cpu tries the program itself.")
    parser.add_argument("--small", action="store_true", help="A tiny model and short times, to try the program.")
    parser.add_argument("--seconds", type=float, help=f"The time for everything.  [default: {SECONDS:.0f}]")
    parser.add_argument("--wheels", type=Path, metavar="DIR", help="Wheels of the packages that this machine lacks.  "
                        "[default: .whl in the checkout, if there]")  # fmt: skip
    parser.add_argument("--only", nargs="+", default=[], metavar="PART", help="Only these parts.")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args(words)
    setting = Setting(
        out=asked.out.absolute(),
        scratch=asked.scratch or Path(tempfile.mkdtemp(prefix="promptsg-gpu-")),
        device=asked.device,
        small=asked.small,
        wheels=asked.wheels or (WHEELS if WHEELS.is_dir() else None),
        ends=time.monotonic() + (asked.seconds or (SMALL_SECONDS if asked.small else SECONDS)),
    )
    return Request(setting=setting, part=asked.part, only=tuple(asked.only))


def main(words: Sequence[str] | None = None) -> int:
    """Runs the parts, or the one part that this process is for. 0 where all parts were done and no test failed."""
    request = parse(words)
    if request.part is not None:
        return _one_part(request.setting, request.part)
    try:
        return _all_parts(request)
    finally:
        shutil.rmtree(request.setting.scratch, ignore_errors=True)


def _one_part(setting: Setting, name: str) -> int:
    from tests.gpu.parts import Kept
    from tests.gpu.plan import part_called

    importlib.import_module(f"tests.gpu.{part_called(name).module}").measure(setting, Kept(setting, name))
    return 0


def _all_parts(request: Request) -> int:
    setting = request.setting
    setting.out.mkdir(parents=True, exist_ok=True)
    with (setting.out / "log.txt").open("w") as log:
        if setting.wheels is not None:
            said = install_wheels(setting.wheels, setting.scratch / "site")
            print(said, file=log)
            print(said)
        # Only now: these need packages that the wheels may have brought.
        from tests.gpu.in_short import in_short
        from tests.gpu.parts import Results, run_parts, say
        from tests.gpu.plan import PARTS

        results = Results(file=setting.out / "results.json")
        run_parts([part for part in PARTS if part.name in (request.only or {part.name})], setting, results, log)
        for line in in_short(results):
            say(log, line)
        return 0 if all(one.status == "done" for one in results.parts.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
