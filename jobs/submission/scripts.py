"""The batch scripts of `promptsg submit`, filled in from templates: nothing is written or submitted here (no torch)."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from jobs.errors import UserError
from jobs.runs.layout import RunLayout

_BLANK = re.compile(r"@([A-Z_]+)@")
_OPTION_NAME = re.compile(r"[a-z][a-z0-9-]*")
# What the batch script decides itself; its trap, its log and its blocks rest on them.
_OURS = (
    "array",
    "chdir",
    "dependency",
    "nodes",
    "ntasks",
    "open-mode",
    "output",
    "parsable",
    "requeue",
    "signal",
    "wrap",
)


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to ask SLURM for. `options` and `finalize_options` are sbatch's own, name to value (None: a bare flag)."""

    array_tasks: int
    max_running: int | None
    gpus_per_task: int
    max_requeues: int
    drain_seconds: int
    options: Mapping[str, str | None]
    finalize_options: Mapping[str, str | None]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the jobs run: the run, the folder that the configuration's relative paths are meant in, the programs."""

    layout: RunLayout
    folder: Path
    programs: Path

    @property
    def scripts(self) -> Path:
        """RUN/slurm: the scripts as they were submitted, and the configuration that they name."""
        return self.layout.root / "slurm"

    @property
    def drain(self) -> Path:
        """RUN/drain: a file here asks the element of its name to stop."""
        return self.layout.root / "drain"


def array_script(request: Request, tasks: int, place: Place) -> str:
    """The batch script of an element (pure)."""
    launch = "promptsg"
    if request.gpus_per_task > 1:
        # --no-python: `python -m` would look for the program in the working folder first.
        launch = f"torchrun --standalone --nproc-per-node={request.gpus_per_task} --no-python promptsg"
    limit = f"%{request.max_running}" if request.max_running is not None else ""
    return _filled(
        "array.sbatch",
        {
            "ARRAY": f"0-{tasks - 1}{limit}",
            "ARRAY_COUNT": str(tasks),
            "LOG": _log(place, "%A_%a.out"),
            "DRAIN_SECONDS": str(request.drain_seconds),
            "OPTIONS": _directives(request.options),
            "BIN": shlex.quote(str(place.programs)),
            "FOLDER": shlex.quote(str(place.folder)),
            "DRAIN": shlex.quote(str(place.drain)),
            "CONFIG": shlex.quote(str(place.scripts / "config.yaml")),
            "LAUNCH": launch,
            "MAX_REQUEUES": str(request.max_requeues),
        },
    )


def finalize_script(request: Request, place: Place) -> str:
    """The batch script of the job after the array (pure)."""
    return _filled(
        "finalize.sbatch",
        {
            "LOG": _log(place, "finalize_%j.out"),
            "OPTIONS": _directives(request.finalize_options),
            "BIN": shlex.quote(str(place.programs)),
            "FOLDER": shlex.quote(str(place.folder)),
            "RUN": shlex.quote(str(place.layout.root)),
        },
    )


def directive(value: str) -> str:
    r"""A value as sbatch itself reads #SBATCH lines: in double quotes, where `\` escapes and nothing is expanded.

    Raises UserError on a line break or another control character, which would end the line.
    """
    if any(ord(char) < 32 or ord(char) == 127 for char in value):
        raise UserError(f"{value!r} has a control character, which no #SBATCH line can hold")
    if re.fullmatch(r"[\w@%+=:,./\[\]*-]+", value, flags=re.ASCII):
        return value
    return '"' + re.sub(r'(["\\])', r"\\\1", value) + '"'


def sbatch_options(flag: str, words: Sequence[str]) -> dict[str, str | None]:
    """`K=V` or a bare `K`, as given to `flag` -> option of sbatch to its value, None for a bare one.

    Raises UserError on what is no long option, and on those that the batch script decides itself.
    """
    found: dict[str, str | None] = {}
    for word in words:
        name, equals, value = word.partition("=")
        name = name.removeprefix("--")
        if _OPTION_NAME.fullmatch(name) is None:
            raise UserError(f"{flag} {word!r} is not an option of sbatch: give its long name, such as {flag} mem=64G")
        if name in _OURS:
            raise UserError(f"{flag} {name} is what the batch script decides itself; see `promptsg submit --help`")
        found[name] = value if equals else None
    return found


def _filled(template: str, values: Mapping[str, str]) -> str:
    """A template of the slurm folder, its @BLANKS@ filled in one pass: what is filled in is not looked at again."""
    return _BLANK.sub(lambda match: values[match[1]], files("slurm").joinpath(template).read_text(encoding="utf-8"))


def _log(place: Place, name: str) -> str:
    folder = str(place.layout.logs)
    if "\\" in folder:  # sbatch takes it as "expand nothing in this name"
        raise UserError(f"the run's folder {place.layout.root} has a backslash, which sbatch --output cannot take")
    return directive(f"{folder.replace('%', '%%')}/{name}")


def _directives(options: Mapping[str, str | None]) -> str:
    lines = [f"#SBATCH --{name}" + ("" if value is None else f"={directive(value)}") for name, value in options.items()]
    return "\n".join(lines) or "# (no further options)"
