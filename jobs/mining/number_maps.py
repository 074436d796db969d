"""JSON files that map numbers to numbers: pids to classes, cameras to rows (no torch)."""

from __future__ import annotations

import json
import re
from pathlib import Path
from reprlib import repr as shortened

from jobs.errors import UserError
from jobs.phrases import one_line

_NUMBER = re.compile(r"-?[0-9]{1,18}")  # ASCII digits, and no more than an int64 holds


def read_label_map(path: Path) -> dict[int, int]:
    """pid -> class of a JSON object such as {"2": 0, "7": 1}. Raises UserError naming the file and the entry."""
    return _read(path, "label map", "pid", "class", "pids to classes")


def read_camera_map(path: Path) -> dict[int, int]:
    """camid -> row of a JSON object such as {"0": 2, "1": 0}. Raises UserError naming the file and the entry."""
    return _read(path, "camera map", "camera", "row", "cameras to rows")


def _read(path: Path, what: str, key: str, value: str, both: str) -> dict[int, int]:
    found: dict[int, int] = {}
    for name, number in _entries(path, what, both):
        if not _NUMBER.fullmatch(name) or type(number) is not int or number < 0:
            entry = f"{shortened(name)}: {shortened(number)}"
            raise UserError(f"the {what} {path} has the entry {entry}; expected a {key} and a {value} number")
        if found.setdefault(int(name), number) != number:
            plural = f"{value}es" if value == "class" else f"{value}s"
            raise UserError(f"the {what} {path} gives {key} {int(name)} two {plural}, {found[int(name)]} and {number}")
    if not found:
        raise UserError(f"the {what} {path} names no {key}")
    return found


def _entries(path: Path, what: str, both: str) -> list[tuple[str, object]]:
    """The entries of the JSON object in a file, in their order, those of equal names too."""
    pairs: list[list[tuple[str, object]]] = []

    def note(entries: list[tuple[str, object]]) -> dict[str, object]:
        pairs.append(entries)
        return dict(entries)

    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=note)
    except OSError as error:
        raise UserError(f"cannot read the {what} {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"the {what} {path} is not JSON: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise UserError(f'the {what} {path} is not an object of {both}, such as {{"2": 0}}')
    return pairs[-1]  # the outermost object ends last
