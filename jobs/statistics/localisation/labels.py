"""The names of a mask's labels: which of them are the background, and which are the same part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cam.names import column_of
from jobs.errors import UserError
from jobs.reading import read_json
from jobs.tables import csv_rows
from jobs.text_files import read_text

BACKGROUND, PERSON = "background", "person"
MOST = 255
_WHAT, _REMEDY = "names of labels", "give a JSON list or object, a CSV with the columns label,name, or a name a line"


@dataclass(frozen=True)
class LabelNames:
    """Part names by label, as they stand in names of columns; empty where no table was given.

    Labels of one name are one part. A label called `background` is not on the person; one called `person` is, and has
    no part of its own. Any other label that has no name is the part `label_N`.
    """

    names: Mapping[int, str] = field(default_factory=dict)

    def part_of(self, label: int) -> str:
        """The part of a label, or BACKGROUND or PERSON. Label 0 is the background."""
        return self.names.get(label, f"label_{label}" if label else BACKGROUND)

    def is_unnamed(self, label: int) -> bool:
        """Whether there is a table that lacks the label."""
        return bool(self.names) and label != 0 and label not in self.names


def read_label_names(path: Path | None) -> LabelNames:
    """The names in a JSON list or object, in a CSV file with the columns label and name, or one a line from label 0.

    Raises UserError naming the file where it is none of these, a label is not from 0 to 255, or 0 is no background.
    """
    if path is None:
        return LabelNames()
    names = {label: column_of(name.strip()) for label, name in _entries(path)}
    if any(not 0 <= label <= MOST for label in names):
        raise UserError(f"{path}: labels are from 0 to {MOST}, and it names {max(names, key=abs)}")
    if names.get(0, BACKGROUND) != BACKGROUND:
        raise UserError(f"{path} calls label 0 {names[0]!r}, but it is the background: begin with {BACKGROUND}")
    if not set(names.values()) - {BACKGROUND}:
        raise UserError(f"{path} names no part of a person; {_REMEDY}")
    return LabelNames(names)


def _entries(path: Path) -> list[tuple[int, str]]:
    """(label, name) in the order of the file."""
    suffix, pairs = path.suffix.lower(), list[tuple[object, object]]()
    if suffix == ".json":
        content = read_json(path, _WHAT, _REMEDY)
        if isinstance(content, (list, dict)):
            pairs = list(enumerate(content) if isinstance(content, list) else content.items())
    elif suffix == ".csv":
        rows = csv_rows(read_text(path).splitlines(keepends=True))
        pairs = [(row.get("label"), row.get("name")) for row in rows]
    else:
        pairs = list(enumerate(line for line in read_text(path).splitlines() if line.strip()))
    return [_entry(path, label, name) for label, name in pairs]


def _entry(path: Path, label: object, name: object) -> tuple[int, str]:
    if not isinstance(name, str) or not name.strip() or not str(label).strip().isdecimal():
        raise UserError(f"{path}: {label!r}, {name!r} is not a label with a name; {_REMEDY}")
    return int(str(label)), name
