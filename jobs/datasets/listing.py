"""The images of a data set as every layout lists them, and what layouts share in finding them (no torch)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from jobs.datasets.keys import base_key
from jobs.datasets.names import ParsedKey
from jobs.errors import UserError
from jobs.identity import Who, who_is
from jobs.image_names import OTHER_IMAGE_SUFFIXES, is_hidden_clutter, is_image
from jobs.phrases import first_few, shown

_SHOWN = 8


@dataclass(frozen=True, kw_only=True)
class Record:
    """One image of a data set: `path` as it will be opened, `split`, and what its name says.

    `stated` is who is on it where the layout knows better than the default of jobs/identity.py. `prefix` is what the
    key has in front of the base name where base names repeat, such as `cam1/0001/`.
    """

    path: Path
    split: str
    parsed: ParsedKey
    stated: Who | None = None
    prefix: str = ""

    @property
    def key(self) -> str:
        """The sample's key, as WebDataset reads it from the member's name."""
        return self.prefix + base_key(self.path)

    @property
    def who(self) -> Who:
        """The image's role and identity. Equal identities are the same person in every split."""
        return self.stated or who_is(self.parsed.pid, self.key)


@dataclass(kw_only=True)
class Listing:
    """The images of a data set, and what was found and is not packed.

    `ignored` are files that are no images, `unread` images of formats that are not read, `unfit` images whose place or
    name does not fit the layout, `links_out` links to images outside the data set's folder, and `missing` files that
    are listed, or linked to, and do not exist.
    """

    dataset: str
    records: list[Record] = field(default_factory=list)
    ignored: list[Path] = field(default_factory=list)
    unread: list[Path] = field(default_factory=list)
    unfit: list[Path] = field(default_factory=list)
    links_out: list[Path] = field(default_factory=list)
    missing: list[Path] = field(default_factory=list)

    def add_stray(self, path: Path) -> None:
        """Counts a file that is not an image that can be read."""
        is_other = path.suffix.lower() in OTHER_IMAGE_SUFFIXES and not is_hidden_clutter(path)
        (self.unread if is_other else self.ignored).append(path)

    def add_listed(self, record: Record, where: str) -> None:
        """Adds an image that a list names, or counts it where it is none.

        Raises UserError, saying `where` it is listed, for a file that is not an image that can be read.
        """
        if is_hidden_clutter(record.path):
            self.ignored.append(record.path)
        elif not is_image(record.path):
            suffix = shown(record.path.suffix) or "no suffix"
            raise UserError(f"{where}: {shown(record.path)} is no image that is read here ({suffix})")
        elif record.path.is_file():
            self.records.append(record)
        else:
            self.missing.append(record.path)


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
