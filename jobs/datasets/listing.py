"""The images of a data set as every layout lists them, and what layouts share in finding them (no torch)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from jobs.datasets.names import ParsedKey
from jobs.errors import UserError
from jobs.phrases import first_few

_SHOWN = 8


@dataclass(frozen=True, kw_only=True)
class Record:
    """One image of a data set: `path` as it will be opened, `split`, and what its name says."""

    path: Path
    split: str
    parsed: ParsedKey

    @property
    def key(self) -> str:
        """The sample's key: the base name without its suffix. WebDataset ends a key at the first dot."""
        return self.path.stem.replace(".", "_")


@dataclass(kw_only=True)
class Listing:
    """The images of a data set, the files that are none of them, and the listed files that do not exist."""

    dataset: str
    records: list[Record] = field(default_factory=list)
    ignored: list[Path] = field(default_factory=list)
    missing: list[Path] = field(default_factory=list)


def path_below(root: Path, relative: str, where: str) -> Path:
    """`root / relative`. Raises UserError, saying `where` the path was read, if it leads out of `root`."""
    parts = PurePosixPath(relative)
    if not relative or parts.is_absolute() or ".." in parts.parts:
        raise UserError(f"{where}: the path {relative!r} leads out of {root}")
    return root / relative


def names_in(folder: Path) -> str:
    """The first names in a folder, for messages."""
    return first_few((path.name for path in sorted(folder.iterdir())), _SHOWN) or "nothing in it"


def require_folder(source: Path) -> None:
    """Raises UserError if the folder of a data set does not exist."""
    if not source.is_dir():
        raise UserError(f"the dataset folder {source} does not exist")
