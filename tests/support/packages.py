"""The packages of the repository: which module belongs to which."""

from __future__ import annotations

from tests.support.imports import REPOSITORY

LIBRARIES = ("cam", "promptsg_core")
ROOT = "root of jobs"
DOOR = "jobs"  # its __init__: what `from jobs import ...` hands out
PACKAGES = tuple(sorted(path.parent.name for path in (REPOSITORY / "jobs").glob("*/__init__.py")))
_COMMAND_LINE = ("cli", "__main__")


def package_of(module: str) -> str:
    """The package of a module by its dotted name: a folder of jobs, or `DOOR`, `ROOT`, or one of `LIBRARIES`."""
    package, _, rest = module.partition(".")
    if package in LIBRARIES:
        return package
    first = rest.partition(".")[0]
    if first in _COMMAND_LINE:
        return "commands"
    if first in PACKAGES:
        return first
    return ROOT if first else DOOR
