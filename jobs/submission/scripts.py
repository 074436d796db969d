"""The batch scripts, filled in from templates. Nothing is written or submitted here."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from jobs.errors import UserError
from jobs.runs.layout import RunLayout
from jobs.submission.options import ArrayOptions, SbatchOptions

ADD_MAPS = "--add-maps"
_BLANK = re.compile(r"@([A-Z_]+)@")


@dataclass(frozen=True, kw_only=True)
class JobPlace:
    """Where the jobs run: the run, the folder that relative paths in the configuration start from, the programs."""

    layout: RunLayout
    folder: Path
    programs: Path

    @property
    def scripts(self) -> Path:
        """The scripts as they were submitted, and the configuration that they name."""
        return scripts_folder(self.layout)

    @property
    def drain(self) -> Path:
        """RUN/drain: a file here asks the element with its name to stop."""
        return self.layout.root / "drain"


def scripts_folder(layout: RunLayout) -> Path:
    """RUN/slurm: what `promptsg submit` wrote."""
    return layout.root / "slurm"


def array_script(
    options: ArrayOptions, tasks: int, place: JobPlace, *, extend: bool = False, add_maps: Sequence[str] = ()
) -> str:
    """The batch script of an array of `tasks` elements, which may `extend` the run, or add maps to it.

    Raises UserError if a value cannot stand in a script.
    """
    launch = "promptsg"
    if options.gpus_per_task > 1:
        # --no-python: `python -m` would look for the program in the working folder first.
        launch = f"torchrun --standalone --nproc-per-node={options.gpus_per_task} --no-python promptsg"
    limit = "" if options.max_running is None else f"%{options.max_running}"
    return _filled(
        "array.sbatch",
        {
            "ARRAY": f"0-{tasks - 1}{limit}",
            "ARRAY_COUNT": str(tasks),
            "LOG": _log(place, "%A_%a.out"),
            "DRAIN_SECONDS": str(options.drain_seconds),
            "OPTIONS": _directives(options.for_array),
            "BIN": shlex.quote(str(place.programs)),
            "FOLDER": shlex.quote(str(place.folder)),
            "DRAIN": shlex.quote(str(place.drain)),
            "CONFIG": shlex.quote(str(place.scripts / "config.yaml")),
            "GROWTH": _growth_words(extend, add_maps),
            "LAUNCH": launch,
            "MAX_REQUEUES": str(options.max_requeues),
        },
    )


def _growth_words(extend: bool, add_maps: Sequence[str]) -> str:
    """The options that let a run grow, with a space in front."""
    words = [*(["--extend"] if extend else []), *(f"{ADD_MAPS} {shlex.quote(name)}" for name in add_maps)]
    return "".join(f" {word}" for word in words)


def finalize_script(options: ArrayOptions, place: JobPlace) -> str:
    """The batch script of the job after the array. Raises UserError if a value cannot stand in a script."""
    return _filled(
        "finalize.sbatch",
        {
            "LOG": _log(place, "finalize_%j.out"),
            "OPTIONS": _directives(options.for_finalize),
            "BIN": shlex.quote(str(place.programs)),
            "FOLDER": shlex.quote(str(place.folder)),
            "RUN": shlex.quote(str(place.layout.root)),
        },
    )


def directive(value: str) -> str:
    r"""A value for an #SBATCH line. In double quotes sbatch reads `\` as an escape and expands nothing.

    Raises UserError if the value has a line break or another control character, which would end the line.
    """
    if any(ord(char) < 32 or ord(char) == 127 for char in value):
        raise UserError(f"{value!r} has a control character, which an #SBATCH line cannot hold")
    if re.fullmatch(r"[\w@%+=:,./\[\]*-]+", value, flags=re.ASCII):
        return value
    return '"' + re.sub(r'(["\\])', r"\\\1", value) + '"'


def _filled(template: str, values: Mapping[str, str]) -> str:
    """A template of the slurm folder with its @BLANKS@ filled in. A value that looks like a blank stays as it is."""
    text = files("slurm").joinpath(template).read_text(encoding="utf-8")
    return _BLANK.sub(lambda match: values[match[1]], text)


def _log(place: JobPlace, name: str) -> str:
    folder = str(place.layout.logs)
    if "\\" in folder:  # sbatch takes it as "expand nothing in this name"
        raise UserError(f"the run's folder {place.layout.root} has a backslash, which sbatch --output cannot take")
    return directive(f"{folder.replace('%', '%%')}/{name}")


def _directives(options: SbatchOptions) -> str:
    lines = [f"#SBATCH --{name}" + ("" if value is None else f"={directive(value)}") for name, value in options.items()]
    return "\n".join(lines) or "# (no further options)"
